"""kolo-bench as it is used: on one and on several ranks, for a moment."""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

parser = argparse.ArgumentParser()
parser.add_argument("--kolorun", type=pathlib.Path, required=True)
parser.add_argument("--program", type=pathlib.Path, required=True)
parser.add_argument("--wrong-program", type=pathlib.Path, required=True,
                    help="the same with all-reduces that go wrong: see wrong_sums.cc")
ARGUMENTS, UNITTEST_ARGUMENTS = parser.parse_known_args()


CAN_PLOT = subprocess.run([ARGUMENTS.program.resolve().with_name("kolo-bench-plot"), "--check"],
                          capture_output=True).returncode == 0


def run(*arguments, ranks=1, program=ARGUMENTS.program):
    command = [str(program.resolve()), *map(str, arguments)]
    if ranks > 1:
        command = [str(ARGUMENTS.kolorun.resolve()), "-np", str(ranks), *command]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("KOLO_TEST_")}
    environment.update(OMPI_MCA_mpi_yield_when_idle="1")
    return subprocess.run(command, env=environment, text=True, timeout=240,
                          stdin=subprocess.DEVNULL, capture_output=True)


class TestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.json = pathlib.Path(folder.name) / "results.json"

    def measure(self, *arguments, ranks):
        """The lines of JSON, which are well-formed; self.table is what was printed."""
        done = run(*arguments, "--seconds", "0.2", "--json", self.json, ranks=ranks)
        if done.returncode == 2 and "libgloo-dev" in done.stderr:
            self.skipTest("built without ddp")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.table = done.stdout
        lines = [json.loads(line) for line in self.json.read_text().splitlines()]
        for line in lines:
            self.assertEqual(line["benchmark"], arguments[0])
            self.assertEqual(line["ranks"], ranks)
            self.assertIn(line["method"], done.stdout)
            for summary in [line, *([line["ratio"]] if "ratio" in line else [])]:
                spread = [summary[name] for name in ("p25", "median", "p75", "p99", "max")]
                self.assertEqual(spread, sorted(spread))
                self.assertEqual(summary["n"], line["n"])
        return lines

    def assert_fails(self, done, code, *texts):
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertNotIn("terminate called", done.stderr)
        for text in texts:
            self.assertEqual(done.stderr.count(text), 1, done.stderr)


class Allreduce(TestCase):
    SIZES = ["--sizes", "4,64KiB"]

    def test_against_others(self):
        lines = self.measure("allreduce", *self.SIZES, "--against", "mpi,mpi-chunked", ranks=2)
        methods = ["kolo", "mpi", "mpi-chunked"]
        expected = [(size, memory, method) for memory in ("kolo", "private")
                    for size in (4, 65536) for method in methods]
        self.assertEqual([(l["bytes"], l["memory"], l["method"]) for l in lines], expected)
        for line in lines:
            self.assertEqual((line["quantity"], line["unit"]), ("time", "us"))
            self.assertEqual(line["dtype"], "float32")
            self.assertGreater(line["p25"], 0)
            self.assertGreaterEqual(line["n"], 10)
            self.assertEqual("ratio" in line, line["method"] != "kolo")

    def test_chunks_and_dtypes(self):
        dtypes = ["float64", "int32", "int64"]
        lines = self.measure("allreduce", "--sizes", "9MiB", "--memory", "private", "--dtypes",
                             ",".join(dtypes), "--against", "mpi-chunked", ranks=2)
        self.assertEqual([line["dtype"] for line in lines], [d for d in dtypes for _ in range(2)])

    def test_halves(self):
        lines = self.measure("allreduce", *self.SIZES, "--dtypes", "float16,bfloat16", ranks=3)
        self.assertEqual(len(lines), 8)

    def test_alone(self):
        self.assertEqual(len(self.measure("allreduce", *self.SIZES, ranks=1)), 4)


