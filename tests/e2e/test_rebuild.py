"""What runs again after a change, and what does not.

Every field of the schema has a row: the change, and exactly the nodes that do work after it.  So has every kind of input.
A parameter that is new in the schema and has no row fails the test."""
import json
import os
import re
import shutil

from qjob import *

# Nodes, by what they stand for in the rows.
CALIBRATION, EVALUATION = "tokenize/calibration", "tokenize/evaluation"
ORIGINAL, QUANTIZED, REPORT = "validate/original", "validate/quantized", "validate/report"
FILES, SHARD = "pack/files", "pack/shard-0"
C, Q = [[f"{stage}/{b}" for b in range(BLOCKS)] for stage in ("calibrate", "quantize")]
CHECKED = [QUANTIZED, REPORT]
CODES = [*Q, SHARD, *CHECKED]                # other codes in every block
LABELLED = [*CODES, FILES]                   # and another label
TEXT = [CALIBRATION, *CODES]
MEASURED = [EVALUATION, ORIGINAL, *CHECKED]

ASYM = {"quantize.sym": False}
QEP = {"quantize.qep": 0.5}
RTN = {"quantize.method": "rtn", "calibration": None}
JSONL = {"calibration.dataset": "texts.jsonl", "validate.perplexity.dataset": "texts.jsonl"}
DOWN_1 = {"match": "*.1.mlp.down_proj"}
FROM_1 = [*Q[1:], SHARD, *CHECKED, FILES]    # from block 1 on


class Row:
    """One field set to one value, over a base that may differ from the common one; nodes in `may` depend on the numbers."""

    def __init__(self, field, value, nodes, base=None, may=(), why=None, path=None):
        self.field, self.value, self.nodes, self.base, self.may = field, value, set(nodes), base or {}, set(may)
        self.path = path or re.sub(r"\[.*?\]", "", field)
        self.why = why or self.path


