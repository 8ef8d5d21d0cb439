"""How jobs of kolorun end: time to save, terminals and pipes that go, an mpirun that is stuck, nothing left."""

import os
import pty
import signal
import subprocess
import sys
import time
import unittest

from kolorun_support import KOLORUN, RANK, TestCase, kolorun

FOLDER = "echo $OMPI_MCA_btl_vader_backing_directory"  # the job's own
LOOP = "while :; do sleep 0.05; done"


def processes_with(mark):
    """The ids of all processes that have END_TEST=mark in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if f"END_TEST={mark}\0".encode() in file.read():
                    found.append(int(pid))
        except OSError:
            pass  # gone, or another user's
    return found


def read_until(stream, text, count):
    """Reads a file descriptor until text has come count times."""
    got = b""
    while got.count(text) < count:
        part = os.read(stream, 4096)
        if not part:
            raise AssertionError(f"ended after {got}")
        got += part
    return got


class End(TestCase):
    def start(self, *arguments, **options):
        process = subprocess.Popen([KOLORUN, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True, **options)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=30)

    def started(self, script, *options, ranks=2):
        """A job of which all ranks have said "started"."""
        process = self.start("-np", str(ranks), *options, "sh", "-c", script)
        read_until(process.stdout.fileno(), b"started\n", ranks)
        return process

    def test_ranks_have_time_to_save(self):
        save = "sleep 3; echo saved; exit 0"
        for number, name in ((signal.SIGTERM, "TERM"), (signal.SIGINT, "INT"),
                             (signal.SIGHUP, "TERM")):
            process = self.started(f"trap '{save}' {name}; echo started; {LOOP}")
            process.send_signal(number)
            output, error = process.communicate(timeout=30)
            self.assertEqual(output, b"saved\n" * 2, error)
            self.assertEqual(process.returncode, 128 + number)
            self.assertIn(f"{number.name}: the ranks have 30 s to end; another signal ends them at "
                          "once".encode(), error)

    def test_grace_ends(self):
        process = self.started(f"trap '' TERM; echo started; {LOOP}", "--grace", "1")
        process.terminate()
        output, error = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 143)
        self.assertIn(b"the ranks have not ended within 1 s (--grace): they are ended", error)

    def test_timeout_leaves_nothing(self):
        done = subprocess.run(["timeout", "2", KOLORUN, "-np", "2", "sh", "-c",
                               f"{FOLDER}; exec sleep 60"], text=True,
                              capture_output=True, timeout=60, start_new_session=True)
        self.assertEqual(done.returncode, 124)
        self.assertIn("SIGTERM: the ranks have 30 s", done.stderr)
        folder = done.stdout.splitlines()[0]
        self.assertIn("/kolorun-", folder)
        self.assertFalse(os.path.exists(folder))

    def test_what_a_killed_one_leaves_goes_with_the_next(self):
        process = self.start("sh", "-c", f"{FOLDER}; exec sleep 60")
        folder = read_until(process.stdout.fileno(), b"\n", 1).decode().strip()
        self.assertTrue(os.path.isdir(folder))
        process.kill()
        process.communicate(timeout=30)
        end = time.monotonic() + 30  # its rank may take a moment to end
        while os.path.exists(folder) and time.monotonic() < end:
            kolorun("true")
        self.assertFalse(os.path.exists(folder))

    def test_a_closed_pipe_ends_the_job(self):
        process = self.started(f"echo started; while echo more; do sleep 0.05; done")
        process.stdout.close()
        self.assertEqual(process.wait(30), 128 + signal.SIGPIPE)

    def test_sigpipe_ends_the_job(self):
        process = self.started(f"echo started; {LOOP}")
        process.send_signal(signal.SIGPIPE)
        self.assertEqual(process.wait(30), 128 + signal.SIGPIPE)

    def test_the_job_ends_with_its_terminal(self):
        mark = f"{os.getpid()}-{self.id()}"
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["END_TEST"] = mark
            os.execv(KOLORUN, [KOLORUN, "-np", "2", "sh", "-c", f"echo started; {LOOP}"])
        read_until(terminal, b"started", 2)
        self.assertGreater(len(processes_with(mark)), 3)
        os.close(terminal)
        status = os.waitpid(pid, 0)[1]
        self.assertEqual(os.waitstatus_to_exitcode(status), 128 + signal.SIGHUP)
        self.assertEqual(processes_with(mark), [])

    def test_an_mpirun_that_is_stuck_is_killed(self):
        text = f"""#!{sys.executable}
import os, subprocess, sys, time
if "--version" in sys.argv:
    print("mpirun (Open MPI) 4.1.4")
    sys.exit(0)
program = sys.argv[sys.argv.index("@rank") - 1:]
for rank in "01":
    subprocess.run(program, env=dict(os.environ, OMPI_COMM_WORLD_RANK=rank))
