"""What tests of the example programs need: starting them, and files for them to read."""

import argparse
import csv
import gzip
import hashlib
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest
import zipfile

CIFAR_RECORDS = 10000
CIFAR_RECORD_BYTES = 3073
CIFAR_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
TINY = ["--limit-train", "33", "--limit-test", "17", "--batch-size", "8", "--lr", "0.01"]

parser = argparse.ArgumentParser()
parser.add_argument("--programs", type=pathlib.Path, required=True)
parser.add_argument("--launcher", default="")
ARGUMENTS, UNITTEST_ARGUMENTS = parser.parse_known_args()
PROGRAMS = ARGUMENTS.programs.resolve()


def environment(**changes):
    # Kolo refuses KOLO_ variables that it does not know.
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KOLO_TEST_")}
    kept.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
                OMPI_MCA_rmaps_base_oversubscribe="1", OMPI_MCA_mpi_yield_when_idle="1",
                PMIX_MCA_gds="hash")
    kept.update(CUDA_VISIBLE_DEVICES="")  # also where there is a GPU, the CPU is tested
    kept.update(changes)
    return kept


def run(program, *arguments, ranks=1, timeout=240, env=None):
    """Runs to the end; a program that hangs is an error, not a test that never ends."""
    command = [str(PROGRAMS / program), *map(str, arguments)]
    if ranks > 1:
        launcher = [ARGUMENTS.launcher] if ARGUMENTS.launcher else ["mpirun", "--bind-to", "none"]
        command = [*launcher, "-np", str(ranks), *command]
    return subprocess.run(command, env=environment(**(env or {})), text=True, timeout=timeout,
                          stdin=subprocess.DEVNULL, capture_output=True)


def resnet(*arguments, **how):
    return run("resnet18_cifar10", *arguments, **how)


def write_cifar10(folder):
    """Files of the right format and size; only their beginnings are not zeros."""
    folder.mkdir(parents=True)
    for number, name in enumerate(CIFAR_FILES):
        with open(folder / name, "wb") as file:
            for record in range(64):
                pixels = hashlib.shake_128(bytes([number, record])).digest(CIFAR_RECORD_BYTES - 1)
                file.write(bytes([(number + record) % 10]) + pixels)
            file.truncate(CIFAR_RECORDS * CIFAR_RECORD_BYTES)


def write_fashion_mnist(folder, images=64):
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        pixels = hashlib.shake_128(part.encode()).digest(images * 28 * 28)
        labels = bytes(i % 10 for i in range(images))
        with gzip.open(folder / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">IIII", 0x803, images, 28, 28) + pixels)
        with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">II", 0x801, images) + labels)


def read_history(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def results(path):
    """The part of the history that must be the same when a run is repeated."""
    names = ("epoch", "ranks", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
    return [tuple(line[name] for name in names) for line in read_history(path)]


def tensors(checkpoint):
    """Hashes of a checkpoint's tensors. LibTorch numbers them by address: order means nothing."""
    with zipfile.ZipFile(checkpoint) as archive:
        return sorted(hashlib.sha256(archive.read(name)).hexdigest()
                      for name in archive.namelist() if "/data/" in name)


class TestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def assert_good(self, result):
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def assert_fails(self, result, code, *texts):
        output = result.stdout + result.stderr
        self.assertEqual(result.returncode, code, output)
        self.assertIn("kolo error: ", result.stderr)
        self.assertNotIn("terminate called", output)
        self.assertNotIn("frame #", output)
        for text in texts:
            self.assertIn(str(text), result.stderr)