ROWS = [
    Row("output", "out2", []),
    Row("model.source", "copy", []),
    Row("model.revision", "main", []),

    Row("calibration.dataset", "other.txt", TEXT, why="data 0"),
    Row("calibration.dataset", ["some words", {"file": "calibration.txt"}], TEXT, why="data 0"),
    Row("calibration.field", "other", [REPORT]),                        # text files have no fields
    Row("calibration.field", "other", TEXT, JSONL),
    Row("calibration.windows", "random", TEXT),
    Row("calibration.samples", 5, TEXT),
    Row("calibration.seqlen", 16, TEXT),
    Row("calibration.seed", 7, [REPORT]),                               # nothing is drawn
    Row("calibration.seed", 7, TEXT, {"calibration.windows": "random"}),
    Row("calibration.dtype", "float32", [*Q, REPORT], may=[SHARD, QUANTIZED]),
    Row("calibration.dtype", "float16", [*Q, REPORT], {"calibration.dtype": "bfloat16"}, may=[SHARD, QUANTIZED]),

    Row("quantize.method", "rtn", LABELLED),
    Row("quantize.overrides", [{**DOWN_1, "bits": 8}], FROM_1, why="down_proj"),
    Row("quantize.overrides", [{**DOWN_1, "bits": 4}], [REPORT]),       # says what holds anyway
    Row("quantize.overrides[].match", [{"match": "*.2.mlp.down_proj", "bits": 8}], FROM_1,
        {"quantize.overrides": [{**DOWN_1, "bits": 8}]}, why="down_proj"),
    Row("quantize.overrides[].bits", [{**DOWN_1, "bits": 3}], FROM_1, why="down_proj"),
    Row("quantize.overrides[].group_size", [{**DOWN_1, "group_size": 64}], FROM_1, why="down_proj"),
    Row("quantize.overrides[].sym", [{**DOWN_1, "sym": False}], FROM_1, why="down_proj"),
    Row("quantize.overrides[].skip", [{**DOWN_1, "skip": True}], FROM_1, why="down_proj"),

    Row("quantize[gptq].preset", "compat", LABELLED),
    Row("quantize[gptq].accuracy", "high", CODES),
    Row("quantize[gptq].bits", 3, LABELLED),
    Row("quantize[gptq].group_size", 64, LABELLED),
    Row("quantize[gptq].sym", False, LABELLED),
    Row("quantize[gptq].desc_act", True, LABELLED),
    Row("quantize[gptq].static_groups", True, [*Q, REPORT]),            # actorder: static has them
    Row("quantize[gptq].actorder", "none", LABELLED),
    Row("quantize[gptq].damp_percent", 0.3, LABELLED),
    Row("quantize[gptq].damp_auto_increment", 0.5, [*Q, REPORT]),       # no fallback is met
    Row("quantize[gptq].true_sequential", False, LABELLED),
    Row("quantize[gptq].propagate", "original", [*C, *CODES]),
    Row("quantize[gptq].scale_search", "minmax", CODES),
    Row("quantize[gptq].token_weight", "none", CODES),
    Row("quantize[gptq].qep", 0.5, CODES),
    Row("quantize[gptq].qep_damp", 0.1, [*Q, REPORT]),
    Row("quantize[gptq].qep_damp", 0.01, CODES, QEP),
    Row("quantize[gptq].rounding", "fp32", [*Q, REPORT], may=[SHARD, QUANTIZED]),

    Row("quantize[rtn].preset", "compat", [*Q, REPORT], RTN, may=[SHARD, QUANTIZED]),
    Row("quantize[rtn].bits", 3, LABELLED, RTN),
    Row("quantize[rtn].group_size", 64, LABELLED, RTN),
    Row("quantize[rtn].sym", False, LABELLED, RTN),
    Row("quantize[rtn].scale_search", "mse", CODES, RTN),
    Row("quantize[rtn].rounding", "fp32", [*Q, REPORT], RTN, may=[SHARD, QUANTIZED]),

    Row("pack.format", "compressed-tensors", LABELLED),                 # scales become bfloat16
    Row("pack.format", "compressed-tensors", [SHARD, FILES, *CHECKED], {"model.source": "half"}),    # they stay float16
    Row("pack.kernel", "torch", []),
    Row("pack.tensor_parallel", 2, []),
    Row("pack.max_shard_size", "100KB", [SHARD, "pack/shard-1", FILES, *CHECKED]),
    Row("pack[gptq].checkpoint_format", "gptq_v2", [SHARD, FILES, *CHECKED]),
    Row("pack[gptq].checkpoint_format", "gptq_v2", LABELLED, ASYM),     # zero points from 0 on

    Row("validate.perplexity.dataset", "other.txt", MEASURED, why="data 0"),
    Row("validate.perplexity.field", "other", [REPORT]),
    Row("validate.perplexity.field", "other", MEASURED, JSONL),
    Row("validate.perplexity.split", "test", [REPORT]),
    Row("validate.perplexity.seqlen", 16, MEASURED),
    Row("validate.perplexity.windows", 3, MEASURED),
    Row("validate.max_perplexity_increase", 500, []),                   # judged after the run
    Row("validate.dtype", "bfloat16", [ORIGINAL, *CHECKED]),
    Row("validate.dtype", "float16", [ORIGINAL, *CHECKED], {"validate.dtype": "bfloat16"}),
]

# Fields of the schema that are no parameter of a node; `extends` and `matrix` have tests of their own.
OTHERS = {"qjob", "extends", "matrix", "validate.perplexity"}


def fields(schema, prefix=""):
    """Every field of the schema: "pack.kernel", "quantize[gptq].bits", "quantize.overrides[].match"."""
    out = set()
    kinds = [(next(iter(rule["if"]["properties"].values()))["const"], rule["then"]["properties"]) for rule in schema.get("allOf", [])]
    own = set(schema.get("properties", {})) - {name for _, rows in kinds for name in rows}
    for name in own:
        value = schema["properties"][name]
        if "properties" in value:
            out |= fields(value, f"{prefix}{name}.")
            if not prefix:
                continue
        out.add(prefix + name)
        if "properties" in value.get("items", {}):
            out |= {f"{prefix}{name}[].{inner}" for inner in value["items"]["properties"]}
    for kind, rows in kinds:
        out |= {f"{prefix[:-1]}[{kind}].{name}" for name in rows}
    return out


