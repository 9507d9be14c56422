#!/usr/bin/env python3
"""Makes the tiny checkpoints of families that can be run here, with logits, in crates/hf/tests/fixtures.

    pip install torch transformers safetensors numpy
    scripts/hf_models.py [NAME ...]

Everything that a family may have is there and far from zero: norms, biases of attention, biases of the selection, groups
of experts, shared experts.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.dots1 import Dots1Config
from transformers.models.glm4_moe import Glm4MoeConfig
from transformers.models.qwen2_moe import Qwen2MoeConfig

# What all tiny models have.
TINY = dict(
    vocab_size=96,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    tie_word_embeddings=False,
    pad_token_id=None,
    bos_token_id=None,
    eos_token_id=None,
)
WIDTHS = dict(moe_intermediate_size=24, intermediate_size=40)
# DeepSeek-V3's router, behind a dense layer.
GROUPS = dict(
    n_routed_experts=8,
    n_group=4,
    topk_group=2,
    num_experts_per_tok=3,
    routed_scaling_factor=1.5,
    first_k_dense_replace=1,
    attention_bias=True,
)
FAMILIES = {
    "qwen2_moe": Qwen2MoeConfig(
        **TINY,
        **WIDTHS,
        num_experts=6,
        num_experts_per_tok=2,
        shared_expert_intermediate_size=28,
        mlp_only_layers=[0],
    ),
    "dots1": Dots1Config(
        **{**TINY, "num_hidden_layers": 3},
        **WIDTHS,
        **GROUPS,
        n_shared_experts=1,
        norm_topk_prob=True,
        sliding_window=None,
        head_dim=8,
    ),
    "glm4_moe": Glm4MoeConfig(
        **TINY,
        **WIDTHS,
        **GROUPS,
        n_shared_experts=2,
        use_qk_norm=True,
        head_dim=12,
        partial_rotary_factor=0.5,
        num_mtp_layers=0,
    ),
}


def randomise(model):
    """Every parameter anew, at sizes where all of them matter."""
    for name, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        with torch.no_grad():
            if "norm" in name:
                tensor.copy_(1 + 0.3 * torch.randn_like(tensor))
            elif name.endswith("e_score_correction_bias"):
                tensor.copy_(0.2 * torch.randn_like(tensor))
            elif name.endswith("bias"):
                tensor.copy_(0.5 * torch.randn_like(tensor))
            elif "inv_freq" not in name:
                tensor.copy_(torch.randn_like(tensor) * tensor.shape[-1] ** -0.5)


def make(name):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[name], dtype=torch.float32).eval()
    randomise(model)
    return model


def main():
    fixtures = Path(__file__).parent.parent / "crates/hf/tests/fixtures"
    for name in sys.argv[1:] or FAMILIES:
        model = make(name)
        tokens = torch.randint(0, 96, (2, 16))
        with torch.no_grad():
            logits = model(tokens).logits
        folder = fixtures / name
        model.save_pretrained(folder, max_shard_size="60KB")
        save_file({"input_ids": tokens, "logits": logits.contiguous()}, folder / "expected.safetensors")
        print(name, sum(file.stat().st_size for file in folder.iterdir()) // 1024, "KB")


if __name__ == "__main__":
    main()
