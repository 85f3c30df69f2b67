#!/usr/bin/env python3
"""Our training step against PyTorch's on the CPU: the same model, weights, batches, threads, in one run.

    tests/bench/peers/torch_cpu.py [--json] [--rounds 3] [-- flags of bench_train]

First bench_train saves its weights and batches; both sides train on them, and every loss must agree. Then both are timed
in turns, and the ratio of the medians is printed (above 1: ours is faster). PyTorch runs the best eager form that 1.13
has for this model: fused q/k/v and gate/up products, tokens sorted by expert, foreach AdamW. Needs python3-torch.
"""
import argparse
import json
import math
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]


def read_safetensors(path):
    import torch
    types = {"F32": torch.float32, "I64": torch.int64}
    raw = bytearray(path.read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length].decode())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > begin:
            tensors[name] = torch.frombuffer(raw, dtype=types[entry["dtype"]], offset=begin,
                                             count=math.prod(entry["shape"])).reshape(entry["shape"]).clone()
    return tensors


def make_model(geometry, weights):
    import torch
    from torch import nn
    from torch.nn import functional as F

    eps, heads, kv_heads, size = geometry["rms_eps"], geometry["heads"], geometry["kv_heads"], geometry["head_dim"]
    batch, sequence, top_k = geometry["batch"], geometry["sequence"], geometry["top_k"]
    shared = geometry["shared_expert_width"] > 0

    def parameter(*names):
        return nn.Parameter(torch.cat([weights[name] for name in names]))

    def norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight

    def swiglu(x, gate_up, down):
        gate, up = F.linear(x, gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, down)

    frequency = geometry["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.arange(sequence, dtype=torch.float64)[:, None] * frequency
    cos, sin = (f(angle).repeat(1, 2).float()[None, :, None, :] for f in (torch.cos, torch.sin))
    mask = torch.full((sequence, sequence), -math.inf).triu(1)

    def rotate(x):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    class Layer(nn.Module):
        def __init__(self, number):
            super().__init__()
            prefix = f"model.layers.{number}."
            self.norm1 = parameter(prefix + "input_layernorm.weight")
            self.norm2 = parameter(prefix + "post_attention_layernorm.weight")
            self.qkv = parameter(*(prefix + f"self_attn.{p}_proj.weight" for p in "qkv"))
            self.o = parameter(prefix + "self_attn.o_proj.weight")
            self.router = parameter(prefix + "mlp.gate.weight")
            expert = prefix + "mlp.experts.{}.{}_proj.weight"
            numbers = range(geometry["experts"])
            self.gate_up = nn.ParameterList(parameter(expert.format(e, "gate"), expert.format(e, "up")) for e in numbers)
            self.down = nn.ParameterList(parameter(expert.format(e, "down")) for e in numbers)
            if shared:
                one = prefix + "mlp.shared_experts.{}_proj.weight"
                self.shared_gate_up = parameter(one.format("gate"), one.format("up"))
                self.shared_down = parameter(one.format("down"))

        def attention(self, x):
            q, k, v = F.linear(x, self.qkv).split([heads * size, kv_heads * size, kv_heads * size], dim=-1)
            q = rotate(q.view(batch, sequence, heads, size)).transpose(1, 2)
            k = rotate(k.view(batch, sequence, kv_heads, size)).transpose(1, 2)
            v = v.view(batch, sequence, kv_heads, size).transpose(1, 2)
            if kv_heads != heads:
                k, v = (a.repeat_interleave(heads // kv_heads, dim=1) for a in (k, v))
            q, k, v = (a.reshape(batch * heads, sequence, size) for a in (q, k, v))
            scores = torch.baddbmm(mask.expand(batch * heads, -1, -1), q, k.transpose(1, 2), alpha=size ** -0.5)
            out = torch.bmm(scores.softmax(-1), v)
            out = out.view(batch, heads, sequence, size).transpose(1, 2).reshape(batch * sequence, heads * size)
            return F.linear(out, self.o)

        def experts(self, x):
            scores = torch.sigmoid(F.linear(x, self.router))
            gates, chosen = scores.topk(top_k, dim=-1)
            gates = gates / gates.sum(-1, keepdim=True)
            order = chosen.view(-1).argsort()
            counts = torch.bincount(chosen.view(-1), minlength=geometry["experts"]).tolist()
            rows = x.index_select(0, order // top_k).split(counts)
            outs = [swiglu(r, g, d) for r, g, d in zip(rows, self.gate_up, self.down) if len(r)]
            weighted = torch.cat(outs) * gates.view(-1).index_select(0, order)[:, None]
            y = torch.zeros_like(x).index_add_(0, order // top_k, weighted)
            return y + swiglu(x, self.shared_gate_up, self.shared_down) if shared else y

        def forward(self, x):
            x = x + self.attention(norm(x, self.norm1))
            return x + self.experts(norm(x, self.norm2))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = parameter("model.embed_tokens.weight")
            self.layers = nn.ModuleList(Layer(number) for number in range(geometry["layers"]))
            self.norm = parameter("model.norm.weight")
            self.head = parameter("lm_head.weight")

        def forward(self, tokens, targets):
            x = F.embedding(tokens.view(-1), self.embedding)
            for layer in self.layers:
                x = layer(x)
            return F.cross_entropy(F.linear(norm(x, self.norm), self.head), targets.view(-1))

    return Model()


class Torch:
    """The same training run in PyTorch, one step at a time."""

    def __init__(self, folder, geometry, threads):
        import torch
        torch.set_num_threads(threads)
        self.torch, self.geometry = torch, geometry
        self.batches = read_safetensors(folder / "batches.safetensors")
        self.model = make_model(geometry, read_safetensors(folder / "rank-00000-of-00001.safetensors"))
        self.parameters = list(self.model.parameters())
        groups = [{"params": [p for p in self.parameters if p.dim() > 1], "weight_decay": 0.1},
                  {"params": [p for p in self.parameters if p.dim() == 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=geometry["learning_rate"], betas=(0.9, 0.95), eps=1e-8, foreach=True)
        self.next = 0

    def step(self):
        """Returns (loss, seconds, CPU seconds of all threads)."""
        torch, number = self.torch, self.next % len(self.batches["tokens"])
        self.next += 1
        tokens, targets = self.batches["tokens"][number], self.batches["targets"][number]
        start, cpu_start = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.model(tokens, targets)
        loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).norm().item()
        if norm > self.geometry["clip_norm"]:
            torch._foreach_mul_(gradients, self.geometry["clip_norm"] / norm)
        self.optimizer.step()
        return loss.item(), time.perf_counter() - start, time.process_time() - cpu_start


def run_ours(binary, flags, threads, extra=()):
    command = [str(binary), *flags, "--threads", str(threads), "--json", *extra]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare_losses(ours, theirs):
    """The first losses agree to fp32; later ones drift by what rounding does to a training run."""
    worst = 0.0
    for step, (a, b) in enumerate(zip(ours, theirs)):
        worst = max(worst, abs(a - b) / abs(b))
        allowed = 1e-5 if step == 0 else 2e-3
        if abs(a - b) > allowed * abs(b):
            sys.exit(f"torch_cpu: the losses differ at step {step}: ours {a:.7f}, PyTorch {b:.7f}; nothing was timed")
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/release/bin/bench_train")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is measured, in turns")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("flags", nargs="*", help="flags of bench_train: the geometry, --steps")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        saved = pathlib.Path(folder) / "weights"
        first = run_ours(args.bench, args.flags, args.threads, ("--save", str(saved)))
        geometry = first["geometry"]
        theirs = Torch(saved, geometry, args.threads)
        difference = compare_losses(first["losses"], [theirs.step()[0] for _ in first["losses"]])  # and warms up
        ours_seconds, their_seconds, shares, cpu_ratios = [], [], [], []
        for _ in range(args.rounds):
            ours = run_ours(args.bench, args.flags, args.threads)
            ours_seconds.append(ours["step_seconds"]["median"])
            shares.append(ours["sgemm_share"])
            steps = [theirs.step() for _ in range(geometry["steps"])]
            their_seconds.append(statistics.median(step[1] for step in steps))
            cpu_ratios.append(statistics.mean(step[2] for step in steps) / ours["cpu_seconds_per_step"])
    tokens = geometry["batch"] * geometry["sequence"]
    ours_median, their_median = statistics.median(ours_seconds), statistics.median(their_seconds)
    result = {
        "torch": theirs.torch.__version__, "threads": args.threads, "geometry": geometry,
        "loss_difference": difference,
        "ours_tokens_per_second": tokens / ours_median, "torch_tokens_per_second": tokens / their_median,
        "ratio": their_median / ours_median,
        "ratios": [b / a for a, b in zip(ours_seconds, their_seconds)],
        "cpu_ratio": statistics.median(cpu_ratios),
        "sgemm_share": statistics.median(shares), "sgemm_gflops": ours["sgemm_gflops"], "phase_seconds": ours["phase_seconds"],
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        print(f"{args.threads} threads: ours {result['ours_tokens_per_second']:.0f} tokens/s ({100 * result['sgemm_share']:.1f}% of sgemm), "
              f"PyTorch {result['torch']} {result['torch_tokens_per_second']:.0f} tokens/s: ratio {result['ratio']:.2f} "
              f"(rounds {', '.join(f'{r:.2f}' for r in result['ratios'])}; by CPU time {result['cpu_ratio']:.2f}); losses agree to {difference:.1e}")


if __name__ == "__main__":
    main()