def with_changes(changes):
    r = recipe()
    for path, value in changes.items():
        r = put(r, path, value)
    return {k: v for k, v in r.items() if v is not None}


class Bases:
    """One finished run for each base; every row starts from a copy of its store."""

    def __init__(self, p):
        self.p, self.stores = p, {}
        p.furnish()
        make_model(p.dir / "half", dtype="F16")
        shutil.copytree(p.dir / "model", p.dir / "copy")
        p.write("other.txt", text(3))
        p.write("texts.jsonl", "".join(json.dumps({"text": text(i, 60), "other": text(i + 50, 60)}) + "\n" for i in range(8)))

    def start(self, changes):
        """A store in which the base has run, as the place's own; the base recipe."""
        base = with_changes(changes)
        name = json.dumps(changes, sort_keys=True)
        self.p.write("base.yaml", base)
        shutil.rmtree(self.p.dir / "out", ignore_errors=True)
        if name not in self.stores:
            self.p.cache = self.stores[name] = self.p.dir / f"store-{len(self.stores)}"
            self.p.run("base.yaml")
            again, _ = self.p.run("base.yaml")
            equal(ran(again), set(), "a second run of", name)
        self.p.cache = self.p.dir / "store"
        shutil.rmtree(self.p.cache, ignore_errors=True)
        shutil.copytree(self.stores[name], self.p.cache)
        return base


def compare(row_name, states, plan, want, may):
    """What ran is what was wanted, and the plan had foreseen it."""
    have = ran(states, fetch=False)
    check(want <= have <= want | may, row_name, f"\n  ran in vain: {sorted(have - want - may)}\n  did not run: {sorted(want - have)}")
    for node, (action, reason) in plan.items():
        if action in ("run", "resume"):
            check(states[node] in ("done", "same"), row_name, node, "was to run:", reason, "; it is", states[node])
        elif action == "hit":
            check(states[node] == "hit", row_name, node, "was to be a hit; it is", states[node])


def every_field_has_a_row():
    with place() as p:
        schema = json.loads(p.qjob("schema").out)
    known, tested = fields(schema), {row.field for row in ROWS}
    equal(sorted(known - tested - OTHERS), [], "fields of the schema without a row in tests/e2e/test_rebuild.py:")
    equal(sorted(tested - known), [], "rows for fields that the schema does not have:")


def changed_fields():
    problems = []
    with place() as p:
        bases = Bases(p)
        for row in ROWS:
            name = f"{row.field} = {json.dumps(row.value)}" + (f" over {json.dumps(row.base)}" if row.base else "")
            try:
                base = bases.start(row.base)
                p.write("r.yaml", put(base, re.sub("overrides.*", "overrides", row.path), row.value))
                changed_field(p, row, name)
            except AssertionError as e:
                problems.append(str(e))
    check(not problems, f"{len(problems)} of {len(ROWS)} rows:\n" + "\n".join(problems))


def changed_field(p, row, name):
    why = p.json("why", "r.yaml")[0]
    plan = p.plan()
    states, _ = p.run()
    compare(name, states, plan, row.nodes, row.may)
    if not row.nodes:
        return
    field = re.sub("overrides.*", "overrides", row.path)
    changed = (why.get("changed") or {}).get("parameters", {})
    check(row.why == "data 0" or any(c == field or c.startswith(field + ".") for c in changed), name, "is not named:", changed)
    reasons = "\n".join(n["reason"] for n in why["nodes"])
    check(row.why in reasons or row.why.split(".")[-1] in reasons, name, "is in no reason:", reasons)


# ---- inputs ----

