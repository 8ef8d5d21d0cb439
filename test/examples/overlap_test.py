#!/usr/bin/env python3
"""Trains ResNet-18 on two ranks and reads the timeline: all-reduce overlaps backward.

Usage: overlap_test.py --programs FOLDER --launcher KOLORUN [--gpu]; --gpu: two ranks on one GPU
"""

import collections
import json
import os
import pathlib
import sys
import tempfile

from example_programs import UNITTEST_ARGUMENTS, resnet, write_fashion_mnist

RANKS = 2
STEPS = 3
BATCH = 8
ON_GPU = "--gpu" in UNITTEST_ARGUMENTS


def read_events(path):
    lines = path.read_text().splitlines()
    assert lines[0].strip() == "[", lines[0]
    return [json.loads(line.strip().rstrip(",")) for line in lines[1:]]


def train(folder, timeline):
    write_fashion_mnist(folder / "data")
    settings = {"KOLO_TIMELINE": str(timeline)}
    if ON_GPU:
        settings.update(KOLO_SHARED_GPU="on",
                        CUDA_VISIBLE_DEVICES=os.environ.get("CUDA_VISIBLE_DEVICES", "0"))
    done = resnet("--data-dir", folder / "data", "--epochs", 1, "--batch-size", BATCH,
                  "--limit-train", BATCH * RANKS * STEPS, "--limit-test", BATCH, ranks=RANKS,
                  env=settings)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    if ON_GPU and " on cuda " not in done.stdout:
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
    leads = []
    for backward in (e for e in optimizer if e["name"] == "backward"):
        end = backward["ts"] + backward["dur"]
        leads.append(end - min(e["ts"] for e in reduces if e["ts"] >= backward["ts"]))
        print(f"rank {rank}: first all-reduce {leads[-1]:.0f} us before the end of backward, "
              f"which takes {backward['dur']:.0f} us")
    # The machine may stand still in one step.
    assert max(leads) > 0, leads


def main():
    with tempfile.TemporaryDirectory() as folder:
        timeline = pathlib.Path(folder) / "timeline.json"
        train(pathlib.Path(folder), timeline)
        events = read_events(timeline)
    for rank in range(RANKS):
        check_rank(events, rank)


main()
