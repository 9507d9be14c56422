#!/usr/bin/env python3
"""Compares what processes that train one model take of memory with what a plan says for a device.

Trains a model of many experts and short sequences, of whose memory nearly all is parameters, gradients and moments, as 1, 2 and
4 processes of this machine, and prints the largest resident size of any of them beside the plan of `sweep --dry-run`. What a
process takes whose model is negligible is subtracted.

    cargo build
    scripts/devices_memory.py target/debug/burn-upcycle

Takes a minute, 3 GB of memory and 1 GB of disk. Exits with 1 if a process takes 25 % more or less than planned, or if more
processes or more blocks of experts do not take less.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

# Processes, and how many of them share the experts.
TRAININGS = [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 4)]
# The first of each pair takes less.
LESS = [
    ((2, 1), (1, 1)),
    ((4, 1), (2, 1)),
    ((2, 2), (2, 1)),
    ((4, 2), (4, 1)),
    ((4, 2), (2, 2)),
    ((4, 4), (4, 2)),
]
MOST_OFF = 0.25

SCALE = """
name = "{name}"
[model]
context = 16
d_model = {width}
layers = 4
heads = 2
kv_heads = 2
experts = 64
top_k = 2
d_expert = {width}
[training]
pretrain_steps = 3
rows = 4
peak_lr = 1e-3
warmup_steps = 1
evaluation_steps = 10
evaluation_rows = 4
"""
# Parameters of experts are 50 million, or a hundredth of that.
WIDTHS = {"large": 256, "negligible": 24}

# Nothing of a launcher or a setting of the allocator that this runs in.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK") and not name.startswith(("SLURM", "MIMALLOC"))
}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def peaks(program, scale, processes, blocks):
    """Largest resident size of each process of a training, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "train", "--scale", scale, "--out", f"{folder}/run", "--backend", "cpu", "--threads", "1"]
        command += ["--expert-parallel", str(blocks), "--no-sample", "--ui", "plain", "--force"]
        if processes > 1:
            command += ["--meet", f"127.0.0.1:{free_port()}"]
        logs = [open(f"{folder}/{rank}.log", "w+") for rank in range(processes)]
        started = []
        for rank, log in enumerate(logs):
            place = {"RANK": str(rank), "WORLD_SIZE": str(processes)} if processes > 1 else {}
            started.append(subprocess.Popen(command, env=ENVIRONMENT | place, stdout=log, stderr=log))
        sizes, failed = [], False
        for process in started:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            failed |= process.returncode != 0
            sizes.append(1024 * usage.ru_maxrss)
        if failed:
            for log in logs:
                log.seek(0)
                print(log.read(), file=sys.stderr)
            sys.exit(f"a training by {processes} processes failed")
        return sizes


def planned(program, scale, processes, blocks):
    """What the first stage of a sweep, which trains this model, takes of a device, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "sweep", "--scales", scale, "--out", folder, "--backend", "cpu", "--dry-run", "--json"]
        command += ["--devices", str(processes), "--expert-parallel", str(blocks)]
        # A stated speed, so that none is measured.
        command += ["--cpt", "0.5", "--seeds", "1", "--recipes", "exact", "--device-speed", "1TFLOP/s"]
        plan = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return json.loads(plan.stdout)["stages"][0]["peak_memory"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="burn-upcycle")
    program = str(pathlib.Path(parser.parse_args().program).resolve())
    with tempfile.TemporaryDirectory() as folder:
        scales = {}
        for name, width in WIDTHS.items():
            scales[name] = f"{folder}/{name}.toml"
            pathlib.Path(scales[name]).write_text(SCALE.format(name=name, width=width))
        measured, wrong = {}, []
        print("processes  expert-parallel  planned MiB  measured MiB  ratio")
        for training in TRAININGS:
            without = max(peaks(program, scales["negligible"], *training))
            measured[training] = max(peaks(program, scales["large"], *training)) - without
            plan = planned(program, scales["large"], *training)
            ratio = measured[training] / plan
            sizes = f"{plan / 2**20:11.0f}  {measured[training] / 2**20:12.0f}"
            print(f"{training[0]:9}  {training[1]:15}  {sizes}  {ratio:5.2f}", flush=True)
            if abs(ratio - 1) > MOST_OFF:
                wrong.append(f"{training} takes {ratio:.2f} of what was planned")
    for more, fewer in LESS:
        if measured[more] >= measured[fewer]:
            wrong.append(f"{more} takes no less than {fewer}")
    if wrong:
        sys.exit("devices_memory: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