def input_rows():
    """(name, change of the model's folder, nodes with propagate: quantized, nodes with propagate: original, may, a reason)"""
    end = [SHARD, ORIGINAL, *CHECKED]
    layer = "model.layers.%d."

    def tensor(name, element=0):
        return lambda p: change_tensor(p.dir / "model", name, element)

    def tokenizer_file(change):
        def apply(p):
            t = tokenizer()
            indent = change(t)
            p.write("model/tokenizer.json", json.dumps(t, indent=indent))
        return apply

    def swap(t):
        v = t["model"]["vocab"]
        v["e"], v["q"] = v["q"], v["e"]

    def config_file(indent=2, **more):
        return lambda p: p.write("model/config.json", json.dumps(config(**more), indent=indent))

    def other_type(p):
        path = p.dir / "model/model.safetensors"
        t = read_tensors(path)
        t[layer % 1 + "self_attn.q_proj.weight"] = ("F16", *t[layer % 1 + "self_attn.q_proj.weight"][1:])
        write_tensors(path, t)

    def edited(name, at):
        def apply(p):
            data = bytearray((p.dir / name).read_bytes())
            data[at:at + 3] = b"zzz"
            p.write(name, bytes(data))
        return apply

    all_ids = [CALIBRATION, EVALUATION, *Q, FILES, *end]
    return [
        ("embedding", tensor("model.embed_tokens.weight", ord("e") * WIDTH), [*Q, *end], C, ["model.embed_tokens.weight"]),
        ("norm of block 1", tensor(layer % 1 + "input_layernorm.weight"), [*Q[1:], *end], C[1:], [layer % 1 + "input_layernorm.weight"]),
        ("q_proj of block 1", tensor(layer % 1 + "self_attn.q_proj.weight"), [*Q[1:], *end], C[1:], [layer % 1 + "self_attn.q_proj.weight"]),
        ("down_proj of the last block", tensor(layer % 2 + "mlp.down_proj.weight"), [Q[2], *end], [C[2]], [layer % 2 + "mlp.down_proj.weight"]),
        ("head", tensor("lm_head.weight"), end, [], ["lm_head.weight"]),
        ("last norm", tensor("model.norm.weight"), end, [], ["model.norm.weight"]),
        ("type of q_proj of block 1, same bytes", other_type, [*Q[1:], *end], C[1:], [layer % 1 + "self_attn.q_proj.weight"]),
        ("tokenizer: a vocabulary entry", tokenizer_file(swap), all_ids, C, ["tokenizer.json"]),
        ("tokenizer: white space", tokenizer_file(lambda t: 4), [CALIBRATION, EVALUATION, FILES], [], ["tokenizer.json"]),
        ("generation_config.json", lambda p: p.write("model/generation_config.json", "{}"), [FILES], [], ["generation_config.json"]),
        ("a new tokenizer_config.json", lambda p: p.write("model/tokenizer_config.json", "{}"), [FILES], [], ["tokenizer_config.json"]),
        ("a file that nobody reads", lambda p: p.write("model/README.md", "words"), [], [], []),
        ("config: a number that matters", config_file(rms_norm_eps=0.01), [*Q, FILES, *end], C, ["config.json", "config.eps"]),
        ("config: a key that changes no number", config_file(use_cache=False), [FILES, QUANTIZED], [], ["config.json"]),
        ("config: white space", config_file(indent=4), [FILES, QUANTIZED], [], ["config.json"]),
        ("calibration text", edited("calibration.txt", 50), TEXT, C, ["data 0"]),
        ("calibration text behind what is used", edited("calibration.txt", 1500), [CALIBRATION], [], ["data 0"]),
        ("evaluation text", edited("evaluation.txt", 50), MEASURED, [], ["data 0"]),
        ("evaluation text behind what is used", edited("evaluation.txt", 1500), [EVALUATION], [], ["data 0"]),
    ]


def cut_off():
    """The embedding of a token that no text has: the first nodes that see it run again and give the same, and the rest stays."""
    for propagate, codes in (("quantized", Q), ("original", [])):
        with place() as p:
            p.furnish()
            p.write("r.yaml", recipe(quantize={"propagate": propagate}))
            p.run()
            before = digests(p.dir / "out")
            change_tensor(p.dir / "model", "model.embed_tokens.weight")
            states, _ = p.run()
            equal(ran(states, fetch=False), {*codes, *(C if propagate == "original" else []), SHARD, ORIGINAL, QUANTIZED}, propagate)
            equal((states[ORIGINAL], states[QUANTIZED], states[REPORT]), ("same", "same", "hit"))
            after = digests(p.dir / "out")
            equal([n for n in before if before[n] != after[n]], ["model.safetensors", "qjob.json"])


