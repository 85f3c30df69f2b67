#!/usr/bin/env python3
"""Glm4Moe in plain numpy, written from the architecture's definition: an independent reader of our exports.

    glm4_moe_reference.py EXPORT TOKENS.json [--transformers]

Reads nothing but the exported folder. TOKENS.json holds {"sequences": [[ids…], …]}; prints {"logps": [[…], …]}: the
log-probability of each token after the first of its sequence, in fp64. With --transformers the same numbers come from
transformers' own Glm4MoeForCausalLM, where it is installed.
"""
import argparse
import json
import pathlib
import struct
import sys

import numpy as np

TYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64, "U8": np.uint8}


def read_safetensors(path):
    """The format by hand: header length, JSON header, data."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + length])
    header.pop("__metadata__", None)
    data = memoryview(raw)[8 + length:]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def read_weights(folder):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    weights = {}
    for file in sorted(set(index["weight_map"].values())):
        tensors = read_safetensors(folder / file)
        for name, tensor in tensors.items():
            assert index["weight_map"].get(name) == file, f"{name} of {file} is not in the index"
            weights[name] = tensor.astype(np.float64)
    missing = set(index["weight_map"]) - set(weights)
    assert not missing, f"in the index but in no file: {sorted(missing)}"
    total = sum(tensor.size * 4 for tensor in weights.values())
    assert index["metadata"]["total_size"] == total, "total_size of the index is wrong"
    return weights


class Weights:
    """Weights by name; remembers what was used, so that nothing can lie in the files unread."""

    def __init__(self, tensors):
        self.tensors, self.used = tensors, set()

    def take(self, name, *shape):
        self.used.add(name)
        tensor = self.tensors[name]
        assert tensor.shape == shape, f"{name} is {tensor.shape}, expected {shape}"
        return tensor


def rms_norm(x, weight, eps):
    return weight * x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def silu(x):
    return x / (1 + np.exp(-x))


def swiglu(x, weights, prefix, inner):
    width = x.shape[-1]
    gate = weights.take(prefix + ".gate_proj.weight", inner, width)
    up = weights.take(prefix + ".up_proj.weight", inner, width)
    down = weights.take(prefix + ".down_proj.weight", width, inner)
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def rotate(x, theta, rotary):
    """Rotary positions in the rotate-half convention, on the first `rotary` elements of each head; x [tokens, heads, head]."""
    frequency = theta ** (-np.arange(0, rotary, 2) / rotary)
    angle = np.concatenate([np.arange(x.shape[0])[:, None] * frequency] * 2, axis=-1)[:, None, :]
    turned, kept = x[..., :rotary], x[..., rotary:]
    half = np.concatenate([-turned[..., rotary // 2:], turned[..., :rotary // 2]], axis=-1)
    return np.concatenate([turned * np.cos(angle) + half * np.sin(angle), kept], axis=-1)


def attention(x, weights, prefix, config):
    tokens, width = x.shape
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    rope = config["rope_parameters"]
    assert rope["rope_type"] == "default" and not config["use_qk_norm"] and not config["attention_bias"]
    assert rope["rope_theta"] == config["rope_theta"] and rope["partial_rotary_factor"] == config["partial_rotary_factor"]
    rotary = int(size * rope["partial_rotary_factor"])
    q = (x @ weights.take(prefix + ".q_proj.weight", heads * size, width).T).reshape(tokens, heads, size)
    k = (x @ weights.take(prefix + ".k_proj.weight", kv_heads * size, width).T).reshape(tokens, kv_heads, size)
    v = (x @ weights.take(prefix + ".v_proj.weight", kv_heads * size, width).T).reshape(tokens, kv_heads, size)
    q, k = rotate(q, rope["rope_theta"], rotary), rotate(k, rope["rope_theta"], rotary)
    k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * size ** -0.5
    scores = np.where(np.tril(np.ones((tokens, tokens), bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    out = np.einsum("hqk,khd->qhd", scores / scores.sum(axis=-1, keepdims=True), v).reshape(tokens, heads * size)
    return out @ weights.take(prefix + ".o_proj.weight", width, heads * size).T


def experts(x, weights, prefix, config):
    count, top_k, inner = config["n_routed_experts"], config["num_experts_per_tok"], config["moe_intermediate_size"]
    assert config["n_group"] == 1 and config["topk_group"] == 1, "one group: no expert is masked by its group"
    assert count >= max(2, top_k), "the loader sums the two best experts of each group"
    scores = 1 / (1 + np.exp(-(x @ weights.take(prefix + ".gate.weight", count, x.shape[1]).T)))
    # The choice is made in fp32, like the loader's: the bias must keep its meaning there.
    choose = scores.astype(np.float32) + weights.take(prefix + ".gate.e_score_correction_bias", count).astype(np.float32)
    assert np.isfinite(choose).all()
    chosen = np.argsort(-choose, axis=-1, kind="stable")[:, :top_k]
    gates = np.take_along_axis(scores, chosen, axis=-1)
    if config["norm_topk_prob"]:
        gates = gates / (gates.sum(axis=-1, keepdims=True) + 1e-20)
    gates = gates * config["routed_scaling_factor"]
    out = swiglu(x, weights, prefix + ".shared_experts", inner * config["n_shared_experts"])
    for expert in range(count):
        token, place = np.nonzero(chosen == expert)
        part = swiglu(x[token], weights, f"{prefix}.experts.{expert}", inner)
        np.add.at(out, token, part * gates[token, place][:, None])
    return out


def logits(ids, weights, config):
    eps, width = config["rms_norm_eps"], config["hidden_size"]
    embedding = weights.take("model.embed_tokens.weight", config["vocab_size"], width)
    x = embedding[ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        norm = weights.take(prefix + ".input_layernorm.weight", width)
        x = x + attention(rms_norm(x, norm, eps), weights, prefix + ".self_attn", config)
        h = rms_norm(x, weights.take(prefix + ".post_attention_layernorm.weight", width), eps)
        if layer < config["first_k_dense_replace"]:
            x = x + swiglu(h, weights, prefix + ".mlp", config["intermediate_size"])
        else:
            x = x + experts(h, weights, prefix + ".mlp", config)
    x = rms_norm(x, weights.take("model.norm.weight", width), eps)
    if config["tie_word_embeddings"]:
        return x @ embedding.T
    return x @ weights.take("lm_head.weight", config["vocab_size"], width).T


def next_token_logps(all_logits, ids):
    shifted = all_logits - all_logits.max(axis=-1, keepdims=True)
    logps = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return [float(logps[i, ids[i + 1]]) for i in range(len(ids) - 1)]


def by_numpy(folder, sequences):
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Glm4MoeForCausalLM"] and config["model_type"] == "glm4_moe"
    assert config["hidden_act"] == "silu"
    weights = Weights(read_weights(folder))
    result = [next_token_logps(logits(np.array(ids), weights, config), ids) for ids in sequences]
    unused = set(weights.tensors) - weights.used
    assert not unused, f"exported but never used: {sorted(unused)}"
    return result


def by_transformers(folder, sequences):
    import torch
    from transformers import Glm4MoeForCausalLM
    model, info = Glm4MoeForCausalLM.from_pretrained(folder, torch_dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        return [next_token_logps(model(torch.tensor([ids])).logits[0].double().numpy(), ids) for ids in sequences]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=pathlib.Path)
    parser.add_argument("tokens", type=pathlib.Path)
    parser.add_argument("--transformers", action="store_true")
    args = parser.parse_args()
    sequences = json.loads(args.tokens.read_text())["sequences"]
    run = by_transformers if args.transformers else by_numpy
    json.dump({"logps": run(args.export, sequences)}, sys.stdout)


if __name__ == "__main__":
    main()
