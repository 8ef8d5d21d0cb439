"""How ranks meet when they start and part when they end, and what they say of those that do not come.

Called with the paths of mpirun, of kolorun and of start_program, then unittest's own arguments.
"""

import os
import subprocess
import sys
import tempfile
import unittest

MPIRUN = sys.argv.pop(1)
KOLORUN = sys.argv.pop(1)
PROGRAM = sys.argv.pop(1)

# A job that hangs is given up after this time; none comes near it otherwise.
SECONDS = 100

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

# Of LeakSanitizer: Open MPI keeps memory.
SANITIZER_ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0"}

# Ranks that wait for one that does not come.
IMPATIENT = {"KOLO_STALL_WARNING_SECONDS": "1.5", "KOLO_STALL_ABORT_SECONDS": "4"}


def run(command, settings):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KOLO_")}
    return subprocess.run(command, env={**environment, **SANITIZER_ENVIRONMENT, **settings},
                          text=True, timeout=SECONDS, stdin=subprocess.DEVNULL,
                          capture_output=True)


def alone(*arguments, **settings):
    return run([PROGRAM, *arguments], settings)


def ranks(count, *arguments, **settings):
    return run([MPIRUN, "-np", str(count), "--bind-to", "none", PROGRAM, *arguments],
               {**MPI_ENVIRONMENT, **settings})


class StartTest(unittest.TestCase):
    def lines(self, done):
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return sorted(done.stdout.splitlines())

    def sums(self, count):
        return [f"rank {rank} of {count}, sum {count}" for rank in range(count)]

    def errors(self, done, count):
        """The ranks' errors, one from each."""
        self.assertNotEqual(done.returncode, 0, done.stdout + done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), count, done.stderr)
        return errors

    def warnings(self, done):
        return [line for line in done.stderr.splitlines() if "warning: stalled: " in line]

    def assert_has(self, text, *parts):
        for part in parts:
            self.assertIn(part, text)


class Launchers(StartTest):
    """Who have started several processes, which Kolo's MPI does not see."""

    several = [
        ("a launcher with PMI, such as MPICH's mpiexec or Slurm's srun (PMI_RANK, PMI_SIZE)",
         {"PMI_RANK": "1", "PMI_SIZE": "2"}),
        ("a launcher like torchrun (RANK, WORLD_SIZE)", {"RANK": "1", "WORLD_SIZE": "2"}),
    ]

    def test_of_several_processes(self):
        for name, variables in self.several:
            with self.subTest(variables=variables):
                error, = self.errors(alone(**variables), 1)
                self.assert_has(error, f"kolo::init(): {name} has started this process as rank 1 of 2,",
                                "the MPI that Kolo uses, ", "rank 0 of 1", "kolorun",
                                "KOLO_ALONE=1")
                self.assertRegex(error, "Open MPI v|MPICH Version")
                self.assertEqual(self.lines(alone(KOLO_ALONE="1", **variables)), self.sums(1))

    def test_around_mpirun(self):
        """The innermost counts."""
        self.assertEqual(self.lines(ranks(2, RANK="0", WORLD_SIZE="3")), self.sums(2))

    def test_insisting_on_being_alone(self):
        self.assertEqual(self.lines(ranks(2, KOLO_ALONE="1")), self.sums(1) * 2)


class Settings(StartTest):
    def test_a_bad_one_on_one_rank(self):
        """Is an error on all."""
        for count in (2, 3):
            done = run([MPIRUN, "-np", "1", "--bind-to", "none", PROGRAM, "plain", ":",
                        "-np", str(count - 1), "-x", "KOLO_LOG_LEVEL=loud", PROGRAM, "plain"],
                       MPI_ENVIRONMENT)
            for error in self.errors(done, count):
                self.assert_has(error, "kolo::init(): rank 1: KOLO_LOG_LEVEL='loud' is not valid")


class Differences(StartTest):
    def two(self, first, second, count=2):
        """Rank 0 with one setting, and the others with another one."""
        return run([MPIRUN, "-np", "1", "--bind-to", "none", "-x", first, PROGRAM, "plain", ":",
                    "-np", str(count - 1), "-x", second, PROGRAM, "plain"], MPI_ENVIRONMENT)

    def test_timelines(self):
        with tempfile.TemporaryDirectory() as folder:
            for count in (2, 3):
                done = self.two(f"KOLO_TIMELINE={folder}/0.json", f"KOLO_TIMELINE={folder}/1.json",
                                count)
                for error in self.errors(done, count):
                    self.assert_has(error, "kolo::init(): KOLO_TIMELINE differs: rank 0 has '",
                                    "/0.json', rank 1 of the same host has '", "/1.json'")

    def test_settings_of_nccl(self):
        done = self.two("NCCL_ALGO=Ring", "NCCL_ALGO=Tree")
        self.assertEqual(self.lines(done), self.sums(2))
        self.assert_has(done.stderr, "warning: NCCL_ALGO differs: rank 0 has 'Ring', "
                        "rank 1 has 'Tree'.")
        done = self.two("NCCL_DEBUG=INFO", "NCCL_DEBUG=WARN")
        self.assertEqual(self.lines(done), self.sums(2))
        self.assertNotIn("differs", done.stderr)


