#!/usr/bin/env python3
"""Compares the event file of a run with its metrics.jsonl, read by TensorBoard itself.

Every scalar of every line must be there once, with the step and the time of the line, and the value that 32 bits hold; no
other may be there.

    pip install tensorboard
    cargo run --release --bin train -- --out runs/logged
    scripts/tensorboard_check.py runs/logged

Takes any number of folders, also those that `sweep --logs` writes. Prints a line a folder, and exits with 1 if one differs.
"""

import argparse
import json
import pathlib
import struct
import sys

from curves import scalars_of
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator


def nearest_f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def expected(folder):
    """Step, time (none in lines of older versions) and value of every scalar, by name."""
    points = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        for name, value in scalars_of(line):
            points.setdefault(name, []).append((line["step"], line.get("time"), nearest_f32(value)))
    return points


def found(folder):
    # No sampling: 0 keeps every event.
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})
    events.Reload()
    names = events.Tags()[SCALARS]
    return {name: [(event.step, event.wall_time, event.value) for event in events.Scalars(name)] for name in names}


def same(expected, found):
    step, time, value = expected
    return step == found[0] and time in (None, found[1]) and value == found[2]


def differences(expected, found):
    for name in sorted(expected.keys() | found.keys()):
        there, read = expected.get(name, []), found.get(name, [])
        if len(there) != len(read):
            yield f"{name}: {len(there)} points in metrics.jsonl, {len(read)} in the event file"
        for point, event in zip(there, read):
            if not same(point, event):
                yield f"{name}: {point} in metrics.jsonl, {event} in the event file"
                break


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="+", type=pathlib.Path, help="a folder of `train --out`")
    failed = False
    for folder in parser.parse_args().folder:
        metrics, events = expected(folder), found(folder)
        problems = list(differences(metrics, events))
        for problem in problems:
            print(f"{folder}: {problem}")
        # A run without a line is no run that agrees.
        if problems or not metrics:
            failed = True
            print(f"{folder}: differs" if problems else f"{folder}: metrics.jsonl has no line")
        else:
            print(f"{folder}: {sum(map(len, metrics.values()))} points of {len(metrics)} scalars agree")
    sys.exit(failed)


if __name__ == "__main__":
    main()
