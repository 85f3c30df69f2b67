#!/usr/bin/env python3
"""Compares Espalier with transformers on tiny random models of OLMoE, Qwen3-MoE, Mixtral and Glm4Moe, over the checkpoint alone.

    tests/gpu/transformers_check.py --binary build/release/bin/hf_check [--device cpu|cuda] [--only NAME…] [--keep FOLDER]

For each model: transformers saves it; hf_check imports it, and its logits must be transformers' own; both make ten AdamW steps on the
same batches, and their losses must agree; hf_check prunes two experts a layer and exports; AutoModelForCausalLM loads the export as it
is, nothing missing and nothing unexpected, and gives hf_check's logits. Needs torch and transformers 5, no network. Prints a table and
exits with 1 when a figure is at or above its limit.
"""
import argparse
import copy
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch  # noqa: E402
import transformers  # noqa: E402

VOCABULARY, WIDTH, LAYERS, EXPERTS, TOP_K = 320, 64, 3, 8, 2
STEPS, DROPPED = 10, 2
OPTIMIZER = {"learning_rate": 2e-3, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
ROPE = {"rope_type": "default", "rope_theta": 20000.0}


def common(**more):
    return {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_experts_per_tok": TOP_K, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
            "rope_parameters": dict(ROPE), "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 2,
            "attention_dropout": 0.0, **more}


def olmoe(**more):
    return transformers.OlmoeConfig(**common(num_experts=EXPERTS, intermediate_size=48, norm_topk_prob=False, **more))


def qwen3_moe(**more):
    return transformers.Qwen3MoeConfig(**common(**{
        "num_experts": EXPERTS, "moe_intermediate_size": 48, "intermediate_size": 96, "head_dim": 24, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [], **more}))


def mixtral(**more):
    return transformers.MixtralConfig(**common(num_local_experts=EXPERTS, intermediate_size=48, sliding_window=None, **more))


def glm4_moe(**more):
    rope = {**ROPE, "partial_rotary_factor": 1.0}
    return transformers.Glm4MoeConfig(**{**common(
        n_routed_experts=EXPERTS, moe_intermediate_size=48, intermediate_size=96, n_shared_experts=1, first_k_dense_replace=1,
        n_group=1, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.3, head_dim=16, use_qk_norm=True,
        partial_rotary_factor=1.0), "rope_parameters": rope, **more})


# name, configuration, how it is saved
CASES = [
    ("olmoe", olmoe, {}),
    ("olmoe bf16 shards", olmoe, {"dtype": torch.bfloat16, "max_shard_size": "100KB"}),
    ("olmoe fused", olmoe, {"save_original_format": False}),
    ("qwen3_moe", qwen3_moe, {}),
    ("qwen3_moe tied dense", lambda: qwen3_moe(tie_word_embeddings=True, mlp_only_layers=[0], norm_topk_prob=False), {}),
    ("qwen3_moe fp16", qwen3_moe, {"dtype": torch.float16}),
    ("mixtral", mixtral, {}),
    ("mixtral fused", mixtral, {"save_original_format": False}),
    ("glm4_moe", glm4_moe, {}),
    ("glm4_moe no norm", lambda: glm4_moe(use_qk_norm=False, first_k_dense_replace=0), {}),
]


def plain(model):
    """The straightforward implementations: what is compared is the function, not a kernel."""
    for name in ("set_attn_implementation", "set_experts_implementation"):
        if hasattr(model, name):
            try:
                getattr(model, name)("eager")
            except (ValueError, NotImplementedError) as error:
                print(f"  ({name}: {error})", file=sys.stderr)
    return model


def random_model(config, seed):
    """Every parameter drawn, norms and selection biases too, so that none may be mixed up with another."""
    generator = torch.Generator().manual_seed(seed)
    model = plain(transformers.AutoModelForCausalLM.from_config(config).float())
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else noise / parameter.shape[-1] ** 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.05 * torch.randn(buffer.shape, generator=generator))
    return model


def save(model, folder, dtype=None, **how):
    """False where this version of transformers has no such way."""
    model = copy.deepcopy(model).to(dtype) if dtype is not None else model
    if dtype is not None:
        model.config.dtype = dtype
    if "save_original_format" in how and not hasattr(transformers, "conversion_mapping"):
        try:
            importlib.import_module("transformers.conversion_mapping")
        except ImportError:
            return False
    model.save_pretrained(folder, **how)
    return True


