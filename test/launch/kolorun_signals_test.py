"""Signals to kolorun, kolorun in a terminal, and that nothing is left behind."""

import os
import pty
import signal
import subprocess
import time
import unittest

from kolorun_support import KOLORUN, TestCase, kolorun


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def wait_until(condition, what, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


class Signals(TestCase):
    """Each rank writes its process id and that of a child of its own."""

    SCRIPT = "sleep 100 & echo $$ $! >> pids; while :; do wait; done"

    def start(self, script=SCRIPT, ranks=2):
        process = subprocess.Popen([KOLORUN, "-np", str(ranks), "sh", "-c", script],
                                   cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   start_new_session=True)
        self.addCleanup(self.end, process)
        wait_until(lambda: len(self.pids()) == 2 * ranks, "all ranks run")
        self.assertTrue(all(map(is_alive, self.pids())))
        return process

    def end(self, process):
        process.kill()
        process.wait()
        for pid in filter(is_alive, self.pids()):
            os.kill(pid, signal.SIGKILL)

    def pids(self):
        try:
            with open(self.path("pids")) as file:
                return [int(word) for word in file.read().split()]
        except FileNotFoundError:
            return []

    def expect_nothing_left(self):
        wait_until(lambda: not any(map(is_alive, self.pids())), "all processes have ended")

    def test_sigterm(self):
        process = self.start()
        process.terminate()
        self.assertEqual(process.wait(30), 143)
        self.assertFalse(any(map(is_alive, self.pids())))

    def test_sigint(self):
        process = self.start()
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(30), 130)
        self.assertFalse(any(map(is_alive, self.pids())))

    def test_sighup(self):
        process = self.start()
        process.send_signal(signal.SIGHUP)
        self.assertEqual(process.wait(30), 129)
        self.assertFalse(any(map(is_alive, self.pids())))

    def test_second_sigint_does_not_wait_for_stubborn_ranks(self):
        process = self.start("trap '' INT TERM; " + self.SCRIPT)
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)  # two of one sender at once count as one
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(30), 130)
        self.assertFalse(any(map(is_alive, self.pids())))

    def test_sigusr1_reaches_the_ranks(self):
        process = self.start("trap 'touch usr1.$$' USR1; " + self.SCRIPT)
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: sum(name.startswith("usr1.") for name in os.listdir(self.folder)) == 2,
                   "both ranks got the signal")
        self.assertIsNone(process.poll())

    def test_killed_kolorun_takes_everything_with_it(self):
        process = self.start()
        process.kill()
        process.wait(30)
        self.expect_nothing_left()

    def test_killed_mpirun_takes_everything_with_it(self):
        process = self.start()
        os.kill(parent_of(parent_of(self.pids()[0])), signal.SIGKILL)
        self.assertEqual(process.wait(30), 137)
        self.assertFalse(any(map(is_alive, self.pids())))

    def test_background_processes_of_ranks_are_ended(self):
        script = "setsid sleep 100 >/dev/null 2>&1 & echo $$ $! >> pids"
        self.assertEqual(kolorun("-np", "2", "sh", "-c", script, cwd=self.folder).returncode, 0)
        self.assertEqual(len(self.pids()), 4)
        self.assertFalse(any(map(is_alive, self.pids())))


class Terminal(TestCase):
    def test_control_c(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(KOLORUN, [KOLORUN, "-np", "2", "sh", "-c", "echo started; sleep 100"])
        output = b""
        while output.count(b"started") < 2:
            output += os.read(terminal, 4096)
        os.write(terminal, b"\x03")
        try:
            while part := os.read(terminal, 4096):
                output += part
        except OSError:  # the other side is closed
            pass
        os.close(terminal)
        status = os.waitpid(pid, 0)[1]
        self.assertEqual(os.waitstatus_to_exitcode(status), 130, output)
        self.assertNotIn(b"already in progress", output)  # mpirun got it once, not twice


if __name__ == "__main__":
    unittest.main()
