#!/usr/bin/env python3
"""Kills a rank of a job at a random moment, many times: nothing is left of the job, neither a process, nor memory
that its ranks shared, nor a file.

--moment start: up to 0.6 s after the processes are there; running: up to 0.3 s after each of them has said "running"
on its standard error; either: now one, now the other. Before that, it shows on jobs that do leave something that this
would be seen.
"""

import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid

MARK = "KOLO_TEST_JOB"
# As collectives/shm/arena.cc names the memory of a rank. It has no place in the file system.
SEGMENT = "/memfd:kolo (deleted)"

# Open MPI 4.1 may leave the files of its own shared memory, named like this, when a rank is killed in MPI_Init:
# so it does with a program that does nothing else.
OPEN_MPIS_START = re.compile(r"file shm/(vader|sm)_segment\.")

# Then its mpirun may crash or not end, either, although no rank is left, and leave its files: PMIx 4.2 goes on with a
# fence whose entries the lost rank's end has freed. Mostly it waits there for a mutex, and PMIx_server_finalize()
# for that thread.

# With /tmp and /dev/shm of its own: the folders "tmp" and "shm" of the first argument.
PRIVATE = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--user", "--map-root-user"]) + [
    "sh", "-c", 'mount --bind "$0/shm" /dev/shm && mount --bind "$0/tmp" /tmp && '
    'cd /tmp && exec "$@"']


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def all_processes():
    return [int(entry.name) for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit()]


def segments_of(pid):
    """The inodes of what a process has mapped or open of Kolo's memory."""
    found = set()
    try:
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            if line.endswith(" " + SEGMENT):
                found.add(int(line.split()[4]))
        for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            if os.readlink(descriptor) == SEGMENT:
                found.add(descriptor.stat().st_ino)
    except OSError:
        pass  # gone in the meantime, or of another user
    return found