class Step(TestCase):
    def test_against_others(self):
        lines = self.measure("step", "--models", "resnet18,small", "--zero-grad", "zero,none",
                             "--against", "mpi,mpi-chunked", ranks=2)
        self.assertEqual(len(lines), 4 * 8)
        for model in ("resnet18", "small"):
            for zero_grad in ("zero", "none"):
                of_case = [line for line in lines
                           if (line["model"], line["zero_grad"]) == (model, zero_grad)]
                self.assertEqual(
                    [(l["quantity"], l["unit"], l["method"]) for l in of_case],
                    [("step", "ms", "alone")]
                    + [("added", "ms", method) for method in ("kolo", "mpi", "mpi-chunked")]
                    + [("memory", "bytes", method)
                       for method in ("alone", "kolo", "mpi", "mpi-chunked")])
                self.assertEqual([l["method"] for l in of_case if "ratio" in l],
                                 ["mpi", "mpi-chunked"])
                for method in ("kolo", "mpi", "mpi-chunked"):
                    self.assertRegex(self.table, rf"(?m)^{model} +{zero_grad} +{method} +memory ")

    def test_against_ddp(self):
        lines = self.measure("step", "--models", "small", "--zero-grad", "zero,none",
                             "--against", "ddp,ddp-view", ranks=2)
        self.assertEqual([l["method"] for l in lines if l["quantity"] == "added"],
                         2 * ["kolo", "ddp", "ddp-view"])

    def test_compute(self):
        for how in ("sleep", "work"):
            lines = self.measure("step", "--models", "small", "--compute", "2,5,1", "--compute-as",
                                 how, ranks=2)
            alone, kolo, _, _ = lines
            self.assertEqual(alone["compute"], f"{how} 2,5,1")
            self.assertEqual((alone["quantity"], alone["method"]), ("step", "alone"))
            # Nothing makes a step shorter but what the one before has spent too much.
            self.assertGreater(alone["p25"], 7.5)
            self.assertEqual((kolo["quantity"], kolo["method"]), ("added", "kolo"))

    def test_alone(self):
        lines = self.measure("step", "--models", "small", ranks=1)
        self.assertEqual([(line["quantity"], line["method"]) for line in lines],
                         [("step", "alone"), ("added", "kolo"), ("memory", "alone"),
                          ("memory", "kolo")])


SMALL_TRAINING = ["train", "--batch-size", "2", "--steps", "1"]


class Train(TestCase):
    def check_lines(self, lines, reducers):
        self.assertEqual(
            [(l["quantity"], l["unit"], l["method"]) for l in lines],
            [("step", "ms", method) for method in [*reducers, "alone", "mean alone"]]
            + [("of alone", "%", method) for method in reducers])
        for line in lines:
            self.assertEqual((line["batch"], line["steps"], line["threads"]), (2, 1, 1))
            self.assertGreater(line["p25"], 0)
            self.assertGreaterEqual(line["n"], 10)
        with_ratio = [l["method"] for l in lines if "ratio" in l]
        self.assertEqual(with_ratio, [*reducers[1:], "alone", "mean alone"])
        of_line = {(l["quantity"], l["method"]): l for l in lines}
        alone, mean = of_line["step", "alone"], of_line["step", "mean alone"]
        # The slowest of each round is no faster than the mean, by which one divides.
        self.assertGreaterEqual(alone["median"], mean["median"])
        self.assertLessEqual(alone["ratio"]["median"], mean["ratio"]["median"])
        self.assertAlmostEqual(of_line["of alone", "kolo"]["median"],
                               100 * alone["ratio"]["median"])

    def test_against_mpi(self):
        self.check_lines(self.measure(*SMALL_TRAINING, "--against", "mpi", ranks=2),
                         ["kolo", "mpi"])

    def test_against_ddp(self):
        self.check_lines(self.measure(*SMALL_TRAINING, "--against", "ddp", ranks=2),
                         ["kolo", "ddp"])

    def test_alone(self):
        self.check_lines(self.measure(*SMALL_TRAINING, ranks=1), ["kolo"])


class Negotiate(TestCase):
    def test_growing_sets(self):
        lines = self.measure("negotiate", "--names", "5", ranks=3)
        self.assertEqual([(l["members"], l["method"]) for l in lines],
                         [(members, method) for members in (2, 3)
                          for method in ("new names", "known names")])
        for line in lines:
            self.assertEqual((line["names"], line["unit"]), (5, "ms"))
            self.assertGreater(line["p25"], 0)

    def test_chosen_sets(self):
        lines = self.measure("negotiate", "--names", "5", "--ranks", "1", ranks=2)
        self.assertEqual([line["members"] for line in lines], [1, 1])

    def test_against_mpi(self):
        lines = self.measure("negotiate", "--names", "5", "--against", "mpi", ranks=3)
        self.assertEqual([(l["members"], l["method"], "ratio" in l) for l in lines],
                         [(members, method, method.startswith("mpi")) for members in (2, 3)
                          for method in ("new names", "known names", "mpi", "mpi, futures")])


