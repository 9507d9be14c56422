#!/usr/bin/env python3
"""Checks grown and exported checkpoints with transformers itself.

For every model type that `upcycle --families` lists a tiny random model is saved, grown by `upcycle` (the default recipe,
copies at a doubled K, half as many experts more, uneven counts), loaded with `from_pretrained`, and run beside the original.
No key may be missing or unexpected that is not so of the original. Where the forecast says that nothing moves, logits must
agree to 1e-4 (norm of the difference over the norm). In the first MoE layer, whose inputs are the same, the share of tokens
that choose other sources must be within a factor of two of the forecast.

Seven families are looked at more closely: K = 1 copies, a hyperplane split with K > 1, which leaves a few tokens near the
plane, which disturb those behind them (its promise is 1 % for the median token). GPT-OSS is also grown as MXFP4. OLMoE,
Mixtral and Qwen3-MoE are also imported, trained for one step and exported; the export must load.

    pip install torch transformers safetensors accelerate
    cargo build --release --bins
    python scripts/check_hf.py --bin target/release

Prints a line a check, and exits with 1 if one failed.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import hf_families
import hf_models
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

TINY = hf_models.TINY

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
    try:
        model, _ = load(source)
    except ImportError as error:
        checks.report("gpt_oss in MXFP4", str(error))
        return
    grow(checks, "gpt_oss in MXFP4, K = 1, copies, x2", source, model, 1e-4, "--router", "copy")
    grow(checks, "gpt_oss in MXFP4, K = 1, copies, x1.5", source, model, 1e-4, "--router", "copy", "--experts", 9)


def check_round_trip(checks, family):
    source, data, run = (checks.folder / f"{family}-{part}" for part in ["source", "text.txt", "run"])
    if family in hf_models.FAMILIES:
        model = hf_models.make(family)
        model.save_pretrained(source)
    else:
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


def check_own_model(checks):
    """A model of this program's default kind: sigmoid scores, selection biases."""
    name, target = "a model of this program, exported as glm4_moe", checks.folder / "own-export"
    try:
        checks.run("train", "--tokens", 20000, "--out", checks.folder / "own", "--export", target)
        model, wrong = load(target)
        problem = f"keys: {wrong}" if wrong else ""
        checks.report(name, problem, f"{sum(p.numel() for p in model.parameters())} parameters")
    except Exception as error:  # noqa: BLE001
        checks.report(name, str(error))


def model_types(checks):
    """All model types that `upcycle --families` lists, and those that it refuses."""
    types, refused = [], []
    last = []
    for line in checks.run("upcycle", "--families").splitlines():
        if not line.startswith(" "):
            continue
        text = line.strip()
        if text.startswith("cannot be grown"):
            refused += last
        elif not text.startswith(("nothing can be", "can be run", "dense models")):
            last = text.split(", ")
            types += last
    return types, refused