class Absent(StartTest):
    """A rank that does not come is named, and waited for no longer than is wanted."""

    def test_from_init(self):
        for count, missing in ((2, "1"), (3, "1")):
            done = ranks(count, "absent", **IMPATIENT)
            for error in self.errors(done, count - 1):
                self.assert_has(error, "kolo::init(): given up after ", "KOLO_STALL_ABORT_SECONDS",
                                f"rank(s) {missing} have not come", "kolo::init(communicator)")
            self.assertEqual(len(self.warnings(done)), 2, done.stderr)
            for warning in self.warnings(done):
                self.assert_has(warning, "[kolo rank 0]", "kolo::init()",
                                f"rank(s) {missing} have not called kolo::init()",
                                "KOLO_STALL_ABORT_SECONDS")

    def test_from_init_while_mpi_starts(self):
        for count in (2, 3):
            done = ranks(count, "absent-from-mpi", **IMPATIENT)
            self.assertNotEqual(done.returncode, 0)
            over = [line for line in done.stderr.splitlines() if "has given up after" in line]
            self.assertGreaterEqual(len(over), 1, done.stderr)
            for line in over:
                self.assert_has(line, "kolo::init(): rank ", "KOLO_STALL_ABORT_SECONDS",
                                "Open MPI's mpirun", "Rank(s) 1 have not called it")
            self.assert_has("".join(self.warnings(done)), "[kolo rank 0]",
                            "Rank(s) 1 have not called it")

    def test_late(self):
        """Who comes after the report is welcome, and what was sent meanwhile is not left over."""
        for count in (2, 3):
            done = ranks(count, "late", KOLO_STALL_WARNING_SECONDS="1.2")
            self.assertEqual(self.lines(done), self.sums(count))
            self.assert_has("".join(self.warnings(done)), "rank(s) 1 have not called kolo::init()")

    def test_from_shutdown(self):
        for count in (2, 3):
            done = ranks(count, "stays", **IMPATIENT)
            self.assertNotEqual(done.returncode, 0)
            self.assert_has(done.stderr, "rank(s) 1 have not called kolo::shutdown() (or ended)",
                            "kolo::shutdown(): given up after ", "KOLO_STALL_ABORT_SECONDS")


class Communicators(StartTest):
    def test_part_of_the_world(self):
        self.assertEqual(self.lines(ranks(2, "part")), self.sums(2))
        lines = self.lines(ranks(3, "part"))
        self.assertEqual(lines[1:], self.sums(2))
        self.assert_has(lines[0], "kolo::init(): ", "MPI_COMM_NULL")

    def test_two_jobs(self):
        """On one host, at once."""
        self.assertEqual(self.lines(ranks(4, "part", "both")), sorted(self.sums(2) * 2))

    def test_other_programs_beside(self):
        """Without kolo::init(communicator) that is a stall, which is told."""
        done = run([MPIRUN, "-np", "1", "--bind-to", "none", PROGRAM, "plain", ":",
                    "-np", "1", PROGRAM, "absent"], {**MPI_ENVIRONMENT, **IMPATIENT})
        self.assertNotEqual(done.returncode, 0)
        self.assert_has(done.stderr, "rank(s) 1 have not c", "kolo::init()")


class Nested(StartTest):
    """What a rank starts is not that rank."""

    def nested(self, command, count=2, **settings):
        done = ranks(count, "nested", command, **settings)
        self.assertEqual(done.returncode, 0, done.stderr)
        return sorted(done.stdout.splitlines()), done.stderr

    def test_a_program(self):
        lines, errors = self.nested(PROGRAM)
        self.assertEqual(lines, [*self.sums(2), "the program has ended with 1"])
        self.assert_has(errors, "kolo::init(): this process was started by a rank of a Kolo job",
                        "kolorun", "KOLO_ALONE=1")

    def test_a_program_that_is_alone(self):
        lines, _ = self.nested(f"KOLO_ALONE=1 {PROGRAM}")
        self.assertEqual(lines, sorted([*self.sums(2), *self.sums(1),
                                        "the program has ended with 0"]))

    def test_kolorun(self):
        for inner in (1, 2):
            lines, errors = self.nested(f"{KOLORUN} -np {inner} {PROGRAM}")
            self.assertEqual(lines, sorted([*self.sums(2), *self.sums(inner),
                                            "the program has ended with 0"]), errors)


class Builds(StartTest):
    """Ranks that load different builds of Kolo do not work together."""

    def build_id(self, library):
        notes = subprocess.run(["readelf", "-n", library], text=True, check=True,
                               capture_output=True).stdout
        return next(line.split()[-1] for line in notes.splitlines() if "Build ID" in line)

    def test_two_builds(self):
        libraries = subprocess.run(["ldd", PROGRAM], text=True, check=True, capture_output=True)
        library = next(line.split()[2] for line in libraries.stdout.splitlines()
                       if "libkolo.so" in line)
        own = self.build_id(library)
        other = ("0" if own[0] != "0" else "1") + own[1:]
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "libkolo.so.0")
            with open(library, "rb") as file:
                code = file.read()
            self.assertEqual(code.count(bytes.fromhex(own)), 1)
            with open(copy, "wb") as file:
                file.write(code.replace(bytes.fromhex(own), bytes.fromhex(other)))
            for count in (2, 3):
                done = run([MPIRUN, "-np", "1", "--bind-to", "none", PROGRAM, "plain", ":", "-np",
                            str(count - 1), "-x", f"LD_PRELOAD={copy}", PROGRAM, "plain"],
                           MPI_ENVIRONMENT)
                for error in self.errors(done, count):
                    self.assert_has(error, "kolo::init(): the ranks do not run the same build",
                                    own, other, "rank(s) 0 (host ", "Install the same")
                    self.assertIn(f"rank(s) {', '.join(str(r) for r in range(1, count))} (host ",
                                  error)


if __name__ == "__main__":
    unittest.main()
