"""Exit codes, bad input, the output folder, and a run with nothing to do."""
import json
import os
import re
import shutil
import signal
import statistics
import struct
import subprocess
import time

from qjob import *

# ---- exit codes ----

def bad_recipes_are_refused():
    rows = [
        ({"quantize": {"bits": 5}}, [r"r.yaml:\d+:\d+: quantize.bits: 5 is not one of 2, 3, 4, 8 for method gptq"]),
        ({"quantize": {"bits": 5, "group_size": 48.5}, "colour": "red"}, ["quantize.bits: 5", "quantize.group_size: '48.5' is not a whole number", "colour"]),
        ({"quantize": {"group_size": 48}}, ["group_size 48 does not divide"]),
        ({"calibration": {"dataset": "calibration.txt", "seqlen": 1000}}, ["calibration: seqlen 1000 is more than the model's 128 positions"]),
        ({"model": {"source": "no such folder"}}, ["model.source: .*no such folder' is not a folder"]),
        ({"pack": {"kernel": "marlin"}, "quantize": {"bits": 3}}, ["marlin"]),
    ]
    with place() as p:
        p.furnish()
        for sections, want in rows:
            p.write("r.yaml", recipe(**sections))
            done = p.qjob("run", "r.yaml", code=2)
            lines = done.err.splitlines()
            equal(done.out, "", sections)
            check(len(lines) >= len(want) and all(re.match(r"r\.yaml:\d+:\d+: ", line) for line in lines), done.err)
            for w in want:
                check(re.search(w, done.err), w, "is not in", done.err)
            check(not (p.dir / "out").exists(), "an output folder after", sections)
        p.qjob("run", "absent.yaml", code=2)
        p.qjob("run", code=2)
        p.qjob("run", "r.yaml", "--colour", code=2)
        equal(p.qjob("log").out, "no runs yet\n")


def a_limit_exceeded_keeps_the_result():
    with place() as p:
        p.write("r.yaml", trained(quantize={"bits": 2, "group_size": -1}, validate={"max_perplexity_increase": 0.0001}))
        for _ in range(2):      # nothing has changed the second time, and it still is too much
            done = p.qjob("run", "r.yaml", "-q", code=3)
            check(re.fullmatch(r"qjob: perplexity grew by [\d.]+ % .* more than validate.max_perplexity_increase allows: 0.0001 .*\n", done.err),
                  done.err)
            report = json.loads((p.dir / "out/report.json").read_text())
            check(report["perplexity"]["increase"] > 0.0001)
            for name in ("model.safetensors", "config.json", "qjob.json", "report.md"):
                check((p.dir / "out" / name).exists(), name)
        states, _ = p.run("r.yaml", "--set", "validate.max_perplexity_increase=100")
        equal(ran(states), set())
        equal([r["result"] for r in p.json("log")], ["ok", "limit exceeded", "limit exceeded"])


def failures_name_their_reason():
    """What shows only while a node runs fails that node, and what does not need it is kept."""
    rows = [
        ("short.txt", "few words", r"tokenize/calibration: failed: calibration: the text gives 9 tokens, less than one window of seqlen 32.*"),
        ("few.txt", "words " * 10, r"tokenize/calibration: failed: calibration: the text gives 60 tokens, but 6 samples of seqlen 32 need 192.*"),
        ("empty.txt", "", r"tokenize/calibration: failed: calibration: the text gives 0 tokens.*"),
        ("bad.jsonl", '{"text": "a"}\n{"text": \n', r"tokenize/calibration: failed: .*bad\.jsonl.*2.*"),
        ("field.jsonl", '{"words": "a"}\n', r"tokenize/calibration: failed: .*field\.jsonl.*text.*"),
    ]
    with place() as p:
        p.furnish()
        for name, content, want in rows:
            p.write(name, content)
            p.write("r.yaml", recipe(calibration={"dataset": name}))
            done = p.qjob("run", "r.yaml", "-q", code=1)
            lines = done.err.splitlines()
            equal(len(lines), 2, done.err)
            check(re.fullmatch(want, lines[0]), lines[0])
            check(re.fullmatch(r"qjob: 1 of 14 nodes failed; run the same command again to continue", lines[1]), lines[1])
            check(not (p.dir / "out").exists(), "an output folder after", name)
        equal(p.json("log")[0]["result"], "failed")
        p.write("r.yaml", recipe())
        states, _ = p.run()
        check(ORIGINAL not in ran(states), "what had succeeded runs again")