def run_whole(model):
    """Logits of random tokens, and the experts that the first router chooses, `[T, K]`."""
    chosen = []

    def look(module, inputs, output):
        for value in output if isinstance(output, tuple) else [output]:
            if isinstance(value, torch.Tensor) and value.dtype in (torch.int64, torch.int32) and value.dim() == 2:
                chosen.append(value)

    hooks = [
        module.register_forward_hook(look)
        for module in model.modules()
        if any(part in type(module).__name__ for part in ["Router", "Gate", "Gating"])
    ]
    torch.manual_seed(2)
    tokens = torch.randint(0, 90, (16, 32))
    with torch.no_grad():
        found = model(input_ids=tokens, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return found, chosen[0] if chosen else None


def load_as(model_class, folder):
    model, info = model_class.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    return model.eval(), {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys}


def check_model_type(checks, family):
    """A tiny model of the family, grown in four ways."""
    folder = checks.folder / "source"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        model = hf_families.make(family)
        model.save_pretrained(folder)
        model_class = type(model)
        model, wrong_before = load_as(model_class, folder)
        expected, chosen_before = run_whole(model)
    except Exception as error:  # noqa: BLE001
        checks.report(f"{family}, a tiny model", f"{type(error).__name__}: {error}".splitlines()[0][:200])
        return
    counts = checks.folder / "counts.json"
    counts.write_text(json.dumps({"counts": [[2, 2, 1, 1, 3, 1]]}))
    for what, flags in {
        "default recipe, x2": [],
        "copies, K = 4, x2": ["--router", "copy", "--top-k", 4],
        "default recipe, x1.5": ["--experts", 9],
        "counts 2 2 1 1 3 1": ["--experts", 10, "--selection", f"explicit:file={counts}"],
    }.items():
        target = checks.folder / "grown"
        shutil.rmtree(target, ignore_errors=True)
        try:
            said = json.loads(checks.run("upcycle", "--json", "--from", folder, "--to", target, *flags))
            grown, wrong = load_as(model_class, target)
            found, chosen = run_whole(grown)
            apart = distance(found, expected, False)
            problem = f"keys: {wrong}, of the source {wrong_before}" if wrong != wrong_before else ""
            forecast = said["forecast"]
            note = f"logits differ by {apart:.1e}"
            if apart != apart:
                problem = problem or "logits are no numbers"
            if forecast and forecast["gate_change"] < 1e-3:
                note += " (promise 1e-04)"
                if not apart < 1e-4:
                    problem = problem or f"logits differ by {apart:.1e}, more than 1e-04"
            comparable = chosen is not None and chosen_before is not None and len(chosen) == len(chosen_before)
            if forecast and comparable and not what.startswith("copies"):
                layers = json.loads((target / "upcycle.json").read_text())["layers"]
                source_of = torch.tensor(layers[0]["source_of"] + list(range(6, 64)))
                sources = [set(source_of[row].tolist()) for row in chosen]
                before = [set(row.tolist()) for row in chosen_before]
                measured = sum(a != b for a, b in zip(sources, before)) / len(before)
                foretold = forecast["changed_sources"]
                note += f", {100 * measured:.1f} % of tokens changed, foretold {100 * foretold:.1f} %"
                # A few of some hundred tokens are chance.
                if max(measured, foretold) > 2 * min(measured, foretold) + 0.03:
                    problem = problem or f"{measured:.3f} of tokens changed, foretold {foretold:.3f}"
            checks.report(f"{family}, {what}", problem, note)
        except Exception as error:  # noqa: BLE001
            checks.report(f"{family}, {what}", str(error).splitlines()[0][:200])


DENSE = ["llama", "mistral", "qwen2", "qwen3"]


def check_dense(checks, family):
    """A tiny dense model, grown to a MoE model of two families' kinds."""
    source = checks.folder / "dense"
    shutil.rmtree(source, ignore_errors=True)
    model = hf_families.make(family)
    model.save_pretrained(source)
    expected, _ = run_whole(model)
    for what, experts, flags, promised in [
        ("sparse-upcycling", 4, [], True),
        ("sparse-upcycling, K = 2", 4, ["--top-k", 2], True),
        ("virtual-groups", 16, ["--recipe", "virtual-groups"], True),
        ("virtual-groups, K = 8", 16, ["--recipe", "virtual-groups", "--top-k", 8], True),
        ("drop-upcycling", 4, ["--recipe", "drop-upcycling"], False),
    ]:
        target = checks.folder / "grown"
        shutil.rmtree(target, ignore_errors=True)
        name = f"{family}, dense, {what}, {experts} experts"
        try:
            checks.run("upcycle", "--from", source, "--to", target, "--experts", experts, *flags)
            grown, wrong = load(target)
            apart = distance(run_whole(grown)[0], expected, False)
            problem = f"keys: {wrong}" if wrong else ""
            if apart != apart or (promised and not apart < 1e-4) or (not promised and apart < 1e-4):
                problem = problem or f"logits differ by {apart:.1e}"
            checks.report(name, problem, f"{type(grown).__name__}, logits differ by {apart:.1e}")
        except Exception as error:  # noqa: BLE001
            checks.report(name, str(error).splitlines()[0][:200])


def check_model_types(checks, only):
    types, refused = model_types(checks)
    checked = []
    for family in types:
        if only and family not in only:
            continue
        if family in refused:
            print(f"refused {family:56} see upcycle --families", flush=True)
        elif family in hf_families.NOT_BUILT:
            print(f"not run {family:56} {hf_families.NOT_BUILT[family]}", flush=True)
        elif hf_families.is_text_of_another(family):
            continue
        else:
            failed = checks.failed
            check_model_type(checks, family)
            checked.append((family, checks.failed == failed))
    passed = [family for family, passed in checked if passed]
    print(f"{len(passed)} of {len(checked)} model types pass", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--bin", type=pathlib.Path, default="target/release", help="folder of the built programs")
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES), help="those to look at closely")
    parser.add_argument("--types", nargs="*", default=[], help="only these model types, all without")
    args = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(args.bin.resolve(), pathlib.Path(folder))
        check_model_types(checks, args.types)
        for family in DENSE:
            check_dense(checks, family)
        for family in args.families:
            check_family(checks, family)
            if family == "gpt_oss":
                check_mxfp4(checks)
        for family in [*RUNNABLE, *hf_models.FAMILIES]:
            check_round_trip(checks, family)
        check_own_model(checks)
        print(f"{checks.count} checks, {checks.failed} failed")
    sys.exit(1 if checks.failed else 0)


if __name__ == "__main__":
    main()