class Idle(TestCase):
    def test_nothing_and_waiting(self):
        lines = self.measure("idle", "--window", "0.2", "--against", "mpi", ranks=2)
        self.assertEqual([(l["state"], l["method"]) for l in lines],
                         [("idle", "kolo"), ("waiting", "kolo"), ("waiting", "mpi")])
        for line in lines:
            self.assertEqual((line["quantity"], line["unit"]), ("processor", "%"))
            self.assertGreaterEqual(line["p25"], 0)
            self.assertGreaterEqual(line["n"], 3)

    def test_alone(self):
        self.assertEqual(len(self.measure("idle", "--window", "0.1", ranks=1)), 1)


class WrongResults(TestCase):
    def assert_caught(self, *arguments, text):
        done = run(*arguments, "--seconds", "0.1", "--json", self.json, ranks=2,
                   program=ARGUMENTS.wrong_program)
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertRegex(done.stderr, f"kolo-bench: {text}")
        self.assertNotIn("terminate called", done.stderr)
        return self.json.read_text()

    def test_allreduce(self):
        lines = self.assert_caught("allreduce", "--sizes", "1KiB",
                                   text="kolo: a wrong result: call 3 of 5: element .* must be")
        self.assertEqual(lines, "", "what is wrong was timed")

    def test_step(self):
        lines = self.assert_caught("step", "--models", "small", "--against", "mpi",
                                   text="mpi: a wrong result: gradient .*: element .* must be")
        self.assertEqual(lines, "", "what is wrong was timed")

    def test_train(self):
        lines = self.assert_caught(*SMALL_TRAINING, "--against", "mpi",
                                   text="mpi: a wrong result: gradient .*: element .* must be")
        self.assertEqual(lines, "", "what is wrong was timed")

    def test_negotiate(self):
        self.assert_caught("negotiate", "--names", "5",
                           text="known names: a wrong result: call 1 of 5: element .* must be")

    def test_idle(self):
        lines = self.assert_caught("idle", "--window", "0.1",
                                   text="kolo: a wrong result: element 0 of 1 is .* must be")
        self.assertNotIn("waiting", lines)


class Errors(TestCase):
    def test_wrong_usage_is_said_once(self):
        self.assert_fails(run("step", "--models", "vgg", ranks=2), 2,
                          "kolo-bench: --models is 'vgg': expected one of", "Try --help.")
        self.assert_fails(run(), 2, "kolo-bench: no subcommand is given")
        self.assert_fails(run("step", "--sizes", "4"), 2, "--sizes")
        self.assert_fails(run("negotiate", "--ranks", "3", ranks=2), 2, "--ranks has 3")

    def test_others_need_ranks(self):
        self.assert_fails(run("allreduce", "--against", "mpi"), 2, "kolorun -np 2 kolo-bench")

    def test_file_that_cannot_be_written(self):
        path = self.json / "below"
        self.json.write_text("a file, not a folder")
        self.assert_fails(run("idle", "--window", "0.1", "--json", path), 1,
                          f"kolo-bench: cannot write {path}: Not a directory")

    def test_one_rank_fails_while_the_other_waits(self):
        self.assert_fails(run("step", "--models", "small", "--json", self.json / "below", ranks=2), 1,
                          "kolo-bench: cannot write")

    def test_help(self):
        for arguments in ([], ["allreduce"], ["step"], ["train"], ["negotiate"], ["idle"]):
            done = run(*arguments, "--help")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("--seconds", done.stdout)


class Plot(TestCase):
    COMMAND = ["allreduce", "--sizes", "4,64", "--seconds", "0.1"]

    def plot(self, name):
        picture = self.json.with_name(name)
        return run(*self.COMMAND, "--json", self.json, "--plot", picture), picture

    @unittest.skipIf(CAN_PLOT, "matplotlib is there")
    def test_without_matplotlib(self):
        done, _ = self.plot("picture.svg")
        self.assert_fails(done, 1, "install python3-matplotlib")
        self.assertFalse(self.json.exists(), "it measures although it cannot plot")

    @unittest.skipUnless(CAN_PLOT, "needs matplotlib")
    def test_pictures(self):
        for name, magic in (("picture.svg", b"<?xml"), ("picture.png", b"\x89PNG")):
            done, picture = self.plot(name)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertTrue(picture.read_bytes().startswith(magic))

    @unittest.skipUnless(CAN_PLOT, "needs matplotlib")
    def test_every_subcommand(self):
        for arguments in (["step", "--models", "small"], SMALL_TRAINING, ["negotiate"],
                          ["idle", "--window", "0.1"]):
            picture = self.json.with_name("picture.svg")
            done = run(*arguments, "--seconds", "0.1", "--json", self.json, "--plot", picture)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn(arguments[0], picture.read_text())


unittest.main(argv=[__file__, *UNITTEST_ARGUMENTS])
