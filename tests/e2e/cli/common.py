"""What the tests of the command line share: a store and a working folder of their own, and a way to run qjob."""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

QJOB = str(pathlib.Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else "qjob"
SOURCE = pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else pathlib.Path(__file__).resolve().parents[3]
MODEL = SOURCE / "examples/quickstart/model"
TEXT = SOURCE / "examples/quickstart/text"

# Little work: enough to tell the results of 4, 3 and 2 bits apart.
SMALL = f"""qjob: 1
model: {{source: {MODEL}}}
calibration: {{dataset: {TEXT}/calibration.txt, samples: 4, seqlen: 128}}
quantize: {{bits: 4, group_size: 64}}
validate: {{perplexity: {{dataset: {TEXT}/evaluation.txt, seqlen: 128, windows: 4}}}}
output: out
"""


class Case(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory(prefix="qjob-test-")
        self.dir = pathlib.Path(self.temporary.name).resolve()
        self.env = {**os.environ, "QJOB_CACHE": str(self.dir / "store"), "LC_ALL": "C"}

    def tearDown(self):
        self.temporary.cleanup()

    def write(self, name, text):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def qjob(self, *args, code=0, env=None, cwd=None, stdin=None):
        """Runs qjob; asserts the exit code; gives stdout and stderr."""
        done = subprocess.run([QJOB, *map(str, args)], cwd=cwd or self.dir, env={**self.env, **(env or {})}, input=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
        self.assertEqual(done.returncode, code, f"qjob {' '.join(map(str, args))}\n{done.stdout}{done.stderr}")
        return done.stdout, done.stderr

    def json(self, *args, **more):
        return json.loads(self.qjob(*args, **more)[0])

    def digests(self, folder):
        """sha256 of every file below the folder, by relative name."""
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
                for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


def main():
    unittest.main(argv=sys.argv[:1], verbosity=2)