class Job:
    """A command that leaves what it leaves in a folder of its own, and whose processes carry a mark."""

    def __init__(self, private):
        self.private = private
        self.mark = uuid.uuid4().hex
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.segments = set()
        for name in ("tmp", "shm"):
            (self.folder / name).mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in [*self.processes(), *self.holders()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.launcher.wait()
        shutil.rmtree(self.folder)

    def start(self, command):
        tmp = self.folder / "tmp"
        environment = dict(os.environ, **{MARK: self.mark, "HOME": str(tmp),
                                          "TMPDIR": "/tmp" if self.private else str(tmp)})
        with open(self.folder / "stderr", "w") as stderr:
            self.launcher = subprocess.Popen(
                [*PRIVATE, str(self.folder), *command] if self.private else command, cwd=tmp,
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)

    def processes(self):
        """Their arguments, by their ids."""
        found = {}
        for pid in all_processes():
            try:
                if f"{MARK}={self.mark}".encode() in pathlib.Path(f"/proc/{pid}/environ").read_bytes():
                    found[pid] = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                pass  # gone in the meantime, or a zombie
        return found

    def ranks(self, program):
        return [pid for pid, arguments in self.processes().items() if arguments[0] == program.encode()]

    def said(self):
        return (self.folder / "stderr").read_text(errors="replace")

    def wait_until(self, condition, what):
        wait_until(lambda: condition() or self.launcher.poll() is not None, 60, what)
        if self.launcher.poll() is not None:
            raise RuntimeError(f"{what}, but the job has ended: {self.said()}")

    def notice_segments(self):
        """Those that there are now, to be looked for later."""
        for pid in self.processes():
            self.segments |= segments_of(pid)

    def stacks(self):
        """Of all its processes, as far as gdb is there and may look into them."""
        return "".join(
            f"\n-- {pid} {b' '.join(arguments).decode()}\n" +
            subprocess.run(["timeout", "-s", "KILL", "40", "gdb", "-p", str(pid), "-batch", "-ex",
                            "thread apply all backtrace"],
                           capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
            for pid, arguments in self.processes().items())

    def holders(self):
        return [pid for pid in all_processes() if segments_of(pid) & self.segments]

    def leftovers(self):
        files = [os.path.relpath(os.path.join(folder, file), self.folder)
                 for name in ("tmp", "shm")
                 for folder, folders, files in os.walk(self.folder / name)
                 for file in folders + files]
        return ([f"file {file}" for file in files] +
                [f"process {b' '.join(arguments).decode().strip()}"
                 for arguments in self.processes().values()] +
                [f"memory in process {pid}" for pid in self.holders()])


def kill_one(arguments, private, chance):
    program, ranks = arguments.command[0], arguments.ranks
    moment = arguments.moment if arguments.moment != "either" else chance.choice(["start", "running"])
    delay = chance.uniform(0, 0.6 if moment == "start" else 0.3)
    when = f"{delay:.3f} s after {moment}"
    with Job(private) as job:
        job.start([arguments.mpiexec, "-n", str(ranks), "--bind-to", "none", *arguments.command])
        if moment == "start":
            job.wait_until(lambda: len(job.ranks(program)) == ranks, "all ranks are there")
        else:
            job.wait_until(lambda: job.said().count("running") == ranks, "all ranks run")
        time.sleep(delay)
        job.notice_segments()
        if moment == "running" and len(job.segments) != ranks:
            raise RuntimeError(f"{ranks} ranks that run have {len(job.segments)} segments")
        os.kill(chance.choice(job.ranks(program)), signal.SIGKILL)
        try:
            status = job.launcher.wait(30)
        except subprocess.TimeoutExpired:
            stacks = job.stacks()
            if moment != "start" or set(job.processes()) != {job.launcher.pid}:
                raise RuntimeError(f"the job goes on after a rank was killed {when}{stacks}") from None
            print(f"mpirun went on alone after a rank was killed {when}{stacks}")
            job.launcher.kill()
            status = job.launcher.wait()
        if status == 0:
            raise RuntimeError(f"the job ended as if no rank had been killed {when}")
        mpirun_failed = moment == "start" and status < 0

        def leftovers():
            return [left for left in job.leftovers()
                    if not (moment == "start" and OPEN_MPIS_START.match(left)) and
                    not (mpirun_failed and left.startswith("file "))]

        try:
            wait_until(lambda: not leftovers(), 10, "nothing is left")
        except RuntimeError:
            raise RuntimeError(f"a rank was killed {when}, and there are left: {leftovers()}") from None


# What jobs leave, and what is then reported, but for the process's number.
IN_A_CHILD = """
file = os.memfd_create("kolo")
os.truncate(file, 4096)
subprocess.Popen([sys.executable, "-c", '''
import mmap, os, sys, time
file = int(sys.argv[1])
%s
sys.stderr.write("running")
sys.stderr.flush()
time.sleep(60)''', str(file)], env={}, pass_fds=[file])
time.sleep(60)
"""
PLANTS = {
    "": [],
    "open(os.environ['TMPDIR'] + '/left', 'w')": ["file tmp/left"],
    "open('left', 'w')": ["file tmp/left"],
    "subprocess.Popen(['sleep', '60'], start_new_session=True)": ["process sleep 60"],
    IN_A_CHILD % "": ["memory in process"],
    IN_A_CHILD % "memory = mmap.mmap(file, 4096); os.close(file)": ["memory in process"],
}
PRIVATE_PLANTS = {
    "open('/tmp/left', 'w')": ["file tmp/left"],
    "open('/dev/shm/left', 'w')": ["file shm/left"],
}


def expect_report(private, plant, expected):
    with Job(private) as job:
        job.start([sys.executable, "-c",
                   f"import os, subprocess, sys, time\n{plant}\nsys.stderr.write('running')\n"
                   "sys.stderr.flush()\ntime.sleep(60)"])
        job.wait_until(lambda: "running" in job.said(), "what is left is there")
        job.notice_segments()
        job.launcher.kill()
        job.launcher.wait()
        reported = [line.rstrip(" 0123456789") if line.startswith("memory") else line
                    for line in job.leftovers()]
        if reported != expected:
            sys.exit(f"{expected} was left, {reported} was reported")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, required=True)
    parser.add_argument("--at-once", type=int, default=3, help="jobs")
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--moment", choices=["start", "running", "either"], default="either")
    parser.add_argument("mpiexec")
    parser.add_argument("command", nargs="+", help="the program, and its arguments")
    arguments = parser.parse_args()
    arguments.command[0] = os.path.abspath(arguments.command[0])

    with tempfile.TemporaryDirectory() as folder:
        for name in ("tmp", "shm"):
            os.mkdir(f"{folder}/{name}")
        refused = subprocess.run([*PRIVATE, folder, "test", "-x", arguments.command[0]],
                                 capture_output=True, text=True)
    private = refused.returncode == 0
    if not private:
        print("files in /dev/shm, and those in /tmp that should be in TMPDIR, are not looked for, because "
              f"mounting is not permitted, or the program is in /tmp: {refused.stderr}")
    for plant, expected in {**PLANTS, **(PRIVATE_PLANTS if private else {})}.items():
        expect_report(private, plant, expected)

    seed = random.randrange(1 << 30)
    print(f"seed {seed}", flush=True)
    with concurrent.futures.ThreadPoolExecutor(arguments.at_once) as pool:
        kills = [pool.submit(kill_one, arguments, private, random.Random(seed + i))
                 for i in range(arguments.times)]
        for kill in concurrent.futures.as_completed(kills):
            if kill.exception() is not None:
                pool.shutdown(cancel_futures=True)
                sys.exit(str(kill.exception()))


main()
