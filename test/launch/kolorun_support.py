"""What the tests of kolorun share: running it, and a folder for each test.

Both test files are called with the path of kolorun, then unittest's own arguments.
KOLO_MPIRUN chooses the mpirun, as it does for kolorun.
"""

import os
import subprocess
import sys
import tempfile
import unittest

KOLORUN = os.path.abspath(sys.argv.pop(1))
RANK = "$OMPI_COMM_WORLD_RANK"  # in a shell that is a rank


def kolorun(*arguments, env=None, cwd=None):
    """Runs kolorun to its end; env adds to the environment, None removes a variable."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP")}
    for name, value in (env or {}).items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    return subprocess.run([KOLORUN, *arguments], env=environment, cwd=cwd, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, capture_output=True)


class TestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text, mode=0o644):
        with open(self.path(name), "w") as file:
            file.write(text)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def lines(self, *arguments, **options):
        """The sorted lines that the ranks print."""
        done = kolorun(*arguments, **options)
        self.assertEqual(done.returncode, 0, done.stderr)
        return sorted(done.stdout.splitlines())