ORIGINAL = "validate/original"


def what_float16_cannot_hold_is_told():
    """Norms of 1000 in block 1: up times gate is beyond 65504, which bfloat16 does not mind."""
    hint = r"; float16 ends at 65504: try {}\.dtype: bfloat16"
    overflow = (r"quantize/1: failed: block 1: model\.layers\.1\.mlp\.down_proj: the activations of input \d+ overflow: "
                r"their energy is not finite" + hint.format("calibration"))
    rows = [
        ({"dtype": "float16"}, {}, {}, overflow),
        ({"dtype": "float16"}, {"true_sequential": False}, {}, overflow),
        ({"dtype": "float16"}, {"propagate": "original"}, {}, overflow),
        ({"dtype": "float16"}, {"accuracy": "high"}, {}, overflow),
        ({"dtype": "bfloat16"}, {}, {"dtype": "float16"},
         r"validate/original: failed: the original model gives no finite likelihood in window 0" + hint.format("validate")),
        ({"dtype": "bfloat16"}, {}, {"dtype": "bfloat16"}, None),
    ]
    with place() as p:
        p.furnish()
        held = read_tensors(p.dir / "model/model.safetensors")
        held["model.layers.1.post_attention_layernorm.weight"] = ("BF16", [WIDTH], bytes_of([1000.0] * WIDTH, "BF16"))
        write_tensors(p.dir / "model/model.safetensors", held)
        for calibration, quantize, validate, want in rows:
            p.write("r.yaml", recipe(calibration=calibration, quantize=quantize, validate=validate))
            done = p.qjob("run", "r.yaml", "-q", code=1 if want else 0)
            check(not want or re.search(f"^{want}$", done.err, re.M), done.err, "does not say", want)


# ---- hostile models ----

