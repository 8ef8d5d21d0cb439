"""Runs the example programs, alone and on two ranks.

Usage: programs_test.py --programs FOLDER [--launcher KOLORUN] [unittest arguments]
Without a launcher, mpirun starts the ranks. KOLO_TEST_CIFAR10_DIR may name a folder with CIFAR-10's
binary files, to train on real colour pictures, too.
"""

import os
import pathlib
import shutil
import sys
import unittest

from example_programs import (PROGRAMS, TINY, UNITTEST_ARGUMENTS, TestCase, read_history, resnet,
                              results, run, tensors, write_cifar10, write_fashion_mnist)

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


class Minimal(TestCase):
    def losses(self, ranks):
        result = run("minimal", ranks=ranks)
        self.assert_good(result)
        return [float(line.split()[-1]) for line in result.stdout.splitlines() if "loss" in line]

    def test_loss_falls(self):
        for ranks in (1, 2):
            with self.subTest(ranks=ranks):
                losses = self.losses(ranks)
                self.assertEqual(len(losses), 10, "rank 0 alone prints")
                self.assertLess(losses[-1], 0.1 * losses[0])


class Start(TestCase):
    def test_parameters_for_colour_pictures(self):
        write_cifar10(self.folder / "data/cifar-10-batches-bin")
        result = resnet("--data-dir", self.folder / "data", "--epochs", 1, *TINY)
        self.assert_good(result)
        self.assertIn("11,173,962 parameters", result.stdout)
        self.assertIn("CIFAR-10, 33 training and 17 test images of 3 channels", result.stdout)

    def test_help(self):
        for ranks in (1, 2):
            result = resnet("--help", ranks=ranks)
            self.assert_good(result)
            self.assertEqual(result.stdout.count("--batch-size N"), 1)

    def test_lines_elsewhere_than_on_a_terminal(self):
        write_fashion_mnist(self.folder / "data")
        result = resnet("--data-dir", self.folder / "data", "--epochs", 1, "--log-every", 2, *TINY,
                        ranks=2)
        self.assert_good(result)
        self.assertNotIn("\r", result.stdout + result.stderr)
        # 16 images on each rank, one of the 33 sits out
        self.assertIn("epoch 1/1  step 2/2  loss ", result.stdout)
        self.assertIn("2 ranks with batches of 8", result.stdout)

    def test_history(self):
        write_fashion_mnist(self.folder / "data")
        path = self.folder / "run.csv"
        config = self.folder / "run.cfg"
        config.write_text(f"history = {path}\nepochs = 3\nbatch-size = 16\n")
        self.assert_good(resnet("--config", config, "--data-dir", self.folder / "data", "--epochs",
                                1, "--limit-train", 32, "--limit-test", 8, ranks=2))
        line, = read_history(path)
        self.assertEqual((line["epoch"], line["ranks"]), ("1", "2"))
        self.assertAlmostEqual(float(line["lr"]), 0.1 * 2 ** 0.5)
        seconds = float(line["seconds"])
        self.assertAlmostEqual(float(line["images_per_second"]), 32 / seconds, delta=0.01)
        parts = {part: float(line[f"{part}_seconds"])
                 for part in ("data", "forward", "backward", "communication", "optimizer")}
        self.assertGreaterEqual(min(parts.values()), 0)
        self.assertLessEqual(sum(parts.values()), seconds)
        self.assertGreater(parts["forward"], 0)
        self.assertGreater(parts["backward"], 0)
        self.assertGreater(parts["optimizer"], 0)


