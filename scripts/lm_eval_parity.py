#!/usr/bin/env python3
"""Compares `evaluate` with lm-evaluation-harness on the same checkpoint and the same items.

Trains a tiny model on made-up text with a BPE tokenizer and exports it (or takes a checkpoint of transformers with
--checkpoint), writes a multiple-choice task, without and with examples, minimal pairs, a cloze and a perplexity task as files
for both programs, and prints their numbers side by side. Needs no network.

    pip install torch transformers accelerate lm-eval
    cargo build --release --bins
    python scripts/lm_eval_parity.py --bin target/release

Exits with 1 if a number, or the standard error of a share of items, differs by more than 1e-4 (relative where it is above 1).
"""

import argparse
import json
import logging
import os
import pathlib
import random
import subprocess
import sys
import tempfile

# Both programs read what is on this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

PEOPLE = ["Anna", "Ben", "Clara", "David", "Zoë"]
VERBS = ["finds", "paints", "repairs", "sells", "drops"]
THINGS = ["an old bicycle", "a red kettle", "two boats", "the café's door", "a map of the city"]
PLACES = ["in the garden", "by the river", "at the station", "under a bridge", "on the roof"]
TOLERANCE = 1e-4


def sentence(rng):
    return f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(THINGS)} {rng.choice(PLACES)}."


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def choice_row(rng):
    places = rng.sample(PLACES, 4)
    question = f"{rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(THINGS)}. Where?"
    return {"question": question, "answers": places, "label": rng.randrange(4)}


def write_data(folder):
    rng = random.Random(1)
    write_lines(folder / "choice.jsonl", [choice_row(rng) for _ in range(40)])
    write_lines(folder / "examples.jsonl", [choice_row(rng) for _ in range(3)])
    pairs = []
    for _ in range(40):
        good = sentence(rng)
        words = good.split(" ")
        words[0], words[1] = words[1], words[0]
        pairs.append({"good": good, "bad": " ".join(words)})
    write_lines(folder / "pairs.jsonl", pairs)
    clozes = [sentence(rng)[:-1].rsplit(" ", 1) for _ in range(40)]
    write_lines(folder / "cloze.jsonl", [{"start": start, "word": word} for start, word in clozes])
    # Longer than the context of the model, with space at the end of some.
    documents = [" ".join(sentence(rng) for _ in range(count)) for count in (1, 7, 30)]
    documents[1] += "\n"
    write_lines(folder / "documents.jsonl", [{"text": text} for text in documents])


# For each task: what evaluate reads, and what lm-evaluation-harness reads.
CHOICE_TOML = """kind = "multiple-choice"
data = "choice.jsonl"
context = "Question: {question}\\nAnswer:"
choices = "{answers}"
answer = "{label}"
metrics = ["acc", "acc_norm", "acc_bytes"]
"""
CHOICE_YAML = """output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{answers}}"
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
"""
TASKS = {
    "choice": (CHOICE_TOML, CHOICE_YAML, "choice.jsonl"),
    "fewshot": (
        CHOICE_TOML + 'fewshot = 2\nfewshot_data = "examples.jsonl"\n',
        CHOICE_YAML + "fewshot_split: train\nnum_fewshot: 2\nfewshot_config: {sampler: first_n}\n",
        "choice.jsonl",
    ),
    "pairs": (
        'kind = "minimal-pairs"\ndata = "pairs.jsonl"\ngood = "{good}"\nbad = "{bad}"\n',
        """output_type: multiple_choice
doc_to_text: ""
doc_to_choice: "{{[good, bad]}}"
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        "pairs.jsonl",
    ),
    "cloze": (
        'kind = "cloze"\ndata = "cloze.jsonl"\ncontext = "{start}"\ntarget = "{word}"\n',
        """output_type: loglikelihood
doc_to_text: "{{start}}"
doc_to_target: "{{' ' + word}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
        "cloze.jsonl",
    ),
    "documents": (
        'kind = "perplexity"\ndata = "documents.jsonl"\ntext = "{text}"\n',
        """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
        "documents.jsonl",
    ),
}


def write_tasks(folder):
    for name, (toml, yaml, data) in TASKS.items():
        (folder / f"{name}.toml").write_text(toml)
        files = {"test": str(folder / data), "train": str(folder / "examples.jsonl")}
        if name != "fewshot":
            del files["train"]
        head = f"task: parity_{name}\ndataset_path: json\ntest_split: test\ndataset_kwargs:\n  data_files: {json.dumps(files)}\n"
        (folder / f"{name}.yaml").write_text(head + yaml)


def train(binaries, folder):
    rng = random.Random(2)
    text = "\n\f\n".join(" ".join(sentence(rng) for _ in range(20)) for _ in range(200))
    (folder / "corpus.txt").write_text(text)
    checkpoint = folder / "exported"
    command = [binaries / "train", "--scale", "tiny", "--data", folder / "corpus.txt", "--tokenizer", "bpe:400"]
    command += ["--tokens", "400k", "--out", folder / "run", "--data-cache", folder / "cache", "--export", checkpoint]
    subprocess.run(command, check=True)
    return checkpoint


def describe_tokenizer(checkpoint):
    """Without this file transformers does not know the token that ends texts."""
    path = checkpoint / "tokenizer_config.json"
    if not path.exists():
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
        path.write_text(json.dumps(config))


def ours(binaries, folder, checkpoint):
    tasks = ",".join(str(folder / f"{name}.toml") for name in TASKS)
    command = [binaries / "evaluate", "--from", checkpoint, "--tasks", tasks, "--backend", "cpu", "--json"]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    (found,) = json.loads(output)["checkpoints"]
    return {
        (task["task"], metric["name"]): (metric["value"], metric["standard_error"])
        for task in found["tasks"]
        for metric in task["metrics"]
    }


def theirs(folder, checkpoint):
    import lm_eval
    from lm_eval.tasks import TaskManager

    # It tells of every item that it cuts off.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(checkpoint), "dtype": "float32"},
        tasks=[f"parity_{name}" for name in TASKS],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=4,
        # For standard errors of perplexities alone, which are drawn at random and not compared.
        bootstrap_iters=2,
    )
    numbers = {}
    for name in TASKS:
        for key, value in found["results"][f"parity_{name}"].items():
            metric, _, kind = key.partition(",")
            if kind == "none" and not metric.endswith("_stderr"):
                error = found["results"][f"parity_{name}"].get(f"{metric}_stderr,none")
                numbers[name, metric] = (value, error if isinstance(error, float) else None)
    return numbers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("target/release"))
    parser.add_argument("--checkpoint", type=pathlib.Path, help="a checkpoint of transformers, with its tokenizer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_data(folder)
        write_tasks(folder)
        checkpoint = args.checkpoint or train(args.bin, folder)
        if not args.checkpoint:
            describe_tokenizer(checkpoint)
        own, harness = ours(args.bin, folder, checkpoint), theirs(folder, checkpoint)
    failed = False
    print(f"{'task':10} {'metric':16} {'evaluate':>12} {'lm-eval':>12}   standard errors")
    for key in sorted(harness):
        (value, error), (expected, expected_error) = own.get(key, (float("nan"), None)), harness[key]
        is_near = abs(value - expected) <= TOLERANCE * max(1.0, abs(expected))
        both = error is not None and expected_error is not None and key[1].startswith("acc")
        is_near &= not both or abs(error - expected_error) <= TOLERANCE
        failed |= not is_near
        errors = f"{error:.6f} {expected_error:.6f}" if both else ""
        print(f"{key[0]:10} {key[1]:16} {value:12.6f} {expected:12.6f}   {errors}{'' if is_near else '  DIFFERS'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