def bad_models():
    """(name, change of a good model's folder, what the one line must say)"""
    tensors_file = "model.safetensors"

    def raw(change):
        def apply(folder):
            path = folder / tensors_file
            path.write_bytes(change(path.read_bytes()))
        return apply

    def head(change):
        """Rewrites the JSON in front of the tensors."""
        def apply(data):
            n, = struct.unpack("<Q", data[:8])
            h = json.loads(data[8:8 + n])
            text = change(h)
            text = (text if isinstance(text, str) else json.dumps(h)).encode()
            return struct.pack("<Q", len(text)) + text + data[8 + n:]
        return raw(apply)

    def entry(name, **more):
        return head(lambda h: h[name].update(more))

    def tensors_changed(change):
        def apply(folder):
            t = read_tensors(folder / tensors_file)
            change(t)
            write_tensors(folder / tensors_file, t)
        return apply

    def shards(change):
        def apply(folder):
            t = read_tensors(folder / tensors_file)
            files = {"model-00001-of-00002.safetensors": list(t)[:9], "model-00002-of-00002.safetensors": list(t)[9:]}
            for file, names in files.items():
                write_tensors(folder / file, {n: t[n] for n in names})
            os.unlink(folder / tensors_file)
            index = {"metadata": {}, "weight_map": {n: file for file, names in files.items() for n in names}}
            change(folder, index)
            if index:
                write(folder / "model.safetensors.index.json", json.dumps(index))
        return apply

    def shape(t, name, *s):
        t[name] = (t[name][0], list(s), t[name][2])

    def settings(**more):
        def apply(folder):
            c = {k: v for k, v in config(**more).items() if v != "absent"}
            write(folder / "config.json", json.dumps(c))
        return apply

    def put_file(name, text):
        return lambda folder: write(folder / name, text)

    def remove(name):
        return lambda folder: os.unlink(folder / name)

    q = "model.layers.1.self_attn.q_proj.weight"
    return [
        ("cut short", raw(lambda d: d[:-1000]), tensors_file),
        ("cut in the header", raw(lambda d: d[:100]), tensors_file),
        ("no bytes", raw(lambda d: b""), tensors_file),
        ("more bytes than tensors", raw(lambda d: d + b"more"), tensors_file),
        ("a huge header", raw(lambda d: struct.pack("<Q", 1 << 60) + d[8:]), tensors_file),
        ("a header that is no JSON", head(lambda h: "{nothing"), tensors_file),
        ("a header that is a list", head(lambda h: "[]"), tensors_file),
        ("an unknown type", entry(q, dtype="F12"), tensors_file),
        ("a negative shape", entry(q, shape=[-64, 64]), tensors_file),
        ("a huge shape", entry(q, shape=[1 << 62, 1 << 62]), tensors_file),
        ("overlapping tensors", entry(q, data_offsets=[0, 8192]), tensors_file),
        ("offsets behind the end", entry(q, data_offsets=[1 << 40, (1 << 40) + 8192]), tensors_file),
        ("a shape that does not fit the bytes", entry(q, shape=[64, 65]), tensors_file),
        ("integers for weights", tensors_changed(lambda t: t.update({q: ("I16", *t[q][1:])})), q),
        ("another shape than the config's", tensors_changed(lambda t: shape(t, q, 32, 128)), q),
        ("a missing tensor", tensors_changed(lambda t: t.pop(q)), q),
        ("a missing file of tensors", remove(tensors_file), tensors_file),
        ("a missing shard", shards(lambda folder, index: os.unlink(folder / "model-00002-of-00002.safetensors")), "model-00002-of-00002.safetensors"),
        ("a shard without a tensor of the index", shards(lambda folder, index: index["weight_map"].update({q: "model-00001-of-00002.safetensors"})), q),
        ("a shard outside the folder", shards(lambda folder, index: index["weight_map"].update({q: "../secret.safetensors"})), "model.safetensors.index.json"),
        ("an index that is no JSON", shards(lambda folder, index: (write(folder / "model.safetensors.index.json", "{"), index.clear())), "model.safetensors.index.json"),
        ("no config", remove("config.json"), "config.json"),
        ("a config that is no JSON", put_file("config.json", "{'model_type': "), "config.json"),
        ("a config that is a list", put_file("config.json", "[]"), "config.json"),
        ("a config of zeros", put_file("config.json", "\0" * 100), "config.json"),
        ("an unknown model_type", settings(model_type="perceptron"), "config.json.*perceptron"),
        ("no model_type", settings(model_type="absent", architectures="absent"), "config.json"),
        ("an unknown key", settings(use_flux_capacitor=True), "config.json.*use_flux_capacitor"),
        ("a missing key", settings(hidden_size="absent"), "config.json"),
        ("heads that divide nothing", settings(num_attention_heads=3), "config.json|q_proj"),
        ("blocks without end", settings(num_hidden_layers=1 << 40), "config.json.*num_hidden_layers"),
        ("more blocks than tensors", settings(num_hidden_layers=4), r"model\.layers\.3"),
        ("an infinite number", put_file("config.json", json.dumps(config()).replace("1e-05", "1e999")), "config.json"),
        ("a quantized model", settings(quantization_config={"quant_method": "gptq", "bits": 4}), "quantized already"),
        ("no tokenizer", remove("tokenizer.json"), "tokenizer.json"),
    ]


def bad_models_are_refused():
    problems = []
    with place() as p:
        p.furnish()
        os.rename(p.dir / "model", p.dir / "good")
        for name, change, want in bad_models():
            shutil.rmtree(p.dir / "model", ignore_errors=True)
            shutil.copytree(p.dir / "good", p.dir / "model")
            change(p.dir / "model")
            for command in ("run", "plan"):
                done = p.qjob(command, "r.yaml", code=None)
                if done.code != 2 or len(done.err.splitlines()) != 1 or not re.search(want, done.err) or done.out:
                    problems.append(f"{name}: {command}: code {done.code}: {done.err}{done.out}")
                if (p.dir / "out").exists():
                    problems.append(f"{name}: {command}: an output folder")
                    shutil.rmtree(p.dir / "out")
        shutil.rmtree(p.dir / "model")
        os.rename(p.dir / "good", p.dir / "model")
        p.run()
    check(not problems, "\n".join(problems))