class Training(TestCase):
    """On real pictures, until the network has learned them by heart."""

    def train(self, *arguments):
        path = self.folder / "run.csv"
        result = resnet("--limit-train", 64, "--limit-test", 32, "--batch-size", 16, "--lr", 0.01,
                        "--no-augment", "--epochs", 4, "--log-every", 1, "--history", path,
                        *arguments, ranks=2)
        self.assert_good(result)
        first = next(line for line in result.stdout.splitlines() if "step 1/2 " in line)
        first_loss = float(first.split("loss ")[1].split()[0])
        last_loss = float(read_history(path)[-1]["train_loss"])
        self.assertLess(last_loss, 0.7 * first_loss)

    @unittest.skipUnless(FASHION_MNIST.is_dir(), "Debian's dataset-fashion-mnist is not installed")
    def test_fashion_mnist(self):
        self.train()

    @unittest.skipUnless(FASHION_MNIST.is_dir(), "Debian's dataset-fashion-mnist is not installed")
    def test_bfloat16(self):
        self.train()
        full = results(self.folder / "run.csv")
        self.train("--amp", "bf16")
        self.assertNotEqual(results(self.folder / "run.csv"), full)

    @unittest.skipUnless("KOLO_TEST_CIFAR10_DIR" in os.environ,
                         "KOLO_TEST_CIFAR10_DIR does not name CIFAR-10's folder")
    def test_cifar10(self):
        self.train("--data-dir", os.environ["KOLO_TEST_CIFAR10_DIR"])


def flip_a_bit(path):
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 3)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


