#!/usr/bin/env python3
"""Includes only go down: fails when a file includes a layer above its own, or LibTorch in the core."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# What each layer may include besides itself.
BELOW = {
    "base": [],
    "wire": ["base"],
    "mpi": ["base"],
    "shm": ["base"],
    "cuda": ["base"],
    "control": ["base", "wire", "mpi", "shm"],
    "data": ["base", "wire", "mpi", "shm", "cuda"],
    "engine": ["base", "wire", "control", "data"],
    "context": ["base", "wire", "mpi", "shm", "cuda", "control", "data", "engine"],
}
# Backends are known to the places that choose between them, and to nobody else.
CHOOSERS = ("connect.cc", "nccl_planes.cc")
BACKEND = re.compile(r"^(control|data)/(hierarchical|mpi|shm|nccl|inproc)_")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
LIBTORCH = ("torch/", "ATen/", "c10/")


def faults_in_core(layer, path, included):
    first = included.split("/")[0]
    if included.startswith(LIBTORCH):
        yield "LibTorch belongs to framework_ops"
    if first == "kolo":
        yield "the core knows nothing of the public API"
    if first in BELOW and first != layer and first not in BELOW[layer]:
        yield f"{layer} must not include {first}"
    if BACKEND.match(included) and layer != first and path.name not in CHOOSERS:
        yield "a backend is chosen in context/connect.cc or nccl_planes.cc"


def faults_in_public_header(included):
    if not included.startswith(("kolo/", "torch/")) and "/" in included:
        yield "a public header includes public headers, LibTorch and std only"


def includes(path):
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        match = INCLUDE.match(line)
        if match:
            yield number, match.group(1)


def main():
    faults = []
    checked = 0
    for layer in BELOW:
        for path in sorted((ROOT / "collectives" / layer).glob("*.*")):
            for number, included in includes(path):
                checked += 1
                for fault in faults_in_core(layer, path, included):
                    faults.append(f"{path.relative_to(ROOT)}:{number}: {included}: {fault}")
    for path in sorted((ROOT / "framework_ops" / "kolo").glob("*.h")):
        for number, included in includes(path):
            checked += 1
            for fault in faults_in_public_header(included):
                faults.append(f"{path.relative_to(ROOT)}:{number}: {included}: {fault}")
    unknown = [p.name for p in (ROOT / "collectives").iterdir() if p.is_dir() and p.name not in BELOW]
    faults += [f"collectives/{name}: a layer that this test does not know" for name in unknown]
    print(f"{checked} includes checked")
    if checked == 0:
        faults.append("nothing was checked")
    sys.exit("\n".join(faults) if faults else 0)


main()