def a_bad_tokenizer_fails_its_nodes():
    with place() as p:
        p.furnish()
        for content in ("{", "[]", "{}", '{"model": {"type": "WordPiece"}}', "\0" * 50):
            p.write("model/tokenizer.json", content)
            done = p.qjob("run", "r.yaml", "-q", code=1)
            failed = [line for line in done.err.splitlines() if "failed: " in line]
            equal(len(failed), 2, content, done.err)
            check(all("tokenizer.json" in line for line in failed), content, done.err)
            check(not (p.dir / "out").exists(), "an output folder after", content)


# ---- the output folder ----

def ids_need_no_tokenizer():
    """Token ids are taken as they are, though the model's tokenizer is of a kind that is not known."""
    with place() as p:
        p.furnish()
        p.write("model/tokenizer.json", {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})
        p.write("ids.jsonl", "".join(json.dumps({"input_ids": [(i * 7 + k) % 200 for k in range(32)]}) + "\n" for i in range(8)))
        p.write("r.yaml", recipe(calibration={"dataset": "ids.jsonl"}, validate=None))
        p.qjob("run", "r.yaml", "-q")
        p.write("r.yaml", recipe(validate=None))
        check("WordLevel" in p.qjob("run", "r.yaml", "-q", code=1).err, "text needs one")


