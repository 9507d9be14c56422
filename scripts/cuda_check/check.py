#!/usr/bin/env python3
"""Compiles every CUDA kernel of this project without a GPU, and assembles it for several generations of GPUs.

    python3 scripts/cuda_check/check.py [--capabilities 80,90,100] [--venv DIR] [--out FILE] [-- CARGO...]

The tests `cuda` of upcycle-kernels and upcycle-train launch every kernel in all its variants, and training steps, on a
driver that has no GPU (driver.rs, beside this file). NVIDIA's own compiler NVRTC makes PTX of the kernels, and ptxas
assembles that. It is an error if either of them fails, if a matrix product keeps more than a few registers in memory (spills), if a kernel
wants more shared memory than a block may have, or if a training step reads back more than its loss and norm.

NVRTC, ptxas and the headers come from PyPI (nvidia-cuda-nvrtc-cu12, nvidia-cuda-nvcc-cu12, nvidia-cuda-runtime-cu12) into
--venv, once. --out writes registers, shared memory and occupancy of every kernel as a table in Markdown.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
PACKAGES = [
    "nvidia-cuda-nvrtc-cu12==12.9.*",
    "nvidia-cuda-nvcc-cu12==12.9.*",
    "nvidia-cuda-runtime-cu12==12.9.*",
]
# Ours; others are Burn's.
PRODUCTS = ("product", "weight_gradient")
# ptxas keeps a number or two of a small tile in memory where that makes room for one more block.
FEW_BYTES = 32
# Of a multiprocessor, and shared bytes that a block may have and the multiprocessor has.
REGISTERS, THREADS, BLOCKS = 65536, 2048, 32
SHARED = {80: (163 << 10, 164 << 10), 90: (227 << 10, 228 << 10), 100: (227 << 10, 228 << 10)}


def run(command, **options):
    """Runs a command and gives what it prints; its failure ends the check."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def toolkit(venv, place):
    """NVIDIA's compilers, in a folder that looks like an installed toolkit; gives ptxas."""
    if not (venv / "bin" / "python").exists():
        run([sys.executable, "-m", "venv", venv])
    run([venv / "bin" / "python", "-m", "pip", "install", "--quiet", *PACKAGES])
    [packages] = (venv / "lib").glob("python3*/site-packages/nvidia")
    include, libraries = place / "include", place / "lib"
    include.mkdir()
    libraries.mkdir()
    for headers in packages.glob("*/include"):
        for header in headers.iterdir():
            link = include / header.name
            if not link.exists():
                link.symlink_to(header)
    for library in (packages / "cuda_nvrtc" / "lib").glob("*.so*"):
        (libraries / library.name).symlink_to(library)
    (libraries / "libnvrtc.so").symlink_to(packages / "cuda_nvrtc" / "lib" / "libnvrtc.so.12")
    return packages / "cuda_nvcc" / "bin" / "ptxas"


def test_programs(selection):
    """The tests that launch kernels, built with these packages and features, or with no more than they need."""
    packages = ["upcycle-kernels", "upcycle-train"]
    if not selection:
        for package in packages:
            selection += ["--package", package, "--features", f"{package}/cuda"]
    command = ["cargo", "test", "--no-run", "--message-format=json", "--test", "cuda", *selection]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("the tests of the kernels cannot be built")
    messages = map(json.loads, done.stdout.splitlines())
    built = (message for message in messages if message.get("executable"))
    programs = [message["executable"] for message in built if message["target"]["name"] == "cuda"]
    if len(programs) != len(packages):
        sys.exit(f"there should be a test program for each of {packages}, not {programs}")
    return programs


def our_kernels():
    """Names of the kernels that are written here; the others are Burn's."""
    sources = (PROJECT / "crates" / "kernels" / "src" / "cubecl").glob("*.rs")
    names = [re.findall(r"fn (\w+_kernel)\b", source.read_text()) for source in sources]
    return {name for found in names for name in found}


def launched(program, toolkit_dir, capability, place):
    """Runs a test; gives the names of modules, and threads and shared bytes of their launches."""
    place.mkdir(parents=True)
    home = place / "home"
    home.mkdir()
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(toolkit_dir / "lib"),
        "CUDA_PATH": str(toolkit_dir),
        "CUDA_CHECK_DIR": str(place),
        "CUDA_CHECK_SM": str(capability),
        # Nothing that an earlier run has tuned or compiled.
        "HOME": str(home),
    }
    said = run([program, "--ignored", "--nocapture", "--test-threads", "1"], env=environment, cwd=home)
    for line in said.splitlines():
        # The test's name may stand before it.
        if "step: " in line:
            print(f"compute capability {capability}: {line[line.index('step: '):]}")
    names, launches = {}, collections.defaultdict(set)
    for line in (place / "log.tsv").read_text().splitlines():
        kind, *fields = line.split("\t")
        if kind == "module":
            names[int(fields[0])] = fields[1]
        elif kind == "launch":
            launches[int(fields[0])].add((int(fields[2]), int(fields[3])))
    return names, launches


