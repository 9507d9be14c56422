#!/usr/bin/env python3
"""Checks grown and exported checkpoints with transformers itself.

For every family a tiny random model is saved, grown by `upcycle` (twice the experts, half as many more, uneven counts),
loaded with `from_pretrained`, and run beside the original. No key may be missing or unexpected. Where a recipe promises
the same function, logits must agree to 1e-4 (norm of the difference over the norm): K = 1 copies, copies behind dormant
biases, uniform copies at a doubled K. A hyperplane split with K > 1 leaves a few tokens near the plane, which disturb
those behind them; its promise is 1 % for the median token. GPT-OSS is also grown as MXFP4. OLMoE, Mixtral and Qwen3-MoE are also imported, trained for one step and exported; the export must load.

    pip install torch transformers safetensors
    cargo build --release --bins
    python scripts/check_hf.py --bin target/release

Prints a line a check, and exits with 1 if one failed.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

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

# Family: fields of its configuration, the field of K.
FAMILIES = {
    "mixtral": dict(intermediate_size=24, num_local_experts=6),
    "olmoe": dict(intermediate_size=24, num_experts=6, norm_topk_prob=False),
    "qwen2_moe": dict(
        moe_intermediate_size=24, shared_expert_intermediate_size=20, intermediate_size=40, num_experts=6, norm_topk_prob=True
    ),
    "qwen3_moe": dict(moe_intermediate_size=24, intermediate_size=40, head_dim=8, num_experts=6, norm_topk_prob=True),
    "deepseek_v3": dict(
        intermediate_size=40,
        moe_intermediate_size=24,
        n_routed_experts=6,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        num_hidden_layers=3,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=12,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        norm_topk_prob=True,
    ),
    "gpt_oss": dict(intermediate_size=24, num_local_experts=6, head_dim=8, sliding_window=32),
    "llama4_text": dict(
        intermediate_size=24,
        intermediate_size_mlp=40,
        num_local_experts=6,
        head_dim=8,
        interleave_moe_layer_step=1,
        attention_chunk_size=32,
    ),
}
RUNNABLE = ["mixtral", "olmoe", "qwen3_moe"]


class Checks:
    def __init__(self, binaries, folder):
        self.binaries = binaries
        self.folder = folder
        self.failed = 0
        self.count = 0

    def run(self, binary, *args):
        command = [str(self.binaries / binary), *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def report(self, name, problem, note=""):
        self.count += 1
        if problem:
            self.failed += 1
        print(f"{'FAILED' if problem else 'ok    '}  {name:58} {problem or note}", flush=True)


def make(family, top_k, folder, **changes):
    """Saves a random model whose routers have opinions; returns it."""
    fields = {**TINY, **FAMILIES[family], **changes}
    k = "num_experts_per_tok"
    config = AutoConfig.for_model(family, **fields, **{k: top_k})
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for name, parameter in [*model.named_parameters(), *model.named_buffers()]:
            if parameter.dim() >= 2 and "norm" not in name and parameter.is_floating_point():
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            if name.endswith("e_score_correction_bias"):
                parameter.normal_(5, 0.05)
            if name.endswith("router.bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return model


def logits(model):
    torch.manual_seed(2)
    tokens = torch.randint(0, TINY["vocab_size"], (8, 32))
    with torch.no_grad():
        return model(tokens).logits


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    wrong = {kind: sorted(keys)[:3] for kind, keys in info.items() if keys}
    return model.eval(), wrong


def distance(found, expected, median):
    """Relative difference of all logits, or that of the median token."""
    if median:
        return ((found - expected).norm(dim=-1) / expected.norm(dim=-1)).median().item()
    return ((found - expected).norm() / expected.norm()).item()


def grow(checks, name, source, model, tolerance, *flags, median=False):
    """Grows `source`; logits must be those of `model` within `tolerance`, if there is one."""
    target = checks.folder / f"grown-{checks.count}"
    try:
        checks.run("upcycle", "--from", source, "--to", target, *flags)
        grown, wrong = load(target)
        problem = f"keys: {wrong}" if wrong else ""
        apart = distance(logits(grown), logits(model), median)
        if not problem and (apart != apart or (tolerance and apart > tolerance)):
            problem = f"logits differ by {apart:.1e}, more than {tolerance}"
        promise = f"promise {tolerance:.0e}" if tolerance else "no promise"
        checks.report(name, problem, f"logits differ by {apart:.1e} ({promise})")
    except Exception as error:  # noqa: BLE001 - every failure is a line of the report
        checks.report(name, str(error))


def check_family(checks, family):
    def source(top_k, **changes):
        folder = checks.folder / f"{family}-{len(list(checks.folder.iterdir()))}"
        return folder, make(family, top_k, folder, **changes)

    deepseek, llama = family == "deepseek_v3", family == "llama4_text"
    one_group = dict(n_group=1, topk_group=1) if deepseek else {}
    normalized = dict(norm_topk_prob=True) if family == "olmoe" else {}

    # K = 1: whichever twin wins, the function is the same.
    folder, model = source(1, **one_group, **normalized)
    counts = checks.folder / "counts.json"
    counts.write_text(json.dumps({"counts": [[3, 1, 1, 2, 1, 1]]}))
    for what, flags in {
        "x2": ["--experts", 12],
        "x1.5": ["--experts", 9],
        "counts 3 1 1 2 1 1": ["--experts", 9, "--selection", f"explicit:file={counts}"],
    }.items():
        grow(checks, f"{family}, K = 1, copies, {what}", folder, model, 1e-4, "--router", "copy", *flags)
    grow(checks, f"{family}, K = 1, default recipe, x2", folder, model, None)

    if llama:
        return
    folder, model = source(2)
    if deepseek:
        grow(checks, f"{family}, K = 2, default recipe (dormant), x2", folder, model, 1e-4)
        counts.write_text(json.dumps({"counts": [[2, 2, 1, 1, 3, 1]]}))
        uneven = ["--experts", 10, "--selection", f"explicit:file={counts}"]
        grow(checks, f"{family}, K = 2, dormant, counts in groups", folder, model, 1e-4, *uneven)
        return
    split = ["--router", "hyperplane:strength=1000"]
    grow(checks, f"{family}, K = 2, hyperplane split, x2", folder, model, 1e-2, *split, median=True)
    grow(checks, f"{family}, K = 2, default recipe, x2", folder, model, None)
    grow(checks, f"{family}, K = 2, default recipe, x1.5", folder, model, None, "--experts", 9)
    grow(checks, f"{family}, K = 2 -> 4, copies, x2", folder, model, 1e-4, "--router", "copy", "--top-k", 4)


def check_mxfp4(checks):
    """Random MXFP4 blocks in place of the experts' weights; transformers unpacks them on a CPU."""
    plain, source = checks.folder / "mxfp4-plain", checks.folder / "mxfp4"
    make("gpt_oss", 1, plain, intermediate_size=32)
    tensors = load_file(plain / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = (experts, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*blocks, 16), dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(122, 126, blocks, dtype=torch.uint8)
    source.mkdir()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.mlp.router"]}
    (source / "config.json").write_text(json.dumps(config, indent=2))
    model, _ = load(source)
    grow(checks, "gpt_oss in MXFP4, K = 1, copies, x2", source, model, 1e-4, "--router", "copy")
    grow(checks, "gpt_oss in MXFP4, K = 1, copies, x1.5", source, model, 1e-4, "--router", "copy", "--experts", 9)


def check_round_trip(checks, family):
    source, data, run = (checks.folder / f"{family}-{part}" for part in ["source", "text.txt", "run"])
    model = make(family, 2, source)
    vocabulary = {letter: index for index, letter in enumerate("?abcdefghijklmnopqrstuvwxyz .")}
    split = dict(type="Split", pattern=dict(Regex="."), behavior="Isolated", invert=False)
    tokenizer = dict(
        version="1.0",
        truncation=None,
        padding=None,
        added_tokens=[],
        normalizer=None,
        pre_tokenizer=split,
        post_processor=None,
        decoder=None,
        model=dict(type="WordLevel", vocab=vocabulary, unk_token="?"),
    )
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    data.write_text("the cat sat on the mat. " * 500)
    target = checks.folder / f"{family}-export"
    name = f"{family}, imported, trained for a step, exported"
    try:
        flags = ["--init", source, "--data", data, "--data-cache", checks.folder / "data", "--context", 32]
        # A step so small that it changes nothing.
        flags += ["--tokens", 1, "--peak-lr", 1e-12, "--warmup", 0]
        checks.run("train", *flags, "--out", run, "--export", target)
        exported, wrong = load(target)
        apart = distance(logits(exported), logits(model), False)
        problem = f"keys: {wrong}" if wrong else f"logits differ by {apart:.1e}" if not apart < 1e-4 else ""
        if not (target / "tokenizer.json").exists():
            problem = "the tokenizer did not come along"
        checks.report(name, problem, f"logits differ by {apart:.1e} (promise 1e-04)")
    except Exception as error:  # noqa: BLE001
        checks.report(name, str(error))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bin", type=pathlib.Path, default="target/release", help="folder of the built programs")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(args.bin.resolve(), pathlib.Path(folder))
        for family in args.families:
            check_family(checks, family)
            if family in RUNNABLE:
                check_round_trip(checks, family)
            if family == "gpt_oss":
                check_mxfp4(checks)
        print(f"{checks.count} checks, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
