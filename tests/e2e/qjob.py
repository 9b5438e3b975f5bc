"""What the end-to-end tests share: small models, recipes, and ways to run qjob.

    qjob.main(cases)    runs the functions given; exit code 0, 1, or 77 when all that could run was skipped

A recipe is a Python dict: JSON is YAML.  A model is random, byte-level and tiny: a run takes a fraction of a second.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback

QJOB = str(pathlib.Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else "qjob"
SOURCE = pathlib.Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else pathlib.Path(__file__).resolve().parents[2]
BUSY = {"GOMP_SPINCOUNT": "1000"}    # threads that wait give the processor away: tests run side by side
SANITIZED = os.path.exists(QJOB) and any(name in pathlib.Path(QJOB).read_bytes() for name in (b"__asan_init", b"__tsan_init"))
if SANITIZED:
    BUSY["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "detect_leaks=0")    # the search for leaks trips over OpenMP's threads


class Skip(Exception):
    pass


def check(truth, *what):
    if not truth:
        raise AssertionError(" ".join(str(w) for w in what))


def equal(have, want, *what):
    check(have == want, *what, f"\n  have {have!r}\n  want {want!r}")


# ---- files ----

def write(path, data):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def digests(folder):
    """sha256 of every file below the folder, by relative name."""
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(pathlib.Path(folder).rglob("*")) if p.is_file()}


def read_tensors(path):
    """{name: (dtype, shape, bytes)} in the file's order."""
    data = pathlib.Path(path).read_bytes()
    n, = struct.unpack("<Q", data[:8])
    head = json.loads(data[8:8 + n])
    head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in sorted(head.items(), key=lambda kv: kv[1]["data_offsets"])}


def tensors_bytes(tensors, metadata=None):
    head, at = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values())


def write_tensors(path, tensors, metadata=None):
    write(path, tensors_bytes(tensors, metadata))


def change_tensor(folder, name, element=0):
    """Another value for one element of a BF16 or F32 tensor: its sign is turned, and it is not small."""
    path = pathlib.Path(folder) / "model.safetensors"
    tensors = read_tensors(path)
    dtype, shape, data = tensors[name]
    size = {"BF16": 2, "F16": 2, "F32": 4}[dtype]
    new = {"BF16": b"\x80\xbe", "F16": b"\x00\xb4", "F32": b"\x00\x00\x80\xbe"}[dtype]    # -0.25
    at = element * size
    check(data[at:at + size] != new, name, "has that value already")
    tensors[name] = (dtype, shape, data[:at] + new + data[at + size:])
    write_tensors(path, tensors)


# ---- models ----

BLOCKS, WIDTH, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY = 3, 64, 128, 2, 1, 32, 272


def config(**more):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
            "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
            "vocab_size": VOCABULARY, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "max_position_embeddings": 128,
            "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16", **more}


def bytes_of(values, dtype):
    if dtype == "F32":
        return struct.pack(f"<{len(values)}f", *values)
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    return b"".join(struct.pack("<f", v)[2:] for v in values)


def tensors(c, dtype="BF16", seed=1):
    """What a config asks for, by name."""
    rng = random.Random(seed)
    wide, inner, q, kv = (c["hidden_size"], c["intermediate_size"], c["num_attention_heads"] * c["head_dim"],
                          c["num_key_value_heads"] * c["head_dim"])
    out = {}

    def add(name, rows, cols=None, about=0.0, spread=0.15):
        out[name] = (dtype, [rows, cols] if cols else [rows],
                     bytes_of([about + spread * (rng.random() * 2 - 1) for _ in range(rows * (cols or 1))], dtype))

    add("model.embed_tokens.weight", c["vocab_size"], wide, spread=1)
    for b in range(c["num_hidden_layers"]):
        p = f"model.layers.{b}."
        add(p + "input_layernorm.weight", wide, about=1)
        add(p + "self_attn.q_proj.weight", q, wide)
        add(p + "self_attn.k_proj.weight", kv, wide)
        add(p + "self_attn.v_proj.weight", kv, wide)
        add(p + "self_attn.o_proj.weight", wide, q)
        add(p + "post_attention_layernorm.weight", wide, about=1)
        add(p + "mlp.gate_proj.weight", inner, wide)
        add(p + "mlp.up_proj.weight", inner, wide)
        add(p + "mlp.down_proj.weight", wide, inner)
    add("model.norm.weight", wide, about=1)
    if not c["tie_word_embeddings"]:
        add("lm_head.weight", c["vocab_size"], wide)
    return out


