"""Commands that compute nothing: help, version, init, schema, usage errors, completions, the manual page."""
import json
import shutil
import subprocess

from common import MODEL, QJOB, SMALL, SOURCE, Case, main

COMMANDS = "run plan why log init schema forward tokenize doctor help version".split()


class Words(Case):
    def usage(self, *args):
        out, err = self.qjob(*args, code=2)
        self.assertEqual(out, "")
        return err

    def test_usage_errors_are_one_line(self):
        for args, said in [
            (["rnu"], "qjob: unknown command rnu; did you mean run?; try `qjob help`"),
            (["frobnicate"], "qjob: unknown command frobnicate; try `qjob help`"),
            (["run"], "qjob run: RECIPE is missing; try `qjob help run`"),
            (["run", "a", "b"], "qjob run: unexpected argument b; try `qjob help run`"),
            (["run", "--outptu", "x", "a"], "qjob run: unknown option --outptu; did you mean --output?; try `qjob help run`"),
            (["run", "-x", "a"], "qjob run: unknown option -x; try `qjob help run`"),
            (["run", "a", "--set"], "qjob run: --set: NAME=VALUE is missing; try `qjob help run`"),
            (["run", "a", "--threads", "0"], "qjob run: --threads: 0 is not a whole number from 1 to 4096; try `qjob help run`"),
            (["run", "a", "--device", "gpu"], "qjob run: --device: gpu is not one of auto|cpu|cuda|cuda:N; try `qjob help run`"),
            (["run", "a", "--device", "cuda:x"], "qjob run: --device: cuda:x is not one of auto|cpu|cuda|cuda:N; try `qjob help run`"),
            (["run", "a", "--memory", "lots"], "qjob run: --memory: lots is not a size like 5GB, 200MB or 1GiB; try `qjob help run`"),
            (["run", "a", "--json=1"], "qjob run: --json takes no value; try `qjob help run`"),
            (["run", "a", "--output", "x", "--output=y"], "qjob run: --output is given twice; try `qjob help run`"),
            (["forward", "m"], "qjob forward: --ids is missing; try `qjob help forward`"),
            (["help", "gtpq"], "qjob help: nothing is called gtpq; did you mean gptq?; try `qjob help help`"),
            (["log", "x"], "qjob log: x is not the number of a run; 1 is the latest; try `qjob help log`"),
            (["log", "7"], "qjob log: there are only 0 runs; try `qjob help log`"),
        ]:
            self.assertEqual(self.usage(*args), said + "\n")

    def test_nothing_at_all_shows_the_commands(self):
        err = self.usage()
        for name in COMMANDS:
            self.assertIn(f"\n  {name} ", err)

    def test_help_of_everything(self):
        self.assertEqual(self.qjob("--help"), self.qjob("help"))
        for name in COMMANDS:
            self.assertTrue(self.qjob("help", name)[0].startswith(f"usage: qjob {name}"))
            self.assertEqual(self.qjob("help", name), self.qjob(name, "--help"))
        for topic, said in [("quantize", "overrides"), ("calibration", "seqlen: 2048"), ("gptq", "damp_percent: 0.05"),
                            ("rtn", "quantize.method: rtn"), ("compressed-tensors", "pack.format: compressed-tensors"),
                            ("fetch", "fetch: ")]:
            self.assertIn(said, self.qjob("help", topic)[0])

    def test_doctor(self):
        said = self.json("doctor", "--json", "--cache-dir", "store")
        self.assertRegex(said["devices"]["cpu"][0], r"^cpu: \d+ threads, .* GiB of memory, oneDNN \d")
        self.assertRegex(said["devices"]["cuda"][0], r"^cuda: ")
        self.assertIn(said["auto"][0], ("device cpu", "device cuda"))
        self.assertIn("openssl", said["libraries"])
        self.assertTrue(said["store"]["path"].endswith("/store"))
        self.assertGreater(said["store"]["free"], 0)
        out, _ = self.qjob("doctor", "--cache-dir", "store")
        for word in ("devices    cpu: ", "           cuda: ", "auto is    device ", "libraries  ", "store      "):
            self.assertIn("\n" + word, out)

    def test_version(self):
        out, _ = self.qjob("version")
        self.assertRegex(out, r"^qjob \d+\.\d+\.\d+\n")
        self.assertEqual(self.qjob("--version")[0], out)
        said = self.json("version", "--json")
        self.assertEqual(sorted(said), ["formats", "libraries", "methods", "qjob"])
        self.assertIn("gptq", said["methods"])

    def test_schema(self):
        schema = self.json("schema")
        self.assertEqual(schema["$schema"], "https://json-schema.org/draft/2020-12/schema")
        self.assertFalse(schema["additionalProperties"])
        self.assertEqual(sorted(schema["properties"]), sorted(
            "qjob extends model calibration quantize pack validate matrix output".split()))
        for section in "model calibration quantize pack validate".split():
            self.assertFalse(schema["properties"][section]["additionalProperties"])
            for row in schema["properties"][section]["properties"].values():
                self.assertIn("description", row)

    def test_init_writes_what_plans(self):
        for method in ("gptq", "rtn"):
            recipe = self.dir / f"{method}.yaml"
            out, err = self.qjob("init", MODEL, "--method", method, "--output", recipe)
            self.assertEqual((out, err), ("", f"wrote {recipe}; next: qjob run {recipe}\n"))
            # The quick start's model is too narrow for groups of 128 in no layer, so nothing must be changed.
            self.assertIn(f"  method: {method}", self.qjob("plan", recipe)[0])
            self.assertEqual(self.qjob("init", MODEL, "--method", method)[0], recipe.read_text())
        _, err = self.qjob("init", MODEL, "--output", recipe, code=2)
        self.assertEqual(err, f"qjob: {recipe} exists already; remove it or name another file\n")
        _, err = self.qjob("init", MODEL, "--method", "awq", code=2)
        self.assertEqual(err, "qjob: --method: quantize.method: 'awq' is not one of gptq, rtn\n")

    def test_bad_recipes_end_at_once(self):
        self.write("r.yaml", SMALL.replace("bits: 4", "bits: 5").replace("samples: 4", "sample: 4"))
        for command in ("run", "plan", "why"):
            out, err = self.qjob(command, "r.yaml", code=2)
            self.assertEqual(out, "")
            column = SMALL.splitlines()[2].index("samples") + 1
            self.assertEqual(err, f"r.yaml:3:{column}: calibration.sample: unknown; did you mean 'samples'?\n"
                                  "r.yaml:4:18: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq\n")
        self.assertFalse((self.dir / "out").exists())
        _, err = self.qjob("run", "nowhere.yaml", code=2)
        self.assertEqual(err, "nowhere.yaml: No such file or directory\n")

    def test_impossible_combinations_are_told_before_any_work(self):
        self.write("r.yaml", SMALL)
        for change, said in [
            ("quantize.group_size=96",
             "--set: quantize: group_size 96 does not divide in_features 128 of model.layers.0.self_attn.q_proj; 64 does\n"),
            ("model.source=/nowhere", "--set: model.source: '/nowhere' is not a folder; "),
            ("calibration.dataset=/nowhere.txt", "--set: calibration.dataset: '/nowhere.txt' is neither a file nor a folder "),
            ("calibration.seqlen=4096", "--set: calibration: seqlen 4096 is more than the model's 512 positions "),
            ("quantize.overrides=[{match: nothing}]",
             "--set: quantize.overrides[0].match: 'nothing' matches no linear; they are named like model.layers.0.self_attn.q_proj\n"),
        ]:
            _, err = self.qjob("run", "r.yaml", "--set", change, code=2)
            self.assertEqual(err[:len(said)], said)
        self.assertFalse((self.dir / "out").exists())

    def test_a_full_disk_behind_stdout_is_a_failure(self):
        with open("/dev/full", "w") as full:
            done = subprocess.run([QJOB, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, env=self.env)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr, "qjob: cannot write to stdout: No space left on device\n")

    def test_bash_completion(self):
        if not shutil.which("bash"):
            self.skipTest("no bash")
        script = self.write("qjob.bash", self.qjob("help", "--as", "bash")[0])

        def complete(*words):
            quoted = " ".join(f"'{w}'" for w in words)
            code = f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _qjob; printf '%s\\n' \"${{COMPREPLY[@]}}\""
            done = subprocess.run(["bash", "-uc", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.dir)
            return done.stdout.split()

        self.assertEqual(complete("qjob", ""), COMMANDS)
        self.assertEqual(complete("qjob", "pl"), ["plan"])
        self.assertEqual(complete("qjob", "run", "--th"), ["--threads"])
        self.assertEqual(complete("qjob", "run", "--device", ""), ["auto", "cpu", "cuda", "cuda:N"])
        self.write("recipe.yaml", "")
        self.assertEqual(complete("qjob", "run", "rec"), ["recipe.yaml"])

    def test_zsh_completion(self):
        text = self.qjob("help", "--as", "zsh")[0]
        self.assertTrue(text.startswith("#compdef qjob\n"))
        if shutil.which("zsh"):
            subprocess.run(["zsh", "-n", self.write("_qjob", text)], check=True)

    def test_manual_page(self):
        page = self.qjob("help", "--as", "man")[0]
        for name in COMMANDS:
            self.assertIn(f".SS qjob {name}", page)
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-ww", "-Tutf8"], input=page, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.stderr, "")

    def test_recipes_plan(self):
        """Every recipe of the project plans with the quick start's model; its sizes are set to fit."""
        recipes = sorted((SOURCE / "recipes").glob("*.yaml"))
        self.assertGreaterEqual(len(recipes), 9)
        for recipe in recipes:
            sets = [f"model.source={MODEL}", "validate.perplexity.seqlen=256"]
            if recipe.stem != "rtn-8bit":
                sets.append("calibration.seqlen=256")
            args = [a for s in sets for a in ("--set", s)]
            with self.subTest(recipe.name):
                out, err = self.qjob("plan", recipe, *args)
                self.assertEqual(err, "")
                self.assertIn("\nvalidate/", out)
                # What plan writes is a recipe, and says the same again.
                if recipe.stem != "sweep":
                    whole = self.qjob("plan", recipe, *args, "--recipe")[0]
                    again = self.qjob("plan", self.write("again.yaml", whole), "--recipe")[0]
                    self.assertEqual(again, whole)
                else:
                    self.assertEqual(len(self.json("plan", recipe, *args, "--json")), 4)

    def test_recipes_fit_the_schema(self):
        try:
            import jsonschema
            import yaml
        except ImportError:
            self.skipTest("no jsonschema or no yaml for this python3")
        schema = self.json("schema")
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        for recipe in sorted((SOURCE / "recipes").glob("*.yaml")):
            self.assertEqual([e.message for e in validator.iter_errors(yaml.safe_load(recipe.read_text()))], [], recipe.name)
        whole = yaml.safe_load(self.qjob("plan", "--recipe", self.write("r.yaml", SMALL))[0])
        self.assertEqual([e.message for e in validator.iter_errors(whole)], [])
        for bad in [{"bits": 5}, {"bitz": 4}, {"method": "awq"}, {"method": "rtn", "damp_percent": 0.1}, {"group_size": "x"}]:
            self.assertFalse(validator.is_valid({**yaml.safe_load(SMALL), "quantize": bad}), json.dumps(bad))


main()
