#!/usr/bin/env python3
"""Records utility scores of experts with transformers, for `upcycle --scores`.

    pip install torch transformers
    python scripts/record_scores.py --model DIR --text corpus.txt --score load --out scores.json
    upcycle --from DIR --to OUT --selection greedy:score=load --scores scores.json

`load` is the share of tokens that are routed to an expert. `gradient-squared` is ||g||^2 of the language modelling loss,
with gradients averaged over all sequences, taken of gate and up together and of down, and averaged: the score that the
paper recommends. It needs memory for gradients: load the model in bfloat16 on a large GPU.
"""

import argparse
import json
import re
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--model", required=True, help="folder or name on the hub")
parser.add_argument("--text", required=True, help="a text file")
parser.add_argument("--score", choices=["load", "gradient-squared"], default="load")
parser.add_argument("--sequences", type=int, default=64)
parser.add_argument("--length", type=int, default=1024, help="tokens of a sequence")
parser.add_argument("--dtype", default="bfloat16")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--out", default="scores.json")
args = parser.parse_args()

with open(args.text, encoding="utf-8") as file:
    text = file.read()
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).eval()
tokens = tokenizer(text, return_tensors="pt").input_ids[0]
longest = getattr(model.config, "max_position_embeddings", args.length)
args.length = min(args.length, longest)
sequences = tokens[: len(tokens) // args.length * args.length].view(-1, args.length)[: args.sequences]
if not len(sequences):
    sys.exit(f"{args.text} has {len(tokens)} tokens, fewer than a sequence of {args.length}; give more text or a smaller --length")

if args.score == "load":
    if any(name.endswith("e_score_correction_bias") for name, _ in model.named_buffers()) or any(
        name.endswith("e_score_correction_bias") for name, _ in model.named_parameters()
    ):
        sys.exit("this family selects by biases and groups, which router logits do not tell; use --score gradient-squared")
    counts = None
    for sequence in sequences:
        with torch.no_grad():
            routers = model(sequence[None].to(args.device), output_router_logits=True).router_logits
        chosen = [logits.float().topk(model.config.num_experts_per_tok).indices for logits in routers]
        step = [torch.bincount(c.flatten(), minlength=l.shape[-1]) for c, l in zip(chosen, routers)]
        counts = step if counts is None else [a + b for a, b in zip(counts, step)]
    layers = [(count / count.sum()).tolist() for count in counts]
else:
    for sequence in sequences:
        batch = sequence[None].to(args.device)
        (model(batch, labels=batch).loss / len(sequences)).backward()
    # Squared norms by layer, of [experts] each: gate and up, and down.
    squares = {}
    for name, parameter in model.named_parameters():
        place = re.search(r"layers\.(\d+)\..*experts\.(?:(\d+)\.)?(gate_up_proj|gate_proj|up_proj|down_proj|w1|w2|w3)", name)
        if not place or "bias" in name or "shared_expert" in name or parameter.grad is None:
            continue
        layer, expert, matrix = int(place[1]), place[2], place[3]
        gradient = parameter.grad.float().square()
        kind = 1 if matrix in ("down_proj", "w2") else 0
        sums = squares.setdefault(layer, ({}, {}))[kind]
        each = {int(expert): gradient.sum()} if expert else dict(enumerate(gradient.flatten(1).sum(1)))
        for index, value in each.items():
            sums[index] = sums.get(index, 0.0) + value.item()
    layers = [
        [(first[expert] + second[expert]) / 2 for expert in range(len(first))]
        for _, (first, second) in sorted(squares.items())
    ]

if len({len(layer) for layer in layers}) != 1:
    sys.exit("layers have different numbers of experts; is this a family that upcycle knows?")
with open(args.out, "w", encoding="utf-8") as file:
    json.dump({"score": args.score, "layers": layers}, file)
print(f"{args.out}: {args.score} of {len(layers[0])} experts in {len(layers)} MoE layers")
