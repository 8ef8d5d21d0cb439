#!/usr/bin/env python3
"""Trains ResNet-18 on two ranks and reads the timeline: all-reduce overlaps backward.

Usage: overlap_test.py --kolorun KOLORUN --program RESNET18_CIFAR10 [--gpu]
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.append(str(pathlib.Path(__file__).resolve().parent))
from example_programs import write_fashion_mnist  # noqa: E402

RANKS = 2
STEPS = 3
BATCH = 8


def read_events(path):
    lines = path.read_text().splitlines()
    assert lines[0].strip() == "[", lines[0]
    return [json.loads(line.strip().rstrip(",")) for line in lines[1:]]


def train(arguments, folder, timeline):
    write_fashion_mnist(folder / "data")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KOLO_")}
    if arguments.gpu:
        environment["KOLO_SHARED_GPU"] = "on"
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [arguments.kolorun, "-np", str(RANKS), "--timeline-filename", timeline, arguments.program,
         "--data-dir", folder / "data", "--epochs", "1", "--batch-size", str(BATCH),
         "--limit-train", str(BATCH * RANKS * STEPS), "--limit-test", "8"],
        env=environment, check=True, stdin=subprocess.DEVNULL, timeout=200, text=True,
        stdout=subprocess.PIPE)
    if arguments.gpu and " on cuda " not in done.stdout:
        print("skipped: this host, or this build, has no GPU")
        sys.exit(77)


def slices(events, rank, track):
    """The slices of the tracks whose name begins so."""
    threads = {e["tid"] for e in events if e["pid"] == rank and e["name"] == "thread_name"
               and e["args"]["name"].startswith(track)}
    return [e for e in events if e["ph"] == "X" and e["pid"] == rank and e["tid"] in threads]


def check_rank(events, rank):
    optimizer = slices(events, rank, "optimizer0")
    count = collections.Counter(e["name"] for e in optimizer)
    print(f"rank {rank}: {dict(count)}")
    assert count["backward"] == count["step"] == STEPS, count

    groups = [e for e in slices(events, rank, "collectives")
              if any(t.endswith(".weight") for t in e.get("args", {}).get("tensors", []))]
    assert groups, "no group of gradients"
    reduces = [e for e in slices(events, rank, "collectives") if e["name"] == "reduce"
               and any(g["tid"] == e["tid"] and g["ts"] <= e["ts"] <= g["ts"] + g["dur"]
                       for g in groups)]
    for backward in (e for e in optimizer if e["name"] == "backward"):
        end = backward["ts"] + backward["dur"]
        first = min(e["ts"] for e in reduces if e["ts"] >= backward["ts"])
        assert first < end, f"rank {rank}: first reduce at {first}, backward ends at {end}"
        print(f"rank {rank}: first all-reduce {end - first:.0f} us before the end of backward, "
              f"which takes {backward['dur']:.0f} us")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kolorun", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--gpu", action="store_true", help="two ranks on one GPU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timeline = pathlib.Path(folder) / "timeline.json"
        train(arguments, pathlib.Path(folder), timeline)
        events = read_events(timeline)
    for rank in range(RANKS):
        check_rank(events, rank)


main()