class Resume(TestCase):
    def setUp(self):
        super().setUp()
        write_fashion_mnist(self.folder / "data")

    def train(self, name, epochs, *arguments, ranks=2):
        return resnet("--data-dir", self.folder / "data", *TINY, "--epochs", epochs,
                      "--checkpoint-dir", self.folder / name, "--history",
                      self.folder / f"{name}.csv", *arguments, ranks=ranks)

    def test_goes_on_to_the_same_bits(self):
        self.assert_good(self.train("straight", 2))
        self.assert_good(self.train("broken", 1))
        resumed = self.train("broken", 2, "--resume")
        self.assert_good(resumed)
        self.assertIn("going on after epoch 1 of 2", resumed.stdout)
        self.assertEqual(results(self.folder / "straight.csv"), results(self.folder / "broken.csv"))
        self.assertEqual(len(results(self.folder / "broken.csv")), 2)
        checkpoint = "checkpoint-0002.pt"
        straight = tensors(self.folder / "straight" / checkpoint)
        self.assertEqual(straight, tensors(self.folder / "broken" / checkpoint))
        self.assertGreater(len(straight), 100)
        self.assertNotEqual(straight, tensors(self.folder / "straight/checkpoint-0001.pt"))
        self.assertFalse(list(self.folder.rglob("*.tmp")))

        # With these checkpoints at hand: what a run must not go on from.
        self.assert_fails(self.train("broken", 3), 1, "checkpoint-0002.pt", "--resume")
        self.assert_fails(self.train("broken", 3, "--resume", ranks=1), 1, "ranks = 2 (there)",
                          "ranks = 1 (now)")
        self.assert_fails(self.train("broken", 3, "--resume", "--momentum", 0.5), 1,
                          "momentum = 0.9 (there)", "momentum = 0.5 (now)")
        done = self.train("broken", 2, "--resume")
        self.assert_good(done)
        self.assertIn("nothing to do", done.stdout)

        newest = self.folder / "broken" / checkpoint
        flip_a_bit(newest)
        damaged = self.train("broken", 3, "--resume")
        self.assert_fails(damaged, 1, newest, "damaged", "Remove it")
        self.assertEqual(damaged.stderr.count("kolo error"), 2, "each rank has it")
        self.assertNotIn("step 1/", damaged.stdout)
        os.truncate(newest, newest.stat().st_size // 2)
        self.assert_fails(self.train("broken", 3, "--resume"), 1, newest, "Remove it")

    def test_starts_anew_without_a_checkpoint_and_keeps_two(self):
        result = self.train("new", 3, "--resume", "--limit-train", 8, ranks=1)
        self.assert_fails(result, 2, "--limit-train")  # given twice
        result = resnet("--data-dir", self.folder / "data", "--limit-train", 8, "--limit-test", 8,
                        "--epochs", 3, "--checkpoint-dir", self.folder / "new", "--resume")
        self.assert_good(result)
        self.assertIn("no checkpoint in", result.stdout)
        self.assertEqual(sorted(path.name for path in (self.folder / "new").iterdir()),
                         ["checkpoint-0002.pt", "checkpoint-0003.pt"])


class Errors(TestCase):
    def test_usage(self):
        for ranks in (1, 2):
            for arguments, texts in ((["--epoch", "3"], ["--epoch"]),
                                     (["--lr", "fast"], ["--lr", "fast"]),
                                     (["--batch-size", "0"], ["--batch-size is 0"]),
                                     (["--config", "/nowhere.cfg"], ["/nowhere.cfg"]),
                                     (["--amp", "fp16"], ["--amp fp16 needs a GPU", "--amp bf16"]),
                                     (["--resume"], ["--checkpoint-dir"])):
                if ranks == 2 and arguments[0] not in ("--epoch", "--config", "--amp"):
                    continue
                with self.subTest(ranks=ranks, arguments=arguments):
                    result = resnet(*arguments, ranks=ranks)
                    self.assert_fails(result, 2, *texts)
                    self.assertEqual(result.stderr.count("kolo error"), 1)

    def test_no_data(self):
        for ranks in (1, 2):
            result = resnet("--data-dir", self.folder, ranks=ranks)
            self.assert_fails(result, 1, self.folder, "data_batch_1.bin")
            self.assertEqual(result.stderr.count("kolo error"), ranks)

    def test_truncated_file(self):
        write_cifar10(self.folder / "data")
        path = self.folder / "data/data_batch_3.bin"
        os.truncate(path, 30729999)
        for ranks in (1, 2):
            self.assert_fails(resnet("--data-dir", self.folder / "data", ranks=ranks), 1, path,
                              "expected 30730000 bytes", "found 30729999 bytes")

    def test_bad_magic(self):
        write_fashion_mnist(self.folder / "data")
        path = self.folder / "data/t10k-labels-idx1-ubyte.gz"
        shutil.copy(self.folder / "data/t10k-images-idx3-ubyte.gz", path)
        self.assert_fails(resnet("--data-dir", self.folder / "data", ranks=2), 1, path,
                          "expected 2049", "found 2051")

    def test_bad_data_on_one_rank_only(self):
        """Each rank sees its own folder, as on hosts of their own."""
        write_fashion_mnist(self.folder / "0/data")
        write_fashion_mnist(self.folder / "1/data")
        (self.folder / "1/data/train-labels-idx1-ubyte.gz").write_bytes(b"")
        wrapper = self.folder / "in_own_folder"
        wrapper.write_text(f'#!/bin/sh\ncd "{self.folder}/$OMPI_COMM_WORLD_RANK" && '
                           f'exec "{PROGRAMS}/resnet18_cifar10" "$@"\n')
        wrapper.chmod(0o755)
        result = run(wrapper, "--data-dir", "data", *TINY, ranks=2, timeout=60)
        self.assert_fails(result, 1, "rank 1: data/train-labels-idx1-ubyte.gz")
        write_fashion_mnist(self.folder / "1/other", images=40)
        for path in (self.folder / "1/other").iterdir():
            shutil.copy(path, self.folder / "1/data")
        result = run(wrapper, "--data-dir", "data", "--epochs", 1, ranks=2, timeout=60)
        self.assert_fails(result, 1, "options and data sets differ between ranks",
                          "training images = 64 on rank 0", "training images = 40 on rank 1")

    def test_too_few_images(self):
        write_fashion_mnist(self.folder / "data")
        result = resnet("--data-dir", self.folder / "data", "--limit-train", 1, ranks=2)
        self.assert_fails(result, 1, "too few images for 2 ranks")

    def test_no_network(self):
        nobody = {"https_proxy": "http://127.0.0.1:1", "no_proxy": "", "NO_PROXY": ""}
        for ranks in (1, 2):
            result = resnet("--download", "--data-dir", self.folder / "data", ranks=ranks,
                            env=nobody, timeout=60)
            self.assert_fails(result, 1, "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                              "onnect", "leave out --download")
            self.assertEqual(result.stderr.count("kolo error"), ranks)

    def test_disk_trouble(self):
        write_fashion_mnist(self.folder / "data")
        file = self.folder / "file"
        file.write_text("")
        for option in ("--checkpoint-dir", "--history"):
            with self.subTest(option=option):
                result = resnet("--data-dir", self.folder / "data", *TINY, "--epochs", 1, option,
                                file / "below", "--log-every", 1, ranks=2, timeout=120)
                self.assert_fails(result, 1, file)
                self.assertEqual(result.stderr.count("kolo error"), 2, "each rank has it")
                self.assertNotIn("step 1/", result.stdout, "nothing was trained in vain")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *UNITTEST_ARGUMENTS])
