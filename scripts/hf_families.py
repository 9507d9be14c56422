"""Tiny random models of every MoE family of transformers, for check_hf.py.

A model is made from the family's own configuration class, with every size that it has set to a small one, and random norms,
biases and selection biases far from zero.
"""

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES = dict(
    vocab_size=96, vocab_size_per_layer_input=96, max_position_embeddings=64, max_seq_len=64,
    hidden_size=32, d_model=32, n_embd=32, intermediate_size=40, ffn_hidden_size=40, intermediate_size_mlp=40,
    num_hidden_layers=3, n_layers=3, num_layers=3, num_attention_heads=4, n_heads=4, num_key_value_heads=2, head_dim=8,
    moe_intermediate_size=24, moe_intermediate_dim=24, expert_ffn_hidden_size=24, shared_expert_intermediate_size=20,
    moe_shared_expert_intermediate_size=20, shared_intermediate_size=20,
    num_experts=6, num_local_experts=6, n_routed_experts=6, moe_num_experts=6, num_moe_experts=6, zero_expert_num=4,
    num_experts_per_tok=2, num_experts_per_token=2, moe_k=2, top_k_experts=2, moe_topk=2, moe_top_k=2,
    n_group=1, topk_group=1, first_k_dense_replace=1, num_dense_layers=1,
    q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, qk_head_dim=12,
    linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8,
    linear_conv_kernel_dim=4, mamba_d_state=8, mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=4, mamba_n_heads=4,
    mamba_d_head=16, mamba_n_groups=1, mamba_num_heads=4, mamba_head_dim=16, ssm_state_size=8,
    sliding_window=32, attention_chunk_size=32, index_n_heads=2, index_head_dim=8, index_topk=8, kv_channels=8,
    hidden_size_per_layer_input=8, pad_token_id=None, bos_token_id=None, eos_token_id=None, tie_word_embeddings=False,
)  # fmt: skip
# Left alone where a family's own value is none.
OPTIONAL = ["n_group", "topk_group", "q_lora_rank", "num_key_value_heads"]

# What the configuration classes of single families want beside that.
FIELDS = {
    "axk1": dict(head_dim=4),
    "bailing_hybrid": dict(num_expert_group=1, layer_types=["linear_attention", "full_attention", "full_attention"]),
    "beam": dict(mlp_layer_types=["dense", "sparse", "sparse"]),
    "deepseek_v3": dict(head_dim=4),
    "dots1": dict(n_shared_experts=1),
    "dots3_note_text": dict(num_key_value_heads=4),
    "gemma4": dict(pad_token_id=0),
    "gemma4_text": dict(enable_moe_block=True, pad_token_id=0),
    "glm4v_moe_text": dict(rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 0])),
    "glm5_next_text": dict(num_key_value_heads=4, index_topk=16),
    "inkling2_text": dict(unpadded_vocab_size=90),
    "lfm2_moe": dict(layer_types=["conv", "full_attention", "full_attention"]),
    "llama4": dict(pad_token_id=0),
    "llama4_text": dict(interleave_moe_layer_step=1, pad_token_id=0),
    "longcat_flash": dict(num_layers=2, head_dim=4),
    "nemotron_h": dict(n_groups=1),
    "step3p5": dict(pad_token_id=0, mlp_layer_types=["dense", "sparse", "sparse"]),
    "step3p7": dict(pad_token_id=0),
    # A quarter of a network is an expert whose rows torch's grouped products take.
    **{family: dict(intermediate_size=64) for family in ["llama", "mistral", "qwen2", "qwen3"]},
}
SECTIONS = {
    "dbrx": dict(
        ffn_config=dict(ffn_hidden_size=24, moe_num_experts=6, moe_top_k=2),
        attn_config=dict(kv_n_heads=2, rope_theta=10000.0, clip_qkv=8.0),
    ),
}
# Sections that are no language model keep their own sizes.
OTHER_SECTIONS = ["vision", "audio", "talker", "code2wav", "projector"]
CLASSES = [
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
]