def byte_words():
    """The 256 characters that stand for bytes in a byte-level vocabulary, by byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)]


def tokenizer():
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {w: i for i, w in enumerate(byte_words())}, "merges": []}}


def make_model(folder, dtype="BF16", seed=1, **more):
    folder = pathlib.Path(folder)
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    c = config(torch_dtype=names[dtype], **more)
    write_tensors(folder / "model.safetensors", tensors(c, dtype, seed))
    write(folder / "config.json", json.dumps(c, indent=2))
    write(folder / "tokenizer.json", json.dumps(tokenizer()))
    write(folder / "generation_config.json", '{"do_sample": true}')
    return folder


def text(seed, words=400):
    rng = random.Random(seed)
    return " ".join("".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 8))) for _ in range(words)) + "\n"


def recipe(**sections):
    """The small recipe of these tests; a section given replaces it key by key, None removes it."""
    r = {"qjob": 1,
         "model": {"source": "model"},
         "calibration": {"dataset": "calibration.txt", "samples": 6, "seqlen": 32},
         "quantize": {"bits": 4, "group_size": 32},
         "pack": {},
         "validate": {"perplexity": {"dataset": "evaluation.txt", "seqlen": 32, "windows": 4}},
         "output": "out"}
    for name, value in sections.items():
        if isinstance(value, dict) and isinstance(r.get(name), dict):
            r[name] = {**r[name], **value}
        else:
            r[name] = value
    return {k: v for k, v in r.items() if v is not None}


def trained(**sections):
    """The same for the quick start's model, which knows its language: fewer bits make it worse."""
    folder = SOURCE / "examples/quickstart"
    r = recipe(model={"source": str(folder / "model")},
               calibration={"dataset": str(folder / "text/calibration.txt"), "samples": 4, "seqlen": 64},
               validate={"perplexity": {"dataset": str(folder / "text/evaluation.txt"), "seqlen": 64, "windows": 4}})
    return {**r, **{k: {**r[k], **v} if isinstance(v, dict) and k in r else v for k, v in sections.items()}}


def put(r, path, value):
    """A copy of a recipe with one field, "validate.perplexity.seqlen", set; an empty path changes nothing."""
    r = json.loads(json.dumps(r))
    at = r
    *folders, last = path.split(".")
    for f in folders:
        at = at.setdefault(f, {})
    at[last] = value
    return r


# ---- running ----

class Done:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds


class Place:
    """A folder of its own with a store, a model, texts and recipes."""

    def __init__(self, root):
        self.dir = pathlib.Path(root).resolve()
        self.cache = self.dir / "cache"
        self.env = {**os.environ, **BUSY, "LC_ALL": "C"}
        self.env.pop("QJOB_CACHE", None)

    def write(self, name, data):
        if isinstance(data, dict):
            data = json.dumps(data, indent=1)
        return write(self.dir / name, data)

    def furnish(self, **model):
        """Everything that recipe() needs."""
        make_model(self.dir / "model", **model)
        self.write("calibration.txt", text(1))
        self.write("evaluation.txt", text(2))
        self.write("r.yaml", recipe())
        return self

    def command(self, *args, cache=None):
        store = [] if args[0] in ("schema", "help", "version") else ["--cache-dir", str(cache or self.cache)]
        return [QJOB, *map(str, args), *store]

    def qjob(self, *args, code=0, env=None, cwd=None, cache=None, **more):
        """Runs qjob and demands its exit code (None: any)."""
        began = time.monotonic()
        done = subprocess.run(self.command(*args, cache=cache), cwd=cwd or self.dir, env={**self.env, **(env or {})},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300, **more)
        seconds = time.monotonic() - began
        if code is not None and done.returncode != code:
            raise AssertionError(f"qjob {' '.join(map(str, args))}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}")
        return Done(done.returncode, done.stdout, done.stderr, seconds)

    def json(self, *args, **more):
        return json.loads(self.qjob(*args, "--json", **more).out)

    def run(self, file="r.yaml", *args, **more):
        """Runs a recipe; {node: its last state}."""
        events = self.dir / "events.ndjson"
        events.unlink(missing_ok=True)
        done = self.qjob("run", file, "-q", "--events", events, *args, **more)
        return last_states(read_events(events)), done

    def plan(self, file="r.yaml", *args, **more):
        """{node: (action, reason)}"""
        return {n["name"]: (n["action"], n["reason"]) for n in self.json("plan", file, *args, **more)[0]["plan"]["nodes"]}


def read_events(path):
    """Events of a run; the last line may be cut short by a kill."""
    lines = pathlib.Path(path).read_text().split("\n") if os.path.exists(path) else []
    return [json.loads(line) for line in lines[:-1] if line]


def last_states(events):
    return {e["node"]: e["state"] for e in events if e["event"] == "state"}


def ran(states, fetch=True):
    """Names of the nodes that did work."""
    return {n for n, s in states.items() if s in ("done", "same", "failed") and (fetch or not n.startswith("fetch/"))}


@contextlib.contextmanager
def place(name="qjob-e2e-"):
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 28 else None
    with tempfile.TemporaryDirectory(prefix=name, dir=base) as root:
        yield Place(root)


def main(cases):
    """Runs the cases named on the command line after SOURCE_DIR, or all of them."""
    wanted, failed, passed = set(sys.argv[3:]), 0, 0
    for case in cases:
        if wanted and case.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            case()
            passed += 1
            print(f"ok       {case.__name__}  {time.monotonic() - began:.1f} s", flush=True)
        except Skip as why:
            print(f"skipped  {case.__name__}: {why}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED   {case.__name__}\n{traceback.format_exc()}", flush=True)
    sys.exit(1 if failed else 0 if passed else 77)
