"""Runs the real kolorun with a real mpirun on tiny programs."""

import os
import shlex
import subprocess
import sys
import unittest

from kolorun_support import KOLORUN, RANK, TestCase, kolorun

CPUS = len(os.sched_getaffinity(0))
# Begins the Python programs that ranks run; print() would write the end of line apart.
PROLOGUE = "import os, sys; say = lambda text: sys.stdout.write(str(text) + '\\n'); "


class Ranks(TestCase):
    def test_every_rank_runs(self):
        self.assertEqual(self.lines("-np", "2", "sh", "-c", f"echo {RANK}"), ["0", "1"])

    def test_more_ranks_than_cpus(self):
        ranks = CPUS + 1
        lines = self.lines("-np", str(ranks), "sh", "-c", f"echo {RANK} $OMP_NUM_THREADS")
        self.assertEqual(lines, sorted(f"{rank} 1" for rank in range(ranks)))

    def test_slots_of_hosts(self):
        self.assertEqual(self.lines("-H", "localhost:3", "sh", "-c", f"echo {RANK}"),
                         ["0", "1", "2"])
        hosts = self.write("hosts", "localhost slots=2  # here\n")
        self.assertEqual(self.lines("--hostfile", hosts, "sh", "-c", f"echo {RANK}"), ["0", "1"])

    def test_ranks_get_cpus_of_their_own(self):
        if CPUS < 2 or CPUS != os.sysconf("SC_NPROCESSORS_ONLN"):
            self.skipTest("needs two CPUs and all of the machine's")
        if "slot:PE=" not in kolorun("-np", "2", "--dry-run", "true").stdout:
            self.skipTest("the CPUs of this machine are not shared evenly")
        script = PROLOGUE + "say(' '.join(map(str, sorted(os.sched_getaffinity(0)))))"
        first, second = self.lines("-np", "2", sys.executable, "-c", script)
        self.assertEqual(len(first.split()), CPUS // 2)
        self.assertEqual(len(second.split()), CPUS // 2)
        self.assertFalse(set(first.split()) & set(second.split()))

    def test_ranks_stay_in_the_affinity_mask(self):
        one = min(os.sched_getaffinity(0))
        script = PROLOGUE + "say([os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS']])"
        everything = os.sched_getaffinity(0)
        self.addCleanup(os.sched_setaffinity, 0, everything)
        os.sched_setaffinity(0, {one})
        self.assertEqual(self.lines("-np", "2", sys.executable, "-c", script),
                         [str([{one}, "1"])] * 2)

    def test_threads(self):
        echo = ["sh", "-c", "echo $OMP_NUM_THREADS"]
        self.assertEqual(self.lines("-np", "2", *echo), [str(max(1, CPUS // 2))] * 2)
        self.assertEqual(self.lines("-np", "2", *echo, env={"OMP_NUM_THREADS": "5"}), ["5"] * 2)

    def test_environment_reaches_ranks_and_options_override_it(self):
        nasty = "a;b c=d, \"q\" 'r' $HOME \\\ne"
        script = PROLOGUE + (
            "say([os.environ.get(n) for n in ('KOLO_X', 'KOLO_TIMELINE', "
            "'KOLO_FUSION_THRESHOLD', 'KOLO_LOG_LEVEL', 'PYTHONPATH')])")
        env = {"KOLO_X": nasty, "KOLO_LOG_LEVEL": "error", "KOLO_FUSION_THRESHOLD": "7",
               "PYTHONPATH": "/py"}
        lines = self.lines("-np", "2", "--timeline-filename", "t.json", "--fusion-threshold", "1M",
                           sys.executable, "-c", script, env=env, cwd=self.folder)
        expected = [nasty, self.path("t.json"), str(1 << 20), "error", "/py"]
        self.assertEqual(lines, [str(expected)] * 2)

    def test_config_file(self):
        config = self.write("kolorun.cfg", "np = 2\nlog-level = info\n")
        self.assertEqual(self.lines("--config", config, "sh", "-c", "echo $KOLO_LOG_LEVEL"),
                         ["info"] * 2)

    def test_arguments_arrive_untouched(self):
        words = ["--help", "-np", "3", "--", "", "a b", "*", "it's", "n\nl", ":", "--bind-to", "x",
                 "--map-by", "-x", "\\", '"', "$HOME"]
        script = PROLOGUE + "say(sys.argv[1:])"
        self.assertEqual(self.lines(sys.executable, "-c", script, *words), [str(words)])

    def test_standard_input_goes_to_rank_0(self):
        done = subprocess.run([KOLORUN, "-np", "2", "sh", "-c", f"read line; echo {RANK} $line"],
                              input="hello\n", text=True, timeout=60, capture_output=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(done.stdout.splitlines()), ["0 hello", "1"])

    def test_verbose_prints_the_line(self):
        done = kolorun("--verbose", "true")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertIn(" -np 1 ", done.stderr)


class ExitCodes(TestCase):
    def test_success(self):
        self.assertEqual(kolorun("-np", "2", "true").returncode, 0)

    def test_code_of_the_failing_rank(self):
        script = f"[ {RANK} = 1 ] && exit 7; sleep 30"
        self.assertEqual(kolorun("-np", "2", "sh", "-c", script).returncode, 7)

    def test_killed_rank(self):
        script = f"[ {RANK} = 1 ] && kill -9 $$; sleep 30"
        self.assertEqual(kolorun("-np", "2", "sh", "-c", script).returncode, 137)

    def test_killed_mpirun(self):
        mpirun = "$(cut -d ' ' -f 4 /proc/$PPID/stat)"  # its child is the rank's parent
        script = f"[ {RANK} = 0 ] && kill -9 {mpirun}; sleep 30"
        self.assertEqual(kolorun("-np", "2", "sh", "-c", script).returncode, 137)


class DryRun(TestCase):
    def test_line_can_be_pasted(self):
        done = kolorun("-np", "2", "--timeline-filename", "my t.json", "--dry-run", "sh", "-c",
                       f'echo {RANK} "$KOLO_TIMELINE" "$1"', "sh", "it's : $HOME", cwd=self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout.count("\n"), 1)
        pasted = subprocess.run(["sh", "-c", done.stdout], text=True, capture_output=True,
                                stdin=subprocess.DEVNULL, timeout=60)
        self.assertEqual(pasted.returncode, 0, pasted.stderr)
        timeline = self.path("my t.json")
        self.assertEqual(sorted(pasted.stdout.splitlines()),
                         [f"{rank} {timeline} it's : $HOME" for rank in (0, 1)])

    def test_follows_the_version_of_open_mpi(self):
        for version, flag in (("4.1.4", "--oversubscribe"), ("5.0.3", ":OVERSUBSCRIBE")):
            fake = self.write("mpirun", f"#!/bin/sh\necho 'mpirun (Open MPI) {version}'\n", 0o755)
            done = kolorun("--dry-run", "-np", str(CPUS + 1), "true", env={"KOLO_MPIRUN": fake})
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            words = shlex.split(done.stdout)
            self.assertIn(fake, words)
            self.assertIn(flag, words)

    def test_only_warns_of_what_could_not_start(self):
        done = kolorun("--dry-run", "-H", "no-such-host..invalid:2,localhost", "./none")
        self.assertEqual(done.returncode, 0)
        self.assertIn("-H no-such-host..invalid:2,localhost:1", done.stdout)
        self.assertIn("warning: host 'no-such-host..invalid' cannot be resolved", done.stderr)
        self.assertIn("warning: program './none' is not found", done.stderr)


class Errors(TestCase):
    def expect(self, message, *arguments, **options):
        done = kolorun(*arguments, **options)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(done.stdout, "")
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertTrue(done.stderr.startswith("kolorun: "), done.stderr)
        self.assertIn(message, done.stderr)

    def test_options(self):
        self.expect("no program is given")
        self.expect("--frob", "--frob", "true")
        self.expect("-np '0'", "-np", "0", "true")
        self.expect("-np 3 is more than the 2 slots", "-np", "3", "-H", "localhost:2", "true")
        self.expect("-H 'a:b'", "-H", "a:b", "true")

    def test_files(self):
        hosts = self.write("hosts", "node1\nnode2 slot=2\n")
        self.expect(f"{hosts}:2: 'node2 slot=2'", "--hostfile", hosts, "true")
        self.expect("cannot be read: No such file", "--hostfile", self.path("none"), "true")
        self.expect("cannot be read: Is a directory", "--config", self.folder, "true")

    def test_hosts_that_do_not_exist(self):
        self.expect("host 'no-such-host..invalid' cannot be resolved", "-H",
                    "localhost,no-such-host..invalid", "true")

    def test_programs(self):
        self.expect("program './none' is not found", "./none")
        self.expect("for one in this folder write ./no-such-program", "no-such-program")
        self.expect("is not executable", self.write("text", "no program"))

    def test_timeline(self):
        self.expect(f"the folder '{self.path('no')}' does not exist", "--timeline-filename",
                    self.path("no/t.json"), "true")

    def test_timeline_that_another_host_writes(self):
        elsewhere = "192.0.2.1"  # reserved for documentation
        fake = self.write("mpirun", "#!/bin/sh\necho 'mpirun (Open MPI) 4.1.4'\n", 0o755)
        options = ["--timeline-filename", self.path("no/t.json"), "true"]
        done = kolorun("-H", elsewhere, *options, env={"KOLO_MPIRUN": fake})
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        # Rank 0 is on this machine when it is one of the hosts.
        self.expect(f"the folder '{self.path('no')}' does not exist", "-H",
                    f"{elsewhere},localhost", *options, env={"KOLO_MPIRUN": fake})

    def test_mpirun(self):
        self.expect("apt install openmpi-bin", "true", env={"KOLO_MPIRUN": None, "PATH": "/none"})
        fake = self.write("mpirun", "#!/bin/sh\necho HYDRA build details:\n", 0o755)
        self.expect("is not Open MPI's (its --version says 'HYDRA", "true",
                    env={"KOLO_MPIRUN": fake})

    def test_help_and_version(self):
        for option, text in (("--help", "Examples:"), ("--version", "kolorun ")):
            done = kolorun(option, env={"PATH": "/none"})
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn(text, done.stdout)


if __name__ == "__main__":
    unittest.main()