def small(config, extra):
    """The fields of a configuration that are sizes, small."""
    values = config.to_dict()

    def is_size(name):
        own = values.get(name, "absent")
        return own != "absent" and not isinstance(own, (list, dict)) and not (own is None and name in OPTIONAL)

    fields = {name: size for name, size in SIZES.items() if is_size(name)}
    if "kv_lora_rank" in fields and "num_key_value_heads" in fields:
        # Latent attention has no groups of queries.
        fields["num_key_value_heads"] = SIZES["num_attention_heads"]
    return {**fields, **extra}


def configuration(family, top_k=None):
    config_class = CONFIG_MAPPING[family]
    base = config_class()
    extra = dict(FIELDS.get(family, {}))
    names = ["num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k_experts", "moe_topk", "moe_top_k"]
    ks = {name: top_k for name in names} if top_k else {}
    fields = small(base, extra)
    fields.update({name: k for name, k in ks.items() if name in fields})
    for section in getattr(config_class, "sub_configs", {}):
        config = getattr(base, section, None)
        own = SECTIONS.get(family, {}).get(section, {})
        if isinstance(own, dict) and config is not None and hasattr(config, "to_dict"):
            if any(other in section for other in OTHER_SECTIONS):
                layers = ["num_hidden_layers", "depth", "num_layers", "layers", "encoder_layers"]
                own = config.to_dict()
                few = {name: 1 for name in layers if isinstance(own.get(name), int)}
                widths = ["out_hidden_size", "text_hidden_size", "output_hidden_size"]
                few.update({name: 32 for name in widths if isinstance(own.get(name), int)})
                fields[section] = few
                continue
            of_section = FIELDS.get(getattr(config, "model_type", ""), {})
            values = small(config, {**of_section, **own})
            values.update({name: k for name, k in ks.items() if name in values})
            fields[section] = values
    return config_class(**fields)


def model_class(family):
    is_whole = "text_config" in getattr(CONFIG_MAPPING[family], "sub_configs", {})
    for names in reversed(CLASSES) if is_whole else CLASSES:
        if family in names:
            name = names[family]
            return getattr(transformers, name[0] if isinstance(name, (list, tuple)) else name)
    return None


def randomize(model):
    """Weights that let routers have opinions, and norms and biases that are not what they are initialised to."""
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if not parameter.is_floating_point() or "inv_freq" in name or "rotary" in name:
                continue
            if "e_score_correction_bias" in name or "expert_bias" in name:
                parameter.normal_(2, 0.05)
            elif "norm" in name and parameter.dim() == 1 and name.endswith("weight"):
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter)).add_(0.05 * torch.randn_like(parameter))
            elif name.endswith("router.bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() >= 2 and not any(part in name for part in ["A_log", "conv", "vision", "visual", "audio"]):
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            if name.endswith("per_expert_scale"):
                parameter.uniform_(0.5, 1.5)
    return model


# Model types that transformers does not build alone, or that are the text of another one; with the reason.
NOT_BUILT = {
    "kimi_k2": "DeepSeek-V3 under another name, and code of its own on the hub",
    "bailing_moe_v2": "code of its own on the hub",
    "qwen3_omni_moe": "the thinker is checked as `qwen3_omni_moe_thinker`",
    "inkling_mm_model": "its text is checked as `inkling_text`",
    "dots3_note": "its text is checked as `dots3_note_text`",
    "llama4": "its text is checked as `llama4_text`",
    "inkling2": "its text is checked as `inkling2_text`",
    "glm5_next": "its configuration wants sizes that are not tiny",
    "hy_v4_vl": "its text is that of `hy_v4`",
    "deepseek_ocr2": "its language model is that of `deepseek_v2`",
}


def is_text_of_another(family):
    """Whether transformers has no model of its own for a type."""
    return family not in CONFIG_MAPPING or model_class(family) is None


def make(family, top_k=None):
    torch.manual_seed(1)
    model = model_class(family)(configuration(family, top_k)).float().eval()
    return randomize(model)
