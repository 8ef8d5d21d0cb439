#!/usr/bin/env python3
"""killed_ranks_test.py MPIEXEC PROGRAM TIMES: whatever the moment at which a rank is killed, nothing is
left of the job: no process, and so no memory; no file in /dev/shm."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import uuid

MARK = "KOLO_TEST_JOB"
RANKS = 3


def processes(job):
    """Those that carry the job's mark in their environment, with their arguments."""
    found = {}
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"{MARK}={job}".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            pass  # gone in the meantime, or a zombie
    return found


def ranks(job, program):
    return [pid for pid, arguments in processes(job).items() if arguments[0] == program.encode()]


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {seconds} s")
        time.sleep(0.005)


def segments():
    return {path.name for path in pathlib.Path("/dev/shm").glob("*kolo*")}


def kill_one(mpiexec, program, chance):
    job = uuid.uuid4().hex
    environment = dict(os.environ, **{MARK: job})
    launcher = subprocess.Popen(
        [mpiexec, "-n", str(RANKS), "--bind-to", "none", program],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(ranks(job, program)) == RANKS, 30, "ranks did not start")
    # From before they know each other until they are busy.
    delay = chance.uniform(0, 0.6)
    time.sleep(delay)
    os.kill(chance.choice(ranks(job, program)), signal.SIGKILL)
    try:
        launcher.wait(30)
    except subprocess.TimeoutExpired:
        sys.exit(f"the job goes on after a rank was killed {delay:.3f} s after the start")
    wait_until(lambda: not processes(job), 10, f"processes are left, killed after {delay:.3f} s")


def main():
    mpiexec, program, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    before = segments()
    for _ in range(times):
        kill_one(mpiexec, program, chance)
    if segments() - before:
        sys.exit(f"left in /dev/shm: {segments() - before}")


main()
