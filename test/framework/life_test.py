"""How programs with Kolo start and end, alone and under mpirun.

Called with the paths of mpirun and of life_program, then unittest's own arguments.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

MPIRUN = sys.argv.pop(1)
PROGRAM = sys.argv.pop(1)

# A job that hangs is given up after this time; none comes near it otherwise.
SECONDS = 60

# Of Open MPI: jobs that share a folder and start at the same time hang now and then.
SESSIONS = tempfile.TemporaryDirectory(prefix="kolo-")

MPI_ENVIRONMENT = {
    "OMPI_MCA_orte_tmpdir_base": SESSIONS.name,
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PMIX_MCA_gds": "hash",  # with ds21 mpirun may not end when a rank was killed while it started
}

# In sanitizer builds. Open MPI's leaks are told apart only where test/support/mpi_main.cc is main();
# framework_test looks for ours.
SANITIZER_ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}


def run(command, settings):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KOLO_")}
    environment.update(SANITIZER_ENVIRONMENT)
    return subprocess.run(command, env={**environment, **settings}, text=True, timeout=SECONDS,
                          stdin=subprocess.DEVNULL, capture_output=True)


def alone(*arguments, **settings):
    return run([PROGRAM, *arguments], settings)


def ranks(count, *arguments, **settings):
    # As from a shell that is not a rank itself.
    return run([MPIRUN, "-np", str(count), "--bind-to", "none", PROGRAM, *arguments],
               {**MPI_ENVIRONMENT, **settings})


class LifeTest(unittest.TestCase):
    def lines(self, done):
        self.assertEqual(done.returncode, 0, done.stderr)
        return sorted(done.stdout.splitlines())

    def fails(self, done, *parts):
        self.assertNotEqual(done.returncode, 0, done.stdout)
        for part in parts:
            self.assertIn(part, done.stdout + done.stderr)


class Alone(LifeTest):
    line = "rank 0 of 1, local 0 of 1, cross 0 of 1, cpu, sum 1, MPI off"

    def test_mpi_is_not_started(self):
        self.assertEqual(self.lines(alone("plain")), [self.line])

    def test_shutdown(self):
        self.assertEqual(self.lines(alone("shut-down")), ["ended", self.line])

    def test_use_before_init(self):
        lines = self.lines(alone("use-before-init"))
        self.assertEqual(len(lines), 6)
        for line in lines:
            self.assertIn("Kolo is not running: call kolo::init() first", line)


class Settings(LifeTest):
    def test_bad_values(self):
        for name, value, accepted in [("KOLO_FUSION_THRESHOLD", "many", "64MiB"),
                                      ("KOLO_FUSION_THRESHOLD", "-1", "64MiB"),
                                      ("KOLO_LOG_LEVEL", "loud", "warning"),
                                      ("KOLO_GPU_BETWEEN_HOSTS", "tcp", "nccl or mpi"),
                                      ("KOLO_CHECK_EQUAL", "on", "off, warn or error"),
                                      ("KOLO_STALL_WARNING_SECONDS", "soon", "0.5"),
                                      ("KOLO_STALL_ABORT_SECONDS", "", "0.5")]:
            with self.subTest(name=name, value=value):
                self.fails(alone("plain", **{name: value}), "kolo::init()", f"{name}='{value}'",
                           accepted)

    def test_timeline_that_cannot_be_written(self):
        path = "/no-such-folder/timeline.json"
        self.fails(alone("plain", KOLO_TIMELINE=path), "kolo::init()", path)
        self.fails(ranks(2, "plain", KOLO_TIMELINE=path), "kolo::init()", path, "rank 0")

    def test_unknown_variables(self):
        self.fails(alone("plain", KOLO_CYCLE_TIME="5"), "KOLO_CYCLE_TIME is not a setting",
                   "KOLO_FUSION_THRESHOLD")
        self.fails(ranks(2, "plain", KOLO_CYCLE_TIME="5"), "KOLO_CYCLE_TIME is not a setting")

    def test_settings_that_differ_between_ranks(self):
        self.fails(ranks(3, "set-on-one-rank", "KOLO_FUSION_THRESHOLD"),
                   "KOLO_FUSION_THRESHOLD differs", "rank 0 has", "rank 1 has 12345")

    def test_a_bad_setting_on_one_rank(self):
        self.fails(ranks(3, "set-on-one-rank", "KOLO_LOG_LEVEL"), "KOLO_LOG_LEVEL='12345'")


class Ranks(LifeTest):
    def expected(self, count):
        return [f"rank {rank} of {count}, local {rank} of {count}, cross 0 of 1, cpu, sum {count},"
                " MPI on" for rank in range(count)]

    def test_without_shutdown(self):
        for count in (1, 2, 3):
            self.assertEqual(self.lines(ranks(count, "plain")), self.expected(count))

    def test_shutdown(self):
        self.assertEqual(self.lines(ranks(2, "shut-down")), ["ended"] * 2 + self.expected(2))

    def test_memory_refused_on_one_rank(self):
        done = ranks(3, "refused-memory")
        self.assertEqual(self.lines(done), self.expected(3))
        warnings = [line for line in done.stderr.splitlines() if "warning: " in line]
        self.assertEqual(len(warnings), 1, done.stderr)
        for part in ("[kolo rank 0]", "the ranks of this host use MPI among themselves",
                     "rank 1: ", "only 4096 allowed (see ulimit -f)"):
            self.assertIn(part, warnings[0])

    def test_two_threads_with_one_process_set(self):
        for count in (2, 3):
            lines = self.lines(ranks(count, "two-threads"))
            self.assertEqual(len(lines), 2 * count, lines)
            for line in lines:
                self.assertIn("two threads use optimizers of one process set at the same time", line)
                self.assertIn("add_process_set()", line)

    def test_mpi_of_the_program(self):
        for level in ("single", "funneled", "serialized", "multiple"):
            with self.subTest(level=level):
                lines = self.lines(ranks(2, "own-mpi", level))
                self.assertEqual([line for line in lines if line.startswith("finalized")],
                                 ["finalized 0", "finalized 1"])
                if "level is enough" in lines:
                    self.assertIn(self.expected(2)[1], lines)
                else:
                    self.assertNotIn(level, ("serialized", "multiple"))
                    errors = [line for line in lines if "MPI was initialised before Kolo" in line]
                    self.assertEqual(len(errors), 2)
                    self.assertIn("MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE", errors[0])


class Groups(LifeTest):
    """Of gradients: which, and why."""

    def trace(self, life, **settings):
        """What the program gives, and the events of the timeline."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "timeline.json")
            done = ranks(2, life, KOLO_TIMELINE=path, KOLO_LOG_LEVEL="info", **settings)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path) as file:
                return done, json.loads(file.read().rstrip().rstrip(",") + "]")

    def train(self, **settings):
        """The lines of the program, of the log, and what the timeline says of the groups."""
        done, events = self.trace("train", **settings)
        lines = self.lines(done)
        chosen = [event for event in events if event["ph"] == "i" and event["name"] == "groups"]
        self.assertEqual(len(chosen), 1)
        self.assertEqual(chosen[0]["pid"], 0)
        log = [line for line in done.stderr.splitlines() if "chosen by" in line]
        self.assertEqual(len(log), 1, done.stderr)
        return lines, log[0], chosen[0]["args"]

    def expect_groups(self, args):
        self.assertEqual(args["groups"], len(args["bytes"]))
        self.assertTrue(all(size > 0 for size in args["bytes"]))
        # 50 * 300 + 300, 300 * 300 + 300 and 300 * 5 + 5 floats, each in multiples of 64 bytes.
        self.assertEqual(sum(args["bytes"]), 60032 + 1216 + 360000 + 1216 + 6016 + 64)
        self.assertGreater(args["latency_us"], 0)
        self.assertGreater(args["exposed_us"], 0)

    def test_by_time(self):
        _, log, args = self.train()
        self.expect_groups(args)
        self.assertEqual(args["chosen_by"], "time")
        self.assertLess(args["exposed_us"], args["exposed_before_us"] + 0.01)
        self.assertIn(f"{args['groups']} groups", log)

    def test_by_size(self):
        for threshold, groups in (("0", 6), ("1MiB", 1)):
            _, log, args = self.train(KOLO_FUSION_THRESHOLD=threshold)
            self.expect_groups(args)
            self.assertEqual(args["chosen_by"], "KOLO_FUSION_THRESHOLD")
            self.assertEqual(args["groups"], groups)
            self.assertIn("KOLO_FUSION_THRESHOLD", log)

    def test_in_order_of_readiness(self):
        """Registered as last, first, middle: at first the other way round, from the fifth step as they come."""
        for settings in ({}, {"KOLO_FUSION_THRESHOLD": "0"}, {"KOLO_FUSION_THRESHOLD": "1MiB"}):
            _, events = self.trace("train-reordered", **settings)
            collectives = sorted((event for event in events
                                  if event["pid"] == 0 and "tensors" in event.get("args", {})),
                                 key=lambda event: event["ts"])
            layers = [name.split("/")[1][0] for event in collectives
                      for name in event["args"]["tensors"]
                      if name.startswith("optimizer") and name.endswith(("weight", "bias"))]
            with self.subTest(settings=settings):
                self.assertEqual("".join(layers), 4 * "221100" + 2 * "002211")

    def test_stay_in_place(self):
        """Where the first groups are only cut."""
        learned = set()
        for settings in ({}, {"KOLO_FUSION_THRESHOLD": "0"}, {"KOLO_FUSION_THRESHOLD": "9KiB"},
                         {"KOLO_SHARED_MEMORY": "off"}):
            with self.subTest(settings=settings):
                lines = self.lines(ranks(2, "train-in-order", **settings))
                self.assertEqual(len(lines), 2)
                for rank, line in enumerate(lines):
                    self.assertRegex(line, rf"^rank {rank}: gradients have stayed, ")
                    learned.add(line.split()[-1])
        self.assertEqual(len(learned), 1)

    def test_the_same_bits(self):
        for count in (2, 3):
            expected = self.lines(ranks(count, "train"))
            for settings in ({}, {"KOLO_FUSION_THRESHOLD": "0"}, {"KOLO_FUSION_THRESHOLD": "300KiB"},
                             {"KOLO_SHARED_MEMORY": "off"}):
                with self.subTest(count=count, settings=settings):
                    self.assertEqual(self.lines(ranks(count, "train", **settings)), expected)


class Ends(LifeTest):
    """One rank ends while the others wait for it."""

    left = ("allreduce 'x': rank 1 has shut down Kolo (or ended) without taking part. "
            "Every rank of the process set must run the same operations.")

    def end(self, life):
        for status in (0, 1):
            done = ranks(3, life, str(status))
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertEqual(sorted(done.stdout.splitlines()),
                             [f"rank {rank}: {self.left}" for rank in (0, 2)])

    def test_exit(self):
        self.end("exit")

    def test_return(self):
        self.end("return")

    def test_exception_that_main_catches(self):
        self.fails(ranks(3, "throw", "1"), "this rank has had enough", self.left)

    def test_exception_that_main_does_not_catch(self):
        self.fails(ranks(3, "throw-uncaught", "1"), "this rank has had enough", "rank 1")


if __name__ == "__main__":
    unittest.main()
