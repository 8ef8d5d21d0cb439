#!/usr/bin/env python3
"""Installs Kolo, builds a project of somebody else's against it, and runs that under kolorun."""

import argparse
import pathlib
import subprocess
import sys
import tempfile


def run(*command):
    print("+", *command, flush=True)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    if done.returncode != 0:
        sys.exit(f"exit code {done.returncode}: {command}")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--torch-dir", required=True)
    arguments = parser.parse_args()
    project = pathlib.Path(__file__).resolve().parent / "project"
    with tempfile.TemporaryDirectory() as scratch:
        prefix = pathlib.Path(scratch) / "prefix"
        build = pathlib.Path(scratch) / "build"
        run("cmake", "--install", arguments.build_dir, "--prefix", prefix)
        run("cmake", "-S", project, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}",
            f"-DTorch_DIR={arguments.torch_dir}")
        run("cmake", "--build", build)
        output = run(prefix / "bin" / "kolorun", "-np", "2", build / "outside")
        for rank in range(2):
            expected = f"rank {rank} of 2: 1 2"
            if expected not in output:
                sys.exit(f"expected '{expected}'")


main()
