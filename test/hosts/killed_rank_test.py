#!/usr/bin/env python3
"""killed_rank_test.py MPIEXEC PROGRAM: when a rank on another host than mpirun's is killed, no process is
left on any host. PROGRAM says "running" on each rank."""

import os
import pathlib
import signal
import subprocess
import sys
import time

RANKS = 4


def processes_of(program):
    """Their ids, by rank."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "cmdline").read_bytes().split(b"\0")[0] != program.encode():
                continue
            for setting in (entry / "environ").read_bytes().split(b"\0"):
                if setting.startswith(b"OMPI_COMM_WORLD_RANK="):
                    found[int(setting.split(b"=")[1])] = int(entry.name)
        except OSError:
            pass  # gone in the meantime
    return found


def main():
    mpiexec, program = sys.argv[1:]
    job = subprocess.Popen([mpiexec, "-n", str(RANKS), program], stdout=subprocess.DEVNULL,
                           stderr=subprocess.PIPE, text=True)
    running = 0
    while running < RANKS:
        line = job.stderr.readline()
        if not line:
            sys.exit("the job ended too early")
        running += line.count("running")
    os.kill(processes_of(program)[RANKS - 1], signal.SIGKILL)
    try:
        job.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        sys.exit("the job goes on after a rank was killed")
    if job.returncode == 0:
        sys.exit("the job ended as if nothing had happened")
    deadline = time.monotonic() + 10
    while processes_of(program):
        if time.monotonic() > deadline:
            sys.exit(f"processes are left: {processes_of(program)}")
        time.sleep(0.05)


main()