def load(folder):
    """As anyone would, and whole."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    info = info if isinstance(info, dict) else vars(info)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info.get(kind), f"{folder}: {kind}: {info[kind]}"
    assert not info.get("error_msgs"), info["error_msgs"]
    return plain(model).eval()


def logits_of(model, sequences):
    """[all tokens, vocabulary], each row about its mean: what log-probabilities tell of logits."""
    with torch.no_grad():
        rows = torch.cat([model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double() for ids in sequences])
    return rows - rows.mean(dim=-1, keepdim=True)


def centred(logps):
    rows = torch.tensor(logps, dtype=torch.float64)
    return rows - rows.mean(dim=-1, keepdim=True)


def relative(got, want):
    return (torch.linalg.norm(got - want) / torch.linalg.norm(want)).item()


def train(model, batches):
    """Losses before each update, by torch's AdamW with decay on matrices alone."""
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": OPTIMIZER["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}],
        lr=OPTIMIZER["learning_rate"], betas=(OPTIMIZER["beta1"], OPTIMIZER["beta2"]), eps=OPTIMIZER["epsilon"])
    losses = []
    for batch in batches:
        ids = torch.tensor(batch)
        logits = model(input_ids=ids, use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        # As a fused tensor of experts has them: no token, gradient zero.
        for parameter in model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        losses.append(loss.item())
    return losses


def draw_tokens(seed):
    generator = torch.Generator().manual_seed(seed)

    def ids(*shape):
        return torch.randint(3, VOCABULARY, shape, generator=generator).tolist()
    # Half of each batch repeats, so that there is something to learn.
    same = ids(4, 24)
    return {"sequences": [ids(17), ids(1), ids(40)], "batches": [same + ids(4, 24) for _ in range(STEPS)]}


def run_check(args, folder, tokens, export):
    tokens_file, out = folder.parent / "tokens.json", folder.parent / "result.json"
    tokens_file.write_text(json.dumps(tokens))
    command = [str(args.binary), "--model", str(folder), "--tokens", str(tokens_file), "--out", str(out), "--device", args.device,
               "--steps", str(STEPS), "--drop", str(DROPPED), "--export", str(export)]
    for name, value in OPTIMIZER.items():
        command += ["--" + name.replace("_", "-"), repr(value)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"hf_check: {done.stderr.strip() or done.returncode}")
    return json.loads(out.read_text())


def check(args, name, make, how, seed):
    """Figures of one case by name; None where this version of transformers cannot make it."""
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(args.keep) / name.replace(" ", "_") if args.keep else pathlib.Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        saved, export = root / "saved", root / "export"
        if not save(random_model(make(), seed), saved, **how):
            return None
        tokens = draw_tokens(seed)
        ours = run_check(args, saved, tokens, export)
        # What lies on disk, so that rounding to bf16 is on both sides.
        theirs = load(saved)
        figures = {"logits": relative(centred(ours["logps"]), logits_of(theirs, tokens["sequences"]))}
        losses = train(theirs, tokens["batches"])
        assert losses[-1] < losses[0], f"transformers itself learned nothing: {losses}"
        assert len(ours["losses"]) == STEPS
        figures["losses"] = max(abs(a - b) for a, b in zip(ours["losses"], losses))
        alive = [len(layer) for layer in ours["experts"] if layer]
        assert alive and all(count == EXPERTS - DROPPED for count in alive), f"experts after pruning: {alive}"
        exported = load(export)
        assert exported.config.model_type == theirs.config.model_type
        figures["export"] = relative(centred(ours["final_logps"]), logits_of(exported, tokens["sequences"]))
        return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=pathlib.Path, required=True, help="hf_check")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where hf_check computes; transformers takes the CPU")
    parser.add_argument("--only", nargs="*", help="cases by name")
    parser.add_argument("--keep", help="folder that the checkpoints are left in")
    parser.add_argument("--limit", type=float, default=1e-4, help="of every figure")
    args = parser.parse_args()
    torch.set_num_threads(min(8, os.cpu_count() or 1))
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, hf_check on {args.device}, limit {args.limit:g}")
    print(f"{'model':24}{'logits (rel.)':>16}{'10 losses (abs.)':>18}{'pruned export':>16}")
    failed = ran = 0
    for seed, (name, make, how) in enumerate(CASES, start=1):
        if args.only and name not in args.only:
            continue
        try:
            figures = check(args, name, make, how, seed)
        except Exception as error:  # one case must not hide the others
            print(f"{name:24}  FAILED: {type(error).__name__}: {error}")
            failed += 1
            continue
        if figures is None:
            print(f"{name:24}  left out: this transformers saves in no such way")
            continue
        ran += 1
        bad = [key for key, value in figures.items() if not value < args.limit]
        failed += bool(bad)
        print(f"{name:24}{figures['logits']:16.2e}{figures['losses']:18.2e}{figures['export']:16.2e}"
              + (f"  FAILED: {', '.join(bad)}" if bad else ""))
    print(f"{ran} compared, {failed} failed")
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
