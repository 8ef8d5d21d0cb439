#!/usr/bin/env python3
"""Has spin search all states of a model. Then breaks the model in one place at a time: spin must find each.

usage: model_test.py MODEL.pml [-DNAME=VALUE ...] [--mutations MUTATE_A MUTATE_B ...]
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

COMPILE = ["cc", "-w", "-DSAFETY", "-DVECTORSZ=2048", "-DMEMLIM=2000"]
MOST_STEPS = 100000


def search(model, definitions):
    """What pan prints, and the steps to the first error."""
    mutated = any(definition.startswith("-DMUTATE_") for definition in definitions)
    # A mutation is found soon: compiling takes longer than the search.
    optimisation = "-O0" if mutated else "-O1"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["spin", "-a", *definitions, model], cwd=folder, check=True)
        subprocess.run([*COMPILE, optimisation, "-o", "pan", "pan.c"], cwd=folder, check=True)
        pan = subprocess.run(["./pan", "-c1", f"-m{MOST_STEPS}"], cwd=folder, capture_output=True,
                             text=True)
        trail = folder + "/" + pathlib.Path(model).name + ".trail"
        steps = ""
        if pathlib.Path(trail).exists() and not mutated:
            replay = ["spin", "-k", trail, "-p", "-g", *definitions, model]
            steps = subprocess.run(replay, cwd=folder, capture_output=True, text=True).stdout
        return pan.stdout + pan.stderr, steps


def number(pattern, output):
    found = re.search(pattern, output)
    return float(found.group(1)) if found else None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--mutations", nargs="*", default=[])
    arguments, definitions = parser.parse_known_args()
    model = str(arguments.model.resolve())
    if arguments.mutations:
        missed = []
        for mutation in arguments.mutations:
            output, _ = search(model, [*definitions, f"-D{mutation}"])
            found = number(r"errors: (\d+)", output) or 0
            reason = re.search(r"^pan:1: (.*)", output, re.MULTILINE)
            print(f"{mutation}: {reason.group(1) if reason and found else 'NOT FOUND'}", flush=True)
            if not reason or not found:
                missed.append(mutation)
        sys.exit(f"spin finds nothing wrong with: {', '.join(missed)}" if missed else 0)

    output, steps = search(model, definitions)
    errors = number(r"errors: (\d+)", output)
    states = number(r"([\d.e+]+) states, stored", output)
    seconds = number(r"elapsed time ([\d.e+-]+)", output)
    incomplete = re.search("Search not completed|max search depth too small|out of memory|aborting", output)
    if errors != 0 or states is None or incomplete:
        sys.exit(f"{steps[-20000:]}\n{output}")
    print(f"{states:.0f} states, {seconds} s, no error")


main()
