"""What programs with Kolo do with their processes: children, signals, limits, and how they end.

Called with the paths of mpirun and of process_program, then unittest's own arguments.
"""

import contextlib
import os
import unittest

from life_test import MPI_ENVIRONMENT, MPIRUN, PROGRAM, LifeTest, ranks, run

# Each case over shared memory and over MPI alone.
VARIANTS = ((2, {}), (3, {"KOLO_SHARED_MEMORY": "off"}))


class Children(LifeTest):
    """Of fork(), without exec: one rank has one in each step."""

    refusal = "this process is a child, by fork(), of one that has called kolo::init()"

    def expect_children(self, lines):
        lines = [line for line in lines if line.startswith("child: ")]
        refused = [line for line in lines if self.refusal in line]
        self.assertEqual([line.split(": ")[1] for line in refused],
                         ["DistributedOptimizer", "allreduce", "backward", "barrier",
                          "broadcast_parameters", "empty", "init", "rank", "step", "wait"])
        for line in refused:
            self.assertIn("exec, posix_spawn, std::system", line)
        others = [line for line in lines if self.refusal not in line]
        self.assertEqual(others, ["child: memory as before, written"] * 2 + ["child: not running"])

    def test_ranks(self):
        for count, settings in VARIANTS:
            with self.subTest(count=count, settings=settings):
                expected = self.lines(ranks(count, "fork", "none", **settings))
                self.assertEqual(len(expected), count)
                for rank, line in enumerate(expected):
                    self.assertRegex(line, rf"^rank {rank} has learned \d+, 15 to 15$")
                lines = self.lines(ranks(count, "fork", **settings))
                self.expect_children(lines)
                self.assertEqual([line for line in lines if not line.startswith("child: ")],
                                 expected)


class Ends(LifeTest):
    def test_own_mpi_is_finalized_first(self):
        for count, settings in VARIANTS:
            for when in ("reset", "keep"):
                with self.subTest(count=count, when=when):
                    lines = self.lines(ranks(count, "finalize", when, **settings))
                    self.assertEqual(len(lines), 2 * count)
                    self.assertEqual(lines[count:], [f"sum {count}"] * count)
                    for line in lines[:count]:
                        self.assertIn("submitted after kolo::shutdown()", line)

    def test_quick_exit(self):
        for count in (2, 3):
            self.assertEqual(self.lines(ranks(count, "quick-exit", "shut-down")),
                             [f"sum {count}"] * count)

    def test_quick_exit_of_a_rank_that_has_not_left(self):
        self.fails(ranks(3, "quick-exit", "early"), "sum 3")


class Limits(LifeTest):
    def test_signals_are_the_programs(self):
        for count, settings in VARIANTS:
            with self.subTest(count=count, settings=settings):
                self.assertEqual(self.lines(ranks(count, "wait-for-signal", **settings)),
                                 [f"signal USR1, sum {count}"] * count)

    def test_no_thread_on_one_rank(self):
        for count, settings in VARIANTS:
            with self.subTest(count=count, settings=settings):
                lines = self.lines(ranks(count, "without-threads", **settings))
                if "cannot refuse threads" in lines:
                    self.skipTest("seccomp is not permitted")
                self.assertEqual(len(lines), count)
                for rank, line in enumerate(lines):
                    self.assertTrue(line.startswith(
                        f"rank {rank}: kolo::init(): rank 1: cannot start the thread kolo: Resource "
                        "temporarily unavailable. The limit on processes and threads is reached "
                        "(see ulimit -u, and pids.max of the cgroup, such as a container's)"), line)

    @contextlib.contextmanager
    def memory_group(self, size):
        """A cgroup with so much memory; of version 1, where processes may be in any group."""
        group = f"/sys/fs/cgroup/memory/kolo_test_{os.getpid()}"
        try:
            os.mkdir(group)
        except OSError as error:
            self.skipTest(f"no cgroup can be made: {error}")
        try:
            with open(f"{group}/memory.limit_in_bytes", "w") as file:
                file.write(str(size))
            yield group
        finally:
            os.rmdir(group)

    def test_memory_of_a_container(self):
        with self.memory_group(700 << 20) as group:
            done = run(["sh", "-c", f"echo $$ > {group}/tasks && exec \"$@\"", "sh", MPIRUN, "-np", "2",
                        "--bind-to", "none", PROGRAM, "take-memory"], MPI_ENVIRONMENT)
        lines = self.lines(done)
        refused = [line for line in lines if line.startswith("kolo::empty()")]
        self.assertEqual([line for line in lines if line not in refused], ["sum 2"] * 2)
        self.assertIn(len(refused), (1, 2))
        for line in refused:
            self.assertRegex(line, r"^kolo::empty\(\): there is no memory for a tensor of "
                             r"\[25000000\]: 100000000 bytes are wanted, but the cgroup \S+ "
                             r"\(memory.limit_in_bytes is 734003200 bytes\) has only \d+ left")


if __name__ == "__main__":
    unittest.main()
