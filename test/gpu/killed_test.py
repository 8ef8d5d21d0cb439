"""Kills one of two ranks that train on the GPU: the other one ends, too, and nothing is left.

Usage: killed_test.py --programs FOLDER [--launcher KOLORUN] [unittest arguments]
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from example_programs import (ARGUMENTS, PROGRAMS, UNITTEST_ARGUMENTS, TestCase,  # noqa: E402
                              environment, read_history, write_fashion_mnist)

ON_GPU = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
          "KOLO_SHARED_GPU": "on"}
DEVICE = os.environ.get("KOLO_TEST_DEVICE", "cpu")


def ranks(folder):
    """The processes that train on this folder's data."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # not a process, or gone in the meantime
        if arguments[0].endswith(b"resnet18_cifar10") and str(folder / "data").encode() in arguments:
            found.append(int(entry.name))
    return found


class Killed(TestCase):
    def start(self):
        write_fashion_mnist(self.folder / "data")
        command = [ARGUMENTS.launcher or "mpirun", "-np", "2", str(PROGRAMS / "resnet18_cifar10"),
                   "--data-dir", str(self.folder / "data"), "--batch-size", "8",
                   "--limit-test", "8", "--epochs", "2000",
                   "--history", str(self.folder / "run.csv")]
        job = subprocess.Popen(command, env=environment(**ON_GPU), text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
        self.addCleanup(job.stdout.close)
        self.addCleanup(job.wait, 60)
        self.addCleanup(job.terminate)
        return job

    def epochs_trained(self):
        path = self.folder / "run.csv"
        return len(read_history(path)) if path.exists() else 0

    def test_the_other_rank_ends(self):
        job = self.start()
        printed = ""
        while "2 ranks on " not in printed:
            line = job.stdout.readline()
            self.assertTrue(line, f"it has ended: {printed}")
            printed += line
        if f" on {DEVICE} " not in printed:
            self.skipTest("this host, or this build, has no GPU")
        while not self.epochs_trained():
            self.assertIsNone(job.poll(), printed)
            time.sleep(0.05)
        os.kill(ranks(self.folder)[0], signal.SIGKILL)
        output, _ = job.communicate(timeout=60)
        self.assertNotEqual(job.returncode, 0, printed + output)
        deadline = time.monotonic() + 10
        while ranks(self.folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(ranks(self.folder), [])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *UNITTEST_ARGUMENTS])