def changed_inputs(propagate):
    problems = []
    with place() as p:
        p.furnish()
        p.write("r.yaml", recipe(quantize={"propagate": propagate}))
        p.run()
        kept = p.dir / "kept"
        shutil.copytree(p.cache, kept / "cache")
        for part in ("model", "calibration.txt", "evaluation.txt"):
            os.rename(p.dir / part, kept / part)
        for name, change, quantized, calibrated, reasons in input_rows():
            shutil.rmtree(p.cache)
            shutil.rmtree(p.dir / "model", ignore_errors=True)
            for part in ("cache", "model"):
                shutil.copytree(kept / part, p.dir / part)
            for part in ("calibration.txt", "evaluation.txt"):
                shutil.copy(kept / part, p.dir / part)
            p.run()
            try:
                change(p)
                changed_input(p, name, {*quantized, *(calibrated if propagate == "original" else [])}, reasons)
            except AssertionError as e:
                problems.append(str(e))
    check(not problems, f"{len(problems)} rows with propagate: {propagate}:\n" + "\n".join(problems))


def changed_input(p, name, want, reasons):
    foretold = "\n".join(n["reason"] for n in p.json("why", "r.yaml")[0]["nodes"])
    plan = p.plan()
    states, _ = p.run()
    compare(name, states, plan, want, set())
    fetched = {n for n in ran(states) if n.startswith("fetch/")}
    check(len(fetched) <= 1, name, "fetches", fetched)
    log = p.json("log")[0]
    equal({n for n in log["why"] if not n.startswith("fetch/")}, want, name, "in the log")
    for r in reasons:
        check(r in "\n".join(log["why"].values()), name, f"{r!r} is in no reason:\n", json.dumps(log["why"], indent=1))
        check(r in foretold, name, f"{r!r} was in no reason before the run:\n", foretold)


def changed_inputs_with_quantized_stream():
    changed_inputs("quantized")


def changed_inputs_with_original_stream():
    changed_inputs("original")


# ---- nothing ----

def reshard(folder):
    t = read_tensors(folder / "model.safetensors")
    names, where = list(t), {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-{i + 1:05}-of-00002.safetensors"
        write_tensors(folder / file, {n: t[n] for n in part})
        where.update({n: file for n in part})
    os.unlink(folder / "model.safetensors")
    write(folder / "model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": where}))


