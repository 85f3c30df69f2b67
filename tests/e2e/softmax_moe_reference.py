#!/usr/bin/env python3
"""OLMoE, Qwen3-MoE and Mixtral in plain numpy: makes tiny random checkpoints in their Hugging Face layouts, and reads them.

    softmax_moe_reference.py make FOLDER {olmoe,qwen3_moe,mixtral} [--dtype F32|F16|BF16] [--fused] [--shards N] [--tied] [--normalize]
    softmax_moe_reference.py logps FOLDER TOKENS.json

`make` also writes a dense first layer for Qwen3-MoE. `logps` prints {"logps": [[…], …]} like glm4_moe_reference.py, whose plain functions it
takes; the three families differ from Glm4Moe in their router and in the norm of queries and keys.
"""
import argparse
import json
import pathlib
import struct
import sys

import numpy as np

from glm4_moe_reference import Weights, next_token_logps, rms_norm, rotate, silu, swiglu

NAMES = {"olmoe": "OlmoeForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "mixtral": "MixtralForCausalLM"}
VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS, EXPERTS, TOP_K, INNER = 29, 16, 3, 4, 2, 6, 2, 10


def to_bytes(tensor, dtype):
    if dtype == "BF16":  # cut off, which is a value like any other
        return (np.ascontiguousarray(tensor, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return np.ascontiguousarray(tensor, {"F32": np.float32, "F16": np.float16}[dtype]).tobytes()


def from_bytes(data, dtype):
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F32": np.float32, "F16": np.float16}[dtype])


def write_safetensors(path, tensors, dtype):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = to_bytes(tensor, dtype)
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    data = raw[8 + length:]
    return {name: from_bytes(data[slice(*entry["data_offsets"])], entry["dtype"]).reshape(entry["shape"]).astype(np.float64)
            for name, entry in header.items()}


def read_weights(folder):
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_safetensors(folder / "model.safetensors")
    weights = {}
    for file in sorted(set(json.loads(index.read_text())["weight_map"].values())):
        weights.update(read_safetensors(folder / file))
    return weights


def random_weights(family, head, dense, tied, fused):
    random = np.random.default_rng(5)

    def matrix(rows, columns):
        return random.normal(0, 1.5 / columns ** 0.5, (rows, columns))

    def norm(width):
        return 1 + 0.3 * random.normal(size=width)

    def ffn(prefix, inner):
        return {prefix + "gate_proj.weight": matrix(inner, WIDTH), prefix + "up_proj.weight": matrix(inner, WIDTH),
                prefix + "down_proj.weight": matrix(WIDTH, inner)}
    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, WIDTH), "model.norm.weight": norm(WIDTH)}
    if not tied:
        weights["lm_head.weight"] = matrix(VOCABULARY, WIDTH)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        weights.update({at + "input_layernorm.weight": norm(WIDTH), at + "post_attention_layernorm.weight": norm(WIDTH),
                        at + "self_attn.q_proj.weight": matrix(HEADS * head, WIDTH),
                        at + "self_attn.k_proj.weight": matrix(KV_HEADS * head, WIDTH),
                        at + "self_attn.v_proj.weight": matrix(KV_HEADS * head, WIDTH),
                        at + "self_attn.o_proj.weight": matrix(WIDTH, HEADS * head)})
        if family != "mixtral":
            whole = family == "olmoe"
            weights[at + "self_attn.q_norm.weight"] = norm(HEADS * head if whole else head)
            weights[at + "self_attn.k_norm.weight"] = norm(KV_HEADS * head if whole else head)
        if layer < dense:
            weights.update(ffn(at + "mlp.", 2 * INNER))
            continue
        moe = at + ("block_sparse_moe." if family == "mixtral" else "mlp.")
        weights[moe + "gate.weight"] = matrix(EXPERTS, WIDTH)
        experts = [ffn("", INNER) for _ in range(EXPERTS)]
        if fused:
            weights[moe + "experts.gate_up_proj"] = np.stack(
                [np.concatenate([e["gate_proj.weight"], e["up_proj.weight"]]) for e in experts])
            weights[moe + "experts.down_proj"] = np.stack([e["down_proj.weight"] for e in experts])
            continue
        ours = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
        for number, expert in enumerate(experts):
            for name, tensor in expert.items():
                projection = name.split(".")[0]
                weights[f"{moe}experts.{number}.{ours[projection] if family == 'mixtral' else projection}.weight"] = tensor
    return weights


def make(args):
    head = 6 if args.family == "qwen3_moe" else WIDTH // HEADS
    dense = 1 if args.family == "qwen3_moe" else 0
    config = {"architectures": [NAMES[args.family]], "model_type": args.family, "vocab_size": VOCABULARY, "hidden_size": WIDTH,
              "hidden_act": "silu", "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "num_experts_per_tok": TOP_K, "rms_norm_eps": 1e-6, "rope_theta": 5000.0, "tie_word_embeddings": args.tied,
              "max_position_embeddings": 128, "attention_dropout": 0.0}
    if args.family == "mixtral":
        config.update(num_local_experts=EXPERTS, intermediate_size=INNER, sliding_window=None, router_jitter_noise=0.0)
    else:
        config.update(num_experts=EXPERTS, norm_topk_prob=args.normalize, attention_bias=False)
    if args.family == "olmoe":
        config.update(intermediate_size=INNER, clip_qkv=None)
    if args.family == "qwen3_moe":
        config.update(moe_intermediate_size=INNER, intermediate_size=2 * INNER, head_dim=head, decoder_sparse_step=1,
                      mlp_only_layers=[0], use_sliding_window=False, sliding_window=4096)
    if args.fused:  # as transformers 5 spells it
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config.pop("rope_theta")}
    args.folder.mkdir(parents=True, exist_ok=True)
    (args.folder / "config.json").write_text(json.dumps(config))
    weights = random_weights(args.family, head, dense, args.tied, args.fused)
    if args.shards == 1:
        write_safetensors(args.folder / "model.safetensors", weights, args.dtype)
        return
    names, placed = list(weights), {}
    for shard in range(args.shards):
        file = f"model-{shard + 1:05}-of-{args.shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::args.shards]}
        write_safetensors(args.folder / file, part, args.dtype)
        placed.update({name: file for name in part})
    (args.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def attention(x, weights, prefix, config, head):
    tokens, width = x.shape
    heads, kv_heads, family = config["num_attention_heads"], config["num_key_value_heads"], config["model_type"]
    eps = config["rms_norm_eps"]
    rope = config.get("rope_parameters") or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    assert rope.get("rope_type", "default") == "default"

    def project(name, count):
        rows = x @ weights.take(f"{prefix}.{name}_proj.weight", count * head, width).T
        norm = f"{prefix}.{name}_norm.weight"
        if family == "olmoe" and name != "v":
            rows = rms_norm(rows, weights.take(norm, count * head), eps)
        rows = rows.reshape(tokens, count, head)
        if family == "qwen3_moe" and name != "v":
            rows = rms_norm(rows, weights.take(norm, head), eps)
        return rows
    q, k, v = project("q", heads), project("k", kv_heads), project("v", kv_heads)
    q, k = rotate(q, theta, head), rotate(k, theta, head)
    k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * head ** -0.5
    scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out = np.einsum("hqk,khd->qhd", scores / scores.sum(axis=-1, keepdims=True), v).reshape(tokens, heads * head)
    return out @ weights.take(prefix + ".o_proj.weight", width, heads * head).T


def one_expert(x, weights, moe, number, count, inner, family):
    width = x.shape[-1]
    if moe + "experts.down_proj" in weights.tensors:
        gate_up = weights.take(moe + "experts.gate_up_proj", count, 2 * inner, width)[number]
        down = weights.take(moe + "experts.down_proj", count, width, inner)[number]
        return (silu(x @ gate_up[:inner].T) * (x @ gate_up[inner:].T)) @ down.T
    prefix = f"{moe}experts.{number}"
    if family != "mixtral":
        return swiglu(x, weights, prefix, inner)
    gate, up = (weights.take(f"{prefix}.{name}.weight", inner, width) for name in ("w1", "w3"))
    return (silu(x @ gate.T) * (x @ up.T)) @ weights.take(prefix + ".w2.weight", width, inner).T


def experts(x, weights, layer, config):
    family, top_k = config["model_type"], config["num_experts_per_tok"]
    moe = f"model.layers.{layer}." + ("block_sparse_moe." if family == "mixtral" else "mlp.")
    count = config["num_local_experts"] if family == "mixtral" else config["num_experts"]
    inner = config["moe_intermediate_size"] if family == "qwen3_moe" else config["intermediate_size"]
    logits = x @ weights.take(moe + "gate.weight", count, x.shape[1]).T
    scores = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    gates = np.take_along_axis(scores, chosen, axis=-1)
    if family == "mixtral" or config["norm_topk_prob"]:
        gates = gates / gates.sum(axis=-1, keepdims=True)
    out = np.zeros_like(x)
    for number in range(count):
        token, place = np.nonzero(chosen == number)
        part = one_expert(x[token], weights, moe, number, count, inner, family)
        np.add.at(out, token, part * gates[token, place][:, None])
    return out


def logits_of(ids, weights, config):
    eps, width, vocabulary = config["rms_norm_eps"], config["hidden_size"], config["vocab_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    embedding = weights.take("model.embed_tokens.weight", vocabulary, width)
    x = embedding[ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        norm = weights.take(prefix + ".input_layernorm.weight", width)
        x = x + attention(rms_norm(x, norm, eps), weights, prefix + ".self_attn", config, head)
        h = rms_norm(x, weights.take(prefix + ".post_attention_layernorm.weight", width), eps)
        if layer in config.get("mlp_only_layers", []):
            x = x + swiglu(h, weights, prefix + ".mlp", config["intermediate_size"])
        else:
            x = x + experts(h, weights, layer, config)
    x = rms_norm(x, weights.take("model.norm.weight", width), eps)
    if config["tie_word_embeddings"]:
        return x @ embedding.T
    return x @ weights.take("lm_head.weight", vocabulary, width).T


def logps(args):
    config = json.loads((args.folder / "config.json").read_text())
    assert config["architectures"] == [NAMES[config["model_type"]]]
    weights = Weights(read_weights(args.folder))
    sequences = json.loads(args.tokens.read_text())["sequences"]
    result = [next_token_logps(logits_of(np.array(ids), weights, config), ids) for ids in sequences]
    unused = set(weights.tensors) - weights.used
    assert not unused, f"in the checkpoint but never used: {sorted(unused)}"
    json.dump({"logps": result}, sys.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=pathlib.Path)
    making.add_argument("family", choices=sorted(NAMES))
    making.add_argument("--dtype", choices=("F32", "F16", "BF16"), default="F32")
    making.add_argument("--shards", type=int, default=1)
    for flag in ("--fused", "--tied", "--normalize"):
        making.add_argument(flag, action="store_true")
    making.set_defaults(run=make)
    reading = commands.add_parser("logps")
    reading.add_argument("folder", type=pathlib.Path)
    reading.add_argument("tokens", type=pathlib.Path)
    reading.set_defaults(run=logps)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
