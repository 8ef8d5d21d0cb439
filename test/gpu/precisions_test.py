"""Trains ResNet-18 on the GPU in each precision, on one rank and on two that share it.

Usage: precisions_test.py --programs FOLDER [--launcher KOLORUN] [unittest arguments]
"""

import os
import pathlib
import sys
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from example_programs import (UNITTEST_ARGUMENTS, TestCase, read_history, resnet,  # noqa: E402
                              results, write_fashion_mnist)

ON_GPU = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
          "KOLO_SHARED_GPU": "on"}


class Precisions(TestCase):
    def train(self, *arguments, ranks):
        result = resnet("--data-dir", self.folder / "data", "--batch-size", 16, "--lr", 0.02,
                        "--no-augment", "--history", self.folder / "run.csv", *arguments,
                        ranks=ranks, env=ON_GPU)
        self.assert_good(result)
        if " on cuda " not in result.stdout:
            self.skipTest("this host, or this build, has no GPU")
        return [float(line["train_loss"]) for line in read_history(self.folder / "run.csv")]

    def test_loss_falls(self):
        write_fashion_mnist(self.folder / "data")
        for ranks in (1, 2):
            for precision in ("off", "bf16", "fp16"):
                with self.subTest(ranks=ranks, precision=precision):
                    losses = self.train("--epochs", 12, "--amp", precision, ranks=ranks)
                    print(f"{ranks} ranks, {precision}: {losses[0]:.2f} -> {losses[-1]:.2f}")
                    self.assertLess(losses[-1], 0.7 * losses[0])

    def test_resumes_with_its_loss_scale(self):
        write_fashion_mnist(self.folder / "data")
        for arguments in (["--epochs", 2], ["--epochs", 4, "--resume"]):
            self.train("--amp", "fp16", "--checkpoint-dir", self.folder / "checkpoints",
                       *arguments, ranks=2)
        self.assertEqual(len(results(self.folder / "run.csv")), 4)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *UNITTEST_ARGUMENTS])
