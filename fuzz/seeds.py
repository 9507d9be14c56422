#!/usr/bin/env python3
"""Writes seeds for the fuzz target `checkpoint`: a header of a tiny checkpoint for each of its configurations.

    python3 fuzz/seeds.py
"""

import json
import pathlib

LAYER = "model.layers.0."
D, E = 2, 2


def separate(prefix, parts):
    return {f"{prefix}experts.{e}.{part}": [D, D] for e in range(E) for part in parts}


LLAMA = ["gate_proj.weight", "up_proj.weight", "down_proj.weight"]
STACKED = {"experts.gate_up_proj": [E, 2 * D, D], "experts.down_proj": [E, D, D]}


def under(prefix, tensors):
    return {prefix + name: shape for name, shape in tensors.items()}


MLP, NORM = LAYER + "mlp.", {LAYER + "post_attention_layernorm.weight": [D]}
# In the order of CONFIGS in the target.
SEEDS = {
    "olmoe": {**separate(MLP, LLAMA), MLP + "gate.weight": [E, D], **NORM},
    "deepseek": {**separate(MLP, LLAMA), MLP + "gate.weight": [E, D], MLP + "gate.e_score_correction_bias": [E]},
    "gptoss": {**under(MLP, STACKED), MLP + "router.weight": [E, D], MLP + "router.bias": [E]},
    "llama4": {**under(LAYER + "feed_forward.", {**STACKED, "router.weight": [E, D], "experts.down_proj_scale": []})},
    "granite": under(
        LAYER + "block_sparse_moe.",
        {"input_linear.weight": [E, 2 * D, D], "output_linear.weight": [E, D, D], "router.layer.weight": [E, D]},
    ),
    "gemma4": {
        **under(LAYER, STACKED),
        **under(LAYER + "router.", {"proj.weight": [E, D], "scale": [D], "per_expert_scale": [E]}),
    },
    "qwen3_5": {**under(MLP, STACKED), MLP + "gate.weight": [E, D], **NORM},
    "dbrx": under(
        "transformer.blocks.0.ffn.",
        {**{f"experts.mlp.{w}": [E * D, D] for w in ["w1", "v1", "w2"]}, "router.layer.weight": [E, D]},
    ),
    "longcat": {
        **separate(MLP, LLAMA),
        MLP + "router.classifier.weight": [E + 1, D],
        MLP + "router.e_score_correction_bias": [E + 1],
    },
    "jetmoe": {
        **under(MLP, {"input_linear.weight": [E, 2 * D, D], "output_linear.weight": [E, D, D]}),
        MLP + "router.layer.weight": [E, D],
        **under(
            LAYER + "self_attention.experts.",
            {"input_linear.weight": [E, D, D], "output_linear.weight": [E, D, D], "router.layer.weight": [E, D]},
        ),
    },
    "nemotron": {
        **separate("backbone.layers.0.mixer.", LLAMA[1:]),
        "backbone.layers.0.mixer.gate.weight": [E, D],
        "backbone.layers.0.mixer.gate.e_score_correction_bias": [E],
    },
    "ernie": {
        **separate(MLP, LLAMA),
        MLP + "gate.weight": [E, D],
        MLP + "moe_statics.e_score_correction_bias": [1, E],
    },
    "dense": {**under(MLP, {part: [D, D] for part in LLAMA}), **NORM},
}

folder = pathlib.Path(__file__).parent / "seeds" / "checkpoint"
for index, (name, tensors) in enumerate(SEEDS.items()):
    header, at = {}, 0
    for tensor, shape in tensors.items():
        size = 2
        for dim in shape:
            size *= dim
        header[tensor] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    # The first byte says what follows (1: a header), which configuration it is for, and how many data there are.
    kinds = [kind for kind in range(1, 256, 4) if kind // 4 % len(SEEDS) == index and 16 * (kind // 16) >= at]
    assert kinds, (name, at)
    (folder / f"family-{name}").write_bytes(bytes([kinds[0]]) + json.dumps(header).encode())