def what_changes_nothing():
    """Each writes the recipe another way, or runs it elsewhere: no node but fetch does work, and every output byte stays."""
    with place() as p:
        p.furnish()
        p.run()
        want = digests(p.dir / "out")
        made = [n for n in want if n != "qjob.json"]
        same = recipe()
        problems = []

        def unchanged(name, *args, fetch=False, about=True, **more):
            states, _ = p.run(*args, **more)
            have = digests(p.dir / "out")
            if ran(states, fetch=not fetch):
                problems.append(f"{name}: {sorted(ran(states, fetch=not fetch))} ran")
            if any(have.get(n) != want[n] for n in (want if about else made)):
                problems.append(f"{name}: other bytes in {[n for n in want if have.get(n) != want[n]]}")

        unchanged("a second run", "r.yaml")
        p.write("comments.yaml", "# one\n" + "".join(f"{line}   # two\n" for line in (p.dir / "r.yaml").read_text().splitlines()))
        unchanged("comments", "comments.yaml")
        p.write("order.yaml", json.dumps(dict(reversed([(k, dict(reversed(v.items())) if isinstance(v, dict) else v)
                                                         for k, v in same.items()]))))
        unchanged("order of keys", "order.yaml")
        p.write("anchors.yaml", "qjob: 1\nmodel: {source: model}\ncalibration: {dataset: calibration.txt, samples: 6, seqlen: &n 32}\n"
                "quantize: {bits: 4, group_size: *n}\nvalidate: {perplexity: {dataset: evaluation.txt, seqlen: *n, windows: 4}}\noutput: out\n")
        unchanged("anchors", "anchors.yaml")
        p.write("base.yaml", {k: v for k, v in same.items() if k not in ("quantize", "output")})
        p.write("extends.yaml", {"extends": "base.yaml", "quantize": same["quantize"], "output": "out"})
        unchanged("extends", "extends.yaml")
        p.write("defaults.yaml", p.qjob("plan", "r.yaml", "--recipe").out)
        unchanged("every default written out", "defaults.yaml")
        unchanged("--set of the same", "r.yaml", "--set", "quantize.bits=4", "--set", "quantize.method=gptq")
        unchanged("threads", "r.yaml", "--threads", "1")
        unchanged("environment", "r.yaml", env={"HOME": "/nonexistent", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "LANG": "de_DE.UTF-8"})
        unchanged("umask", "r.yaml", umask=0o077)
        p.write("elsewhere/r.yaml", recipe(model={"source": "../model"}, calibration={"dataset": "../calibration.txt"},
                                           validate={"perplexity": {"dataset": "../evaluation.txt", "seqlen": 32, "windows": 4}}))
        unchanged("recipe in another folder", "elsewhere/r.yaml")
        unchanged("another current folder", "../r.yaml", "-o", "../out", cwd=p.dir / "elsewhere")
        shutil.copytree(p.dir / "model", p.dir / "copy/model")
        unchanged("a copied model", "r.yaml", "--set", "model.source=copy/model", fetch=True)
        os.rename(p.dir / "copy/model", p.dir / "copy/renamed")
        unchanged("a renamed model", "r.yaml", "--set", "model.source=copy/renamed", fetch=True, about=False)
        reshard(p.dir / "copy/renamed")
        unchanged("a resharded model", "r.yaml", "--set", "model.source=copy/renamed", fetch=True, about=False)
        shutil.copy(p.dir / "calibration.txt", p.dir / "named otherwise.txt")
        unchanged("a renamed text", "r.yaml", "--set", "calibration.dataset=named otherwise.txt", about=False)
        p.write("matrix.yaml", {**same, "matrix": {"quantize.bits": [4, 3]}})
        states, _ = p.run("matrix.yaml", "-o", "swept")
        equal(digests(p.dir / "swept/quantize.bits=4"), want, "a variant of a matrix")
        check(not problems, "\n".join(problems))


def a_shard_alone():
    """A tensor outside the blocks changes the shard that holds it, and no other."""
    with place() as p:
        p.furnish()
        p.write("r.yaml", recipe(pack={"max_shard_size": "30KB"}))
        states, _ = p.run()
        shards = {n for n in states if n.startswith("pack/shard-")}
        check(len(shards) > 3, shards)
        before = digests(p.dir / "out")
        change_tensor(p.dir / "model", "model.norm.weight")
        states, _ = p.run()
        again = {n for n in ran(states) if n in shards}
        equal(len(again), 1, "shards written again:", again)
        equal(ran(states, fetch=False) - again, {ORIGINAL, *CHECKED})
        after = digests(p.dir / "out")
        equal(sum(before[n] != after[n] for n in before if n.startswith("model-")), 1, "shards with other bytes")


def a_matrix_shares():
    """Variants pay once for what does not depend on what they differ in; back to a value that ran before costs nothing."""
    with place() as p:
        p.furnish()
        p.write("r.yaml", recipe(quantize={"propagate": "original"}, output="swept", matrix={"quantize.bits": [4, 3], "quantize.group_size": [32, 64]}))
        runs = p.json("run", "r.yaml", "-q")
        equal(len(runs), 4)
        for i, r in enumerate(runs):
            done = {s["stage"]: s["ran"] for s in r["stages"]}
            equal((done["tokenize"], done["calibrate"]), (0, 0) if i else (2, BLOCKS), "variant", r["variant"])
            equal(done["quantize"], BLOCKS, "variant", r["variant"])
        p.write("one.yaml", recipe(quantize={"propagate": "original"}))
        for bits in (3, 4, 3):
            states, _ = p.run("one.yaml", "--set", f"quantize.bits={bits}")
            equal(ran(states), set(), f"bits {bits}, which ran in the matrix")


main([every_field_has_a_row, changed_fields, changed_inputs_with_quantized_stream, changed_inputs_with_original_stream, cut_off,
      what_changes_nothing, a_shard_alone, a_matrix_shares])