def output_folders():
    with place() as p:
        p.furnish()
        p.write("out/letter.txt", "dear")
        done = p.qjob("run", "r.yaml", code=2)
        check(re.search(r"out: has files that qjob did not write; choose another output folder, or empty it\n$", done.err), done.err)
        equal(digests(p.dir / "out").keys(), {"letter.txt"})

        os.unlink(p.dir / "out/letter.txt")             # an empty folder will do
        p.run()
        first = digests(p.dir / "out")
        p.write("out/letter.txt", "dear")               # what is put beside ours stays
        p.write("out/notes/more.txt", "friend")
        states, _ = p.run("r.yaml", "--set", "quantize.bits=3")
        equal((p.dir / "out/letter.txt").read_text() + (p.dir / "out/notes/more.txt").read_text(), "dearfriend")
        p.run("r.yaml")
        equal({k: v for k, v in digests(p.dir / "out").items() if "/" not in k and k != "letter.txt"}, first)

        p.run("r.yaml", "--set", "pack.max_shard_size=100KB")       # what was ours and is no more goes away
        equal(sorted(n for n in os.listdir(p.dir / "out") if "safetensors" in n),
              ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"])
        (p.dir / "out/config.json").write_text("{}")                # what was spoilt is made good
        (p.dir / "out/model-00001-of-00002.safetensors").unlink()
        states, _ = p.run("r.yaml")
        equal(ran(states), set())
        equal({k: v for k, v in digests(p.dir / "out").items() if "/" not in k and k != "letter.txt"}, first)

        p.write("file", "in the way")
        done = p.qjob("run", "r.yaml", "-o", "file/out", code=2)
        equal(done.err, f"qjob: output folder: {p.dir / 'file'}: exists and is not a folder\n")
        equal((p.dir / "file").read_text(), "in the way")


def a_folder_for_each_variant():
    with place() as p:
        p.furnish()
        p.write("r.yaml", recipe(matrix={"quantize.bits": [4, 3], "pack.format": ["gptq", "compressed-tensors"]}))
        done = p.qjob("run", "r.yaml")
        folders = sorted(str(f.parent.relative_to(p.dir / "out")) for f in (p.dir / "out").rglob("qjob.json"))
        equal(len(folders), 4, folders)
        for bits in ("4", "3"):
            for form in ("gptq", "compressed-tensors"):
                f, = [f for f in folders if f"quantize.bits={bits}" in f and f"pack.format={form}" in f]
                c = json.loads((p.dir / "out" / f / "config.json").read_text())["quantization_config"]
                equal(c["quant_method"], form)
                equal(c["bits"] if form == "gptq" else next(iter(c["config_groups"].values()))["weights"]["num_bits"], int(bits))
        check(all(f in done.out for f in ("quantize.bits=4", "quantize.bits=3")), done.out)


# ---- events and the log ----

def events_and_log():
    with place() as p:
        p.furnish()
        for n in range(3):
            p.qjob("run", "r.yaml", "-q", "--events", "e.ndjson", "--set", f"quantize.bits={(4, 3, 4)[n]}")
            events = [json.loads(line) for line in (p.dir / "e.ndjson").read_text().splitlines()]
            equal((events[0]["event"], events[-1]["event"]), ("start", "end"))
            nodes = {}
            for e in events:
                check(isinstance(e["seconds"], float) and e["seconds"] >= 0, e)
                if e["event"] == "state":
                    equal(e["stage"], e["node"].split("/")[0])
                    nodes.setdefault(e["node"], []).append(e["state"])
            equal(len(nodes), 14)
            for node, states in nodes.items():
                check(states in (["hit"], ["runs", "done"], ["runs", "same"]), node, states)
        log = p.json("log")
        equal([r["result"] for r in log], ["ok"] * 3)
        equal([r["parameters"]["quantize.bits"] for r in log], ["4", "3", "4"])
        equal([sum(s["ran"] for s in r["stages"]) for r in log], [0, 6 + 1, 14])
        check(len(p.qjob("log").out.splitlines()) >= 3)
        check("quantize/0" in p.qjob("log", "2").out)


# ---- nothing to do ----

def settled(p, file="r.yaml"):
    """Runs until nothing is left to do but to see that."""
    for _ in range(4):
        time.sleep(0.05)
        if "up to date" in p.qjob("run", file).out:
            return
    raise AssertionError("the run never is up to date")


def big_place(p):
    """32 blocks, so that what grows with blocks would show."""
    make_model(p.dir / "model", hidden_size=32, intermediate_size=32, num_attention_heads=1, num_hidden_layers=32)
    p.write("calibration.txt", text(1))
    p.write("evaluation.txt", text(2))
    p.write("r.yaml", recipe())
    p.run()
    settled(p)


def nothing_to_do_is_quick():
    with place() as p:
        big_place(p)
        argv, env, here = p.command("run", "r.yaml", "-q"), {**p.env}, os.getcwd()
        took, used = [], []
        os.chdir(p.dir)
        try:
            for _ in range(20):
                began = time.perf_counter()
                _, status, usage = os.wait4(os.posix_spawn(argv[0], argv, env), 0)
                took.append(1000 * (time.perf_counter() - began))
                used.append(1000 * (usage.ru_utime + usage.ru_stime))
                equal(status, 0)
        finally:
            os.chdir(here)
        print(f"         nothing to do, 32 blocks: {statistics.median(took):.1f} ms wall (least {min(took):.1f}), "
              f"{statistics.median(used):.1f} ms of processor")
        check(SANITIZED or statistics.median(took) <= 30, "the median of", took)


def nothing_to_do_reads_nothing():
    with place() as p:
        big_place(p)
        trace = p.dir / "trace"
        argv = ["strace", "-f", "-o", str(trace), "-e", "trace=open,openat,openat2,execve,mmap", *p.command("run", "r.yaml", "-q")]
        if not shutil.which("strace"):
            raise Skip("strace is not installed")
        done = subprocess.run(argv, cwd=p.dir, env=p.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        opened = trace.read_text() if trace.exists() else ""
        if "execve" not in opened or done.returncode != 0:
            raise Skip(f"strace does not work here: {done.stdout.strip()}")
        names = re.findall(r'open(?:at)?2?\((?:[^",]*, )?"([^"]*)"', opened)
        check(any("r.yaml" in n for n in names), names)
        for n in names:
            check(not re.search(r"\.safetensors|config\.json|tokenizer|\.txt$|libdnnl|openblas|libcurl|libcuda|libcublas|libgomp|libqjob-", n),
                  "opened:", n)
        print(f"         nothing to do opens {len(names)} files")


def libraries_wait_for_work():
    """As above by the dynamic linker's own account, and plans of what is stored need no arithmetic either."""
    with place() as p:
        p.furnish()
        p.run()
        settled(p)
        for args in (["run", "r.yaml", "-q"], ["schema"], ["help"]):
            err = p.qjob(*args, env={"LD_DEBUG": "files"}).err
            check("libc.so" in err, "LD_DEBUG says nothing")
            found = set(re.findall(r"lib(?:dnnl|openblas|curl|cuda|cublas|qjob-)[^\s;/]*", err))
            equal(found, set(), args)


def nothing_to_do_is_not_said_in_vain():
    """Whatever changes after a run that found nothing to do, the next one sees it, though it reads no file."""
    def same_size(path):
        data = path.read_bytes()
        path.write_bytes(data[:10] + bytes([data[10] ^ 1]) + data[11:])

    def relink(d, name, to):
        os.unlink(d / name)
        os.symlink(to, d / name)

    def replaced(path):
        """By a file of the same size and time: what `rsync -t` and `cp -p` do."""
        data, st = path.read_bytes(), path.stat()
        write(path.with_name("new"), data[:10] + bytes([data[10] ^ 1]) + data[11:])
        os.utime(path.with_name("new"), ns=(st.st_atime_ns, st.st_mtime_ns))
        os.rename(path.with_name("new"), path)

    rows = [
        ("a byte of the text", lambda d: same_size(d / "texts/b.txt")),
        ("a text of the same size and time", lambda d: replaced(d / "texts/b.txt")),
        ("a new text in the folder", lambda d: write(d / "texts/a.txt", text(9))),
        ("a text less in the folder", lambda d: os.unlink(d / "texts/c.txt")),
        ("a new text in a folder of a list", lambda d: write(d / "more/a.txt", text(9))),
        ("the evaluation's text, a link", lambda d: relink(d, "evaluation.txt", "other.txt")),
        ("a tensor", lambda d: change_tensor(d / "model", "model.norm.weight")),
        ("config.json", lambda d: write(d / "model/config.json", json.dumps(config(rms_norm_eps=0.01)))),
        ("a new file of the model", lambda d: write(d / "model/tokenizer_config.json", "{}")),
        ("the model, a link", lambda d: relink(d, "model", "model-2")),
        ("the recipe", lambda d: write(d / "r.yaml", (d / "r.yaml").read_text().replace('"bits": 4', '"bits": 3'))),
        ("the base of the recipe", lambda d: write(d / "base.yaml", '{"pack": {"checkpoint_format": "gptq_v2"}}')),
        ("a lost result", lambda d: os.unlink(d / "out/quantize_config.json")),
        ("a spoilt result", lambda d: same_size(d / "out/model.safetensors")),
        ("no results", lambda d: shutil.rmtree(d / "out")),
        ("no store", lambda d: shutil.rmtree(d / "cache")),
    ]
    problems = []
    with place() as first, place() as p:
        first.furnish()
        os.rename(first.dir / "model", first.dir / "model-1")
        make_model(first.dir / "model-2", seed=2)
        os.symlink("model-1", first.dir / "model")
        for i, file in enumerate(("one.txt", "other.txt", "texts/b.txt", "texts/c.txt", "more/b.txt")):
            first.write(file, text(20 + i, 60))
        os.unlink(first.dir / "evaluation.txt")
        os.symlink("one.txt", first.dir / "evaluation.txt")
        first.write("base.yaml", {"pack": {}})
        r = recipe(calibration={"dataset": "texts"}, pack=None,
                   validate={"perplexity": {"dataset": [{"file": "evaluation.txt"}, {"file": "more"}], "seqlen": 32}})
        first.write("r.yaml", {"extends": "base.yaml", **r})
        first.run()
        for name, change in rows:
            shutil.rmtree(p.dir)
            shutil.copytree(first.dir, p.dir, symlinks=True)
            p.cache = p.dir / "cache"
            settled(p)
            before = digests(p.dir / "out")
            change(p.dir)
            out = p.qjob("run", "r.yaml").out
            if "up to date" in out:
                problems.append(f"{name}: {out}")
                continue
            have = digests(p.dir / "out")
            p.cache = p.dir / "fresh"
            p.qjob("run", "r.yaml", "-q", "-o", "fresh out")
            if digests(p.dir / "fresh out") != have:
                problems.append(f"{name}: another result than from scratch")
            if have == before and "result" not in name and "store" not in name:
                problems.append(f"{name}: it changes nothing")
    check(not problems, "\n".join(problems))


main([bad_recipes_are_refused, a_limit_exceeded_keeps_the_result, failures_name_their_reason,
      what_float16_cannot_hold_is_told, bad_models_are_refused, a_bad_tokenizer_fails_its_nodes, ids_need_no_tokenizer, output_folders,
      a_folder_for_each_variant, events_and_log, nothing_to_do_is_quick,
      nothing_to_do_reads_nothing, nothing_to_do_is_not_said_in_vain, libraries_wait_for_work])
