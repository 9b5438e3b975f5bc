"""Runs of small recipes: results, exit codes, reasons, events, interruption, sameness."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

from common import MODEL, QJOB, SMALL, TEXT, Case, main

STAGES = ["fetch", "tokenize", "quantize", "pack", "validate"]


class Run(Case):
    def test_run_and_run_again(self):
        self.write("r.yaml", SMALL)
        out, err = self.qjob("run", "r.yaml")
        for stage in STAGES:
            self.assertRegex(out, rf"(?m)^{stage} +\d+ +0 +\d+ ")
            self.assertRegex(err, rf"(?m)^{stage} +\d+ ")
        self.assertRegex(out, r"(?m)^perplexity ")
        self.assertRegex(out, r"(?m)^result +out \(ok\)$")
        first = self.digests(self.dir / "out")
        self.assertIn("model.safetensors", first)
        self.assertIn("report.json", first)
        for name in first:            # no path, no clock in any byte
            self.assertNotIn(str(self.dir).encode(), (self.dir / "out" / name).read_bytes(), name)

        time.sleep(0.05)
        self.qjob("run", "r.yaml")    # the stamp may be withheld while the recipe's inputs are too young
        out, err = self.qjob("run", "r.yaml")
        self.assertTrue(out.startswith("out is up to date\n"), out)
        self.assertEqual(err, "")
        self.assertEqual(self.qjob("run", "r.yaml", "-q"), ("", ""))
        self.assertEqual(self.json("run", "r.yaml", "--json")[0]["result"], "up to date")

        (self.dir / "out/report.md").unlink()           # what is lost is put back from the store
        summary = self.json("run", "r.yaml", "--json", "-q")[0]
        self.assertEqual([s["ran"] for s in summary["stages"]], [0] * len(summary["stages"]))
        self.assertEqual(self.digests(self.dir / "out"), first)

        self.write("r.yaml", "# a comment\n" + SMALL)    # comments change nothing
        self.assertTrue(self.qjob("run", "r.yaml")[0].startswith("out is up to date\n"))

    def test_plan_why_log(self):
        self.write("r.yaml", SMALL)
        self.assertIn("never ran", self.qjob("plan", "r.yaml")[0])
        self.assertEqual(self.qjob("log")[0], "no runs yet\n")
        self.qjob("run", "r.yaml", "-q")
        out, _ = self.qjob("why", "r.yaml")
        self.assertRegex(out, r"^nothing would run: all \d+ nodes are in the store; ")
        out, _ = self.qjob("why", "r.yaml", "quantize/0")
        self.assertRegex(out, r"^quantize/0: in the store\n    last ran 20\d\d-.*Z because\n    never ran\n$")

        out, _ = self.qjob("why", "r.yaml", "quantize/0", "--set", "quantize.bits=3")
        self.assertRegex(out, r"^the recipe has changed since the run of 20.*Z:\n    quantize.bits: 4 -> 3\nquantize/0: would run\n    .*bits 4 -> 3")
        why = self.json("why", "r.yaml", "--json", "--set", "quantize.bits=3")[0]
        self.assertEqual(why["changed"]["parameters"], {"quantize.bits": "4 -> 3"})
        why = {e["node"]: e for e in why["nodes"]}
        self.assertFalse(any(n.startswith(("fetch", "tokenize")) for n in why), why.keys())
        self.assertEqual(why["quantize/0"]["action"], "run")
        self.assertRegex(why["quantize/0"]["reason"], "bits 4 -> 3")

        plan = self.json("plan", "r.yaml", "--json", "--set", "quantize.bits=3")[0]
        self.assertIn("bits: 3", plan["recipe"])
        self.assertEqual(plan["output"], str(self.dir / "out"))
        _, err = self.qjob("why", "r.yaml", "quantize/99", code=2)
        self.assertEqual(err, "qjob why: no node is called quantize/99; `qjob plan --all` lists them; try `qjob help why`\n")

        self.qjob("run", "r.yaml", "-q", "--set", "quantize.bits=3")
        out, _ = self.qjob("why", "r.yaml", "quantize/0", "--set", "quantize.bits=3")
        self.assertRegex(out, r"last ran .* because\n    .*bits 4 -> 3")
        log = self.json("log", "--json")
        self.assertEqual([r["result"] for r in log], ["ok", "ok"])
        self.assertEqual(log[0]["parameters"]["quantize.bits"], "3")
        self.assertRegex(log[0]["why"]["quantize/0"], "bits 4 -> 3")
        self.assertGreater(log[0]["peak_memory"], 1 << 20)
        self.assertRegex(self.qjob("log")[0], r"(?m)^   1  20\d\d-\S+Z +ok .* r\.yaml$")
        self.assertRegex(self.qjob("log", "1")[0], "(?m)^ran        quantize/0: .*bits 4 -> 3")
        self.assertIn("never ran", self.qjob("log", "2")[0])

    def test_a_limit_exceeded_is_exit_3(self):
        self.write("r.yaml", SMALL)
        out, err = self.qjob("run", "r.yaml", "--set", "quantize.bits=2", "--set", "validate.max_perplexity_increase=0.001", code=3)
        self.assertRegex(out, r"(?m)^result +out \(limit exceeded\)$")
        self.assertRegex(err, r"(?m)^qjob: .*perplexity")
        self.assertTrue((self.dir / "out/model.safetensors").exists())
        # Nothing has changed, and it still is not good enough.
        self.qjob("run", "r.yaml", "--set", "quantize.bits=2", "--set", "validate.max_perplexity_increase=0.001", code=3)
        self.assertEqual(self.json("log", "--json")[0]["result"], "limit exceeded")

    def test_events(self):
        self.write("r.yaml", SMALL)
        self.qjob("run", "r.yaml", "-q", "--events", "events.ndjson")
        events = [json.loads(line) for line in (self.dir / "events.ndjson").read_text().splitlines()]
        self.assertEqual(events[0]["event"], "start")
        self.assertEqual(events[-1]["event"], "end")
        seconds = [e["seconds"] for e in events]
        self.assertEqual(seconds, sorted(seconds))
        self.assertLessEqual({e["event"] for e in events}, {"start", "state", "progress", "log", "end"})
        states = [(e["node"], e["state"]) for e in events if e["event"] == "state"]
        self.assertIn(("quantize/0", "runs"), states)
        self.assertIn(("quantize/0", "done"), states)
        self.assertLess(states.index(("quantize/0", "runs")), states.index(("quantize/0", "done")))
        for e in events:
            if e["event"] == "progress":
                self.assertLessEqual(e["done"], e["of"])
        _, err = self.qjob("run", "r.yaml", "--events", "no/such/folder", code=2)
        self.assertEqual(err, "qjob run: --events: no/such/folder: No such file or directory; try `qjob help run`\n")

    def test_init_runs_as_it_stands(self):
        for method in ("gptq", "rtn"):
            self.qjob("init", MODEL, "--method", method, "-o", f"{method}.yaml")
            self.qjob("run", f"{method}.yaml", "-q")
            self.assertTrue((self.dir / f"out/model-{method}/model.safetensors").exists())

    def test_matrix(self):
        self.write("r.yaml", SMALL + "matrix: {quantize.bits: [4, 3]}\n")
        runs = self.json("run", "r.yaml", "--json", "-q")
        self.assertEqual([r["variant"] for r in runs], ["quantize.bits=4", "quantize.bits=3"])
        second = {s["stage"]: s for s in runs[1]["stages"]}
        self.assertEqual(second["tokenize"]["ran"], 0)          # shared
        self.assertEqual(second["quantize"]["hits"], 0)
        self.write("one.yaml", SMALL)
        self.qjob("run", "one.yaml", "-q", "--set", "quantize.bits=3", "-o", "alone")
        self.assertEqual(self.digests(self.dir / "alone"), self.digests(self.dir / "out/quantize.bits=3"))

    def test_same_bytes_elsewhere(self):
        """Other folder, store, threads, locale, time zone and umask: the same bytes."""
        self.write("r.yaml", SMALL)
        self.qjob("run", "r.yaml", "-q", "--threads", "1")
        want = self.digests(self.dir / "out")
        self.write("other/place/recipe.yaml", SMALL)
        env = {"QJOB_CACHE": str(self.dir / "other store"), "LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Tokyo"}
        old = os.umask(0o077)
        try:
            self.qjob("run", "recipe.yaml", "-q", "--threads", "2", "-o", "elsewhere", cwd=self.dir / "other/place", env=env)
        finally:
            os.umask(old)
        self.assertEqual(self.digests(self.dir / "other/place/elsewhere"), want)

    def interrupted(self, number):
        """Starts a run, signals it at the first finished block, gives its exit code and stderr."""
        events = self.dir / "events"
        events.unlink(missing_ok=True)
        run = subprocess.Popen([QJOB, "run", "r.yaml", "--events", "events"], cwd=self.dir, env=self.env, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
        end = time.time() + 120
        while time.time() < end and run.poll() is None:
            if events.exists() and re.search(r'"quantize/0", *"state": *"done"', events.read_text()):
                break
            time.sleep(0.002)
        run.send_signal(number)
        _, err = run.communicate(timeout=120)
        return run.returncode, err

    def test_interrupted_runs_go_on(self):
        self.write("r.yaml", SMALL.replace("samples: 4", "samples: 32"))
        self.qjob("run", "r.yaml", "-q", "-o", "undisturbed", env={"QJOB_CACHE": str(self.dir / "another")})
        want = self.digests(self.dir / "undisturbed")
        for number in (signal.SIGINT, signal.SIGTERM):
            self.env["QJOB_CACHE"] = str(self.dir / f"store{int(number)}")
            code, err = self.interrupted(number)
            self.assertEqual(code, 130, err)
            self.assertIn("qjob: stopping; what is finished is kept (again to stop at once)\n", err)
            self.assertIn("qjob: interrupted; run the same command again to continue\n", err)
            self.assertEqual(self.json("log", "--json")[0]["result"], "interrupted")
            summary = self.json("run", "r.yaml", "--json", "-q")[0]
            quantize = next(s for s in summary["stages"] if s["stage"] == "quantize")
            self.assertGreaterEqual(quantize["hits"], 1)
            self.assertEqual(self.digests(self.dir / "out"), want)

    def test_killed_runs_go_on(self):
        self.write("r.yaml", SMALL.replace("samples: 4", "samples: 32"))
        self.qjob("run", "r.yaml", "-q", "-o", "undisturbed", env={"QJOB_CACHE": str(self.dir / "another")})
        code, _ = self.interrupted(signal.SIGKILL)
        self.assertEqual(code, -signal.SIGKILL)
        summary = self.json("run", "r.yaml", "--json", "-q")[0]
        stages = {s["stage"]: s for s in summary["stages"]}
        self.assertEqual(stages["fetch"]["ran"], 0)     # a large model is not read again
        self.assertGreaterEqual(stages["quantize"]["hits"], 1)
        self.assertEqual(self.digests(self.dir / "out"), self.digests(self.dir / "undisturbed"))

    def test_a_limit_of_file_size_is_a_failed_write(self):
        self.write("r.yaml", SMALL)
        limited = subprocess.run(["sh", "-c", 'ulimit -f 100 && exec "$0" run r.yaml -q', QJOB], cwd=self.dir, env=self.env,
                                 stderr=subprocess.PIPE, text=True)
        self.assertEqual(limited.returncode, 1, limited.stderr)
        self.assertIn("File too large\n", limited.stderr)
        self.assertFalse((self.dir / "out").exists())
        self.qjob("run", "r.yaml", "-q")

    def test_terminal_shows_live_lines(self):
        self.write("r.yaml", SMALL.replace("samples: 4", "samples: 32"))
        master, slave = pty.openpty()
        run = subprocess.Popen([QJOB, "run", "r.yaml"], cwd=self.dir, env=self.env, stdout=subprocess.DEVNULL, stderr=slave)
        os.close(slave)
        seen = b""
        while run.poll() is None or select.select([master], [], [], 0)[0]:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:
                    break
        os.close(master)
        self.assertEqual(run.wait(), 0)
        text = seen.decode()
        self.assertRegex(text, r"quantize  \[[=> ]{20}\] \d/4 ")
        self.assertIn("\x1b[", text)
        # Lines fit the terminal (80 columns, as it has no size), and the live ones are gone at the end.
        for line in re.split(r"[\r\n]", re.sub(r"\x1b\[\d*[A-Z]", "\n", text)):
            self.assertLess(len(line), 80)
        shown = 0
        for part in re.split(r"(\x1b\[\d+A)", text):
            move = re.fullmatch(r"\x1b\[(\d+)A", part)
            shown = shown - int(move.group(1)) if move else shown + part.count("\n")
            self.assertGreaterEqual(shown, 0)
        self.assertEqual(shown, len(STAGES))

    def test_failures_are_listed(self):
        """A model that cannot be read is refused at once; a text that is too short fails its node with the reason."""
        self.write("short.txt", "too short")
        self.write("r.yaml", SMALL)
        _, err = self.qjob("run", "r.yaml", "--set", f"calibration.dataset={self.dir}/short.txt", code=1)
        self.assertRegex(err, r"(?m)^tokenize/calibration: failed: ")
        self.assertRegex(err, r"(?m)^qjob: \d+ of \d+ nodes failed; run the same command again to continue$")
        self.assertEqual(self.json("log", "--json")[0]["failed"][0]["node"], "tokenize/calibration")


main()