time.sleep(1000)
"""
        fake = self.write("mpirun", text, 0o755)
        script = f"[ {RANK} = 0 ] || exit 3"
        done = kolorun("-np", "2", "sh", "-c", script, env={"KOLO_MPIRUN": fake})
        self.assertEqual(done.returncode, 3)
        self.assertIn("all ranks have ended, but mpirun has not: it is killed", done.stderr)

    def test_who_has_not_started(self):
        fake = self.write("mpirun", "#!/bin/sh\n[ \"$1\" = --version ] || exec sleep 100\n"
                          "echo 'mpirun (Open MPI) 4.1.4'\n", 0o755)
        agent = self.write("agent", "#!/bin/sh\necho \"no route to $1\"; exit 255\n", 0o755)
        done = kolorun("-np", "2", "-H", "localhost,192.0.2.1", "--start-timeout", "1", "true",
                       env={"KOLO_MPIRUN": fake, "OMPI_MCA_plm_rsh_agent": agent})
        self.assertEqual(done.returncode, 2)
        self.assertIn("kolorun: not all ranks run after 1 s (--start-timeout): rank 0-1 are missing; "
                      f"host '192.0.2.1' did not answer {agent}: no route to 192.0.2.1", done.stderr)


class Words(TestCase):
    """What ranks print, and what is said of them."""

    def test_tagged_lines_are_whole(self):
        script = "for i in range(300): print(str(i % 10) * 3000)"
        lines = self.lines("-np", "3", "--tag-output", sys.executable, "-c", script)
        expected = [f"[{rank}] " + str(i % 10) * 3000 for rank in range(3) for i in range(300)]
        self.assertEqual(lines, sorted(expected))

    def test_bytes_arrive_as_they_are(self):
        self.write("bytes", "\n".join(map(chr, range(1, 0x250))) * 50)
        done = subprocess.run([KOLORUN, "-np", "1", "cat", self.path("bytes")],
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        with open(self.path("bytes"), "rb") as file:
            self.assertEqual(done.stdout, file.read())

    def test_prompts_appear(self):
        process = subprocess.Popen([KOLORUN, "sh", "-c", "printf 'name? '; read name; echo $name"],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        read_until(process.stdout.fileno(), b"name? ", 1)
        self.assertEqual(process.communicate(b"kolo\n", timeout=30)[0], b"kolo\n")

    def test_typed_lines_reach_rank_0(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(KOLORUN, [KOLORUN, "sh", "-c", "echo ready; read line; echo got $line"])
        read_until(terminal, b"ready", 1)
        os.write(terminal, b"something\n")
        read_until(terminal, b"got something", 1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        os.close(terminal)

    def test_a_file_for_each_rank(self):
        done = kolorun("-np", "2", "--output-dir", self.path("out"), "sh", "-c",
                       f"echo out {RANK}; echo error {RANK} >&2")
        self.assertEqual(done.returncode, 0, done.stderr)
        for rank in (0, 1):
            with open(self.path(f"out/rank.{rank}")) as file:
                self.assertEqual(sorted(file), [f"error {rank}\n", f"out {rank}\n"])

    def test_which_rank_ended_how_is_said_once(self):
        host = os.uname().nodename
        for end, code, text in (("exit 3", 3, "ended with exit code 3"),
                                ("kill -SEGV $$", 139, "was ended by SIGSEGV (Segmentation fault)")):
            script = f"ulimit -c 0; [ {RANK} = 1 ] || exec sleep 30; echo last words >&2; {end}"
            done = kolorun("-np", "2", "sh", "-c", script)
            self.assertEqual(done.returncode, code)
            self.assertEqual(done.stderr, f"last words\nkolorun: rank 1 on {host} {text}\n")

    def test_variables_of_slurm_do_not_matter(self):
        slurm = {"SLURM_JOBID": "5", "SLURM_JOB_ID": "5", "SLURM_NODELIST": "none",
                 "SLURM_JOB_NODELIST": "none", "SLURM_TASKS_PER_NODE": "1", "SLURM_NNODES": "1"}
        self.assertEqual(self.lines("-np", "2", "echo", "x", env=slurm), ["x", "x"])

    def test_variables_reach_the_ranks(self):
        script = "echo $NCCL_DEBUG,$A,$B"
        self.assertEqual(self.lines("-np", "2", "-x", "A", "-x", "B=b c", "sh", "-c", script,
                                    env={"NCCL_DEBUG": "WARN", "A": "1"}), ["WARN,1,b c"] * 2)

    def test_a_program_may_look_like_an_option(self):
        self.write("-x", "#!/bin/sh\necho \"$@\"\n", 0o755)
        path = f"{self.folder}:{os.environ['PATH']}"
        for name, env in (("./-x", {}), ("-x", {"PATH": path})):
            self.assertEqual(self.lines("-np", "2", "--", name, "-np", "3", cwd=self.folder, env=env),
                             ["-np 3"] * 2)

    def test_ipv6_address_of_this_machine(self):
        if not os.path.exists("/proc/net/if_inet6"):
            self.skipTest("there is no IPv6")
        self.assertEqual(self.lines("-H", "[::1]:2", "echo", "x"), ["x", "x"])


if __name__ == "__main__":
    unittest.main()
