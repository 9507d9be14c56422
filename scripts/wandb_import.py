#!/usr/bin/env python3
"""Makes offline runs of Weights & Biases from runs of `train`, or from the folders that `sweep --logs` writes.

    pip install wandb
    scripts/wandb_import.py --project moe runs/logged
    wandb sync wandb/offline-run-*

Takes any number of folders with a metrics.jsonl, each of which becomes a run of its name. Names are those in TensorBoard, and
`tokens`; run.json, where there is one, is the configuration. Nothing is sent before `wandb sync`.
"""

import argparse
import json
import pathlib

import wandb
from curves import scalars_of


def history(folder):
    """All that is known of a step, oldest first: an evaluation belongs to the step before it."""
    steps = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        row = steps.setdefault(line["step"], {"tokens": line["tokens"]})
        row.update(scalars_of(line))
        if "time" in line:
            row.setdefault("_timestamp", line["time"])
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--project", default="burn-upcycle", help="the project of the runs")
    parser.add_argument("folder", nargs="+", type=pathlib.Path, help="a folder of `train --out`")
    arguments = parser.parse_args()
    for folder in arguments.folder:
        config = folder / "run.json"
        run = wandb.init(
            project=arguments.project,
            name=folder.resolve().name,
            mode="offline",
            config=json.loads(config.read_text()) if config.exists() else None,
            # What this machine does now is not what the run did.
            settings=wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True),
        )
        for step, row in history(folder).items():
            run.log(row, step=step)
        run.finish()


if __name__ == "__main__":
    main()