def assembled(ptxas, path, capability):
    """Registers, spilled bytes and static shared bytes of a module."""
    architecture = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    text = run([ptxas, "-v", f"--gpu-name={architecture}", "-o", os.devnull, path])
    number = lambda pattern: int(match.group(1)) if (match := re.search(pattern, text)) else 0
    spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
    return number(r"Used (\d+) registers"), spilled, number(r"(\d+) bytes smem")


def occupancy(registers, threads, shared, capability):
    """Share of a multiprocessor's threads that can be there at a time, estimated as NVIDIA's calculator does."""
    warps = -(-threads // 32)
    # Registers are given to warps in steps of 256.
    of_warp = -(-registers * 32 // 256) * 256
    blocks = min(
        BLOCKS,
        THREADS // threads,
        REGISTERS // max(1, of_warp * warps),
        SHARED[capability][1] // (shared + 1024),
    )
    return blocks * warps * 32 / THREADS


def table(rows):
    """A row for the variants of a kernel with as many threads."""
    lines = [
        "| capability | kernel | threads | variants | registers | spilled bytes | shared bytes | occupancy |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    variants = collections.defaultdict(set)
    for capability, name, threads, *costs in rows:
        variants[capability, name, threads].add(tuple(costs))
    for (capability, name, threads), costs in sorted(variants.items()):
        of_each = [occupancy(registers, threads, shared, capability) for registers, _, shared in costs]
        registers, spilled, shared = zip(*costs)
        cells = [
            capability,
            f"`{name}`",
            threads,
            len(costs),
            span(registers),
            span(spilled),
            span(shared),
            span([f"{share:.0%}" for share in sorted(of_each)]),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def span(values):
    """The smallest and the largest of sorted or of comparable values."""
    low, high = (values[0], values[-1]) if isinstance(values, list) else (min(values), max(values))
    return f"{low}" if low == high else f"{low} to {high}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--capabilities", default="80,90,100", help="of the GPUs to compile for")
    parser.add_argument("--venv", type=pathlib.Path, default=PROJECT / "target" / "cuda_check", metavar="DIR")
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE")
    parser.add_argument("cargo", nargs="*", help="packages and features to build with, such as those of an earlier build")
    arguments = parser.parse_args()
    capabilities = [int(capability) for capability in arguments.capabilities.split(",")]
    if unknown := [capability for capability in capabilities if capability not in SHARED]:
        parser.error(f"--capabilities: {unknown} are not among {list(SHARED)}")

    ours = our_kernels()
    programs = test_programs(arguments.cargo)
    problems, rows, products = [], set(), 0
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        toolkit_dir = work / "toolkit"
        toolkit_dir.mkdir()
        ptxas = toolkit(arguments.venv.resolve(), toolkit_dir)
        driver = ["rustc", "--edition", "2024", "-O", "--crate-type", "cdylib", HERE / "driver.rs"]
        run([*driver, "-o", toolkit_dir / "lib" / "libcuda.so"])
        for capability in capabilities:
            count = 0
            for index, program in enumerate(programs):
                place = work / str(capability) / str(index)
                names, launches = launched(program, toolkit_dir, capability, place)
                count += len(names)
                for module, name in names.items():
                    registers, spilled, static = assembled(ptxas, place / f"{module}.ptx", capability)
                    own = next((kernel for kernel in ours if name.startswith(kernel)), None)
                    is_product = own is not None and own.startswith(PRODUCTS)
                    products += is_product
                    for threads, dynamic in launches[module]:
                        shared = static + dynamic
                        where = f"{name} for {capability}, {threads} threads"
                        if own is not None:
                            rows.add((capability, name, threads, registers, spilled, shared))
                        if spilled > FEW_BYTES and is_product:
                            problems.append(f"{where}: {spilled} bytes of registers are spilled")
                        if shared > SHARED[capability][0]:
                            problems.append(f"{where}: {shared} bytes of shared memory are too many")
            print(f"compute capability {capability}: {count} kernels compiled and assembled")

    if arguments.out:
        arguments.out.write_text(table(rows))
    if problems:
        sys.exit("\n".join(problems))
    if products == 0:
        sys.exit("no matrix product was launched: nothing was checked")


main()
