#!/usr/bin/env python3
"""What training together costs: ResNet-18 on N ranks, against N processes that know nothing of each other.

usage: training_overhead.py BIN [--ranks N] [--pairs P] [--images I] [--batch-size B]

Each rank, and each process, has one core, one thread and the same number of images. Both ways alternate, P
times; of each run the second epoch counts. Prints seconds per step and the ratio of each pair, by quartiles.
"apart" is the processes' mean. Ranks that train together go as fast as the slowest of them, so where cores are not
equally fast, part of the ratio is "slowest apart / apart", which nothing that keeps ranks in step can avoid.
BIN is the folder of kolorun and resnet18_cifar10, such as build/release/bin. Other work on this machine spoils
the figures.
"""

import argparse
import csv
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--images", type=int, default=320, help="of each rank in an epoch")
    parser.add_argument("--batch-size", type=int, default=32)
    return parser.parse_args()


def training(options, images, history):
    return [str(options.bin / "resnet18_cifar10"), "--epochs", "2", "--threads", "1",
            "--batch-size", str(options.batch_size), "--limit-train", str(images), "--limit-test", "64",
            "--history", str(history)]


def run_all(commands):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    for process, command in zip(running, commands):
        if process.wait() != 0:
            sys.exit(f"exit code {process.returncode}: {' '.join(command)}")


def seconds_per_step(options, history):
    with open(history) as file:
        last = list(csv.DictReader(file))[-1]
    return float(last["seconds"]) / (options.images / options.batch_size)


def together(options, folder):
    history = folder / "together.csv"
    run_all([[str(options.bin / "kolorun"), "-np", str(options.ranks),
              *training(options, options.images * options.ranks, history)]])
    return seconds_per_step(options, history)


def apart(options, folder, cores):
    """Of each process."""
    histories = [folder / f"apart-{i}.csv" for i in range(options.ranks)]
    run_all([["taskset", "-c", str(core), *training(options, options.images, history)]
             for core, history in zip(cores, histories)])
    return [seconds_per_step(options, history) for history in histories]


def show(name, values, unit):
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    print(f"{name:<26}" + "  ".join(f"{value:.4f}" for value in quartiles) + f"  {unit}")


def main():
    options = arguments()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.ranks:
        sys.exit(f"{options.ranks} ranks need as many cores; there are {len(cores)}")
    with tempfile.TemporaryDirectory() as name:
        pairs = []
        for number in range(options.pairs):
            folder = pathlib.Path(name)
            pairs.append((together(options, folder), apart(options, folder, cores)))
            each = " and ".join(f"{seconds:.4f}" for seconds in pairs[-1][1])
            print(f"pair {number + 1} of {options.pairs}: {pairs[-1][0]:.4f} s together, {each} s apart",
                  file=sys.stderr)
    print(f"{options.pairs} pairs, {options.ranks} ranks, batch {options.batch_size}: p25, median, p75")
    show("together", [pair[0] for pair in pairs], "s/step")
    show("apart", [statistics.mean(pair[1]) for pair in pairs], "s/step")
    show("together / apart", [pair[0] / statistics.mean(pair[1]) for pair in pairs], "")
    show("slowest apart / apart", [max(pair[1]) / statistics.mean(pair[1]) for pair in pairs], "")
    show("together / slowest apart", [pair[0] / max(pair[1]) for pair in pairs], "")


main()
