"""Tells ranks to stop.

Usage: stop_test.py MPIRUN PROGRAM [unittest arguments]
"""

import os
import signal
import subprocess
import sys
import time
import unittest

MPIRUN, PROGRAM = sys.argv[1:3]
SECONDS = 100


class StopTest(unittest.TestCase):
    def start(self, *command):
        program = subprocess.Popen(command, text=True, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE)
        self.addCleanup(program.stdout.close)
        self.addCleanup(program.wait, SECONDS)
        self.addCleanup(program.kill)
        return program

    def test_the_one_that_is_told_and_the_others(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            for ranks in (2, 3):
                job = self.start(MPIRUN, "-np", str(ranks), "--bind-to", "none", PROGRAM)
                processes = dict(job.stdout.readline().split()[1::3] for _ in range(ranks))
                os.kill(int(processes[str(ranks - 1)]), number)
                lines = job.stdout.read().splitlines()
                self.assertEqual(len(lines), ranks, lines)
                self.assertEqual(len(set(lines)), 1, lines)
                self.assertRegex(lines[0], "^stopped after [0-9]+ steps$")
                self.assertEqual(job.wait(SECONDS), 0)

    def test_a_later_signal_ends_it(self):
        program = self.start(PROGRAM, "stays")
        program.stdout.readline()
        program.send_signal(signal.SIGTERM)
        self.assertIn("stopped", program.stdout.readline())
        time.sleep(1.5)  # one that comes sooner may be the same, sent twice
        program.send_signal(signal.SIGTERM)
        self.assertEqual(program.wait(SECONDS), -signal.SIGTERM)

    def test_what_is_ignored_stays_ignored(self):
        program = self.start("sh", "-c", f'trap "" INT; exec "{PROGRAM}"')
        program.stdout.readline()
        program.send_signal(signal.SIGINT)
        program.send_signal(signal.SIGTERM)
        self.assertIn("stopped", program.stdout.readline())
        self.assertEqual(program.wait(SECONDS), 0)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
