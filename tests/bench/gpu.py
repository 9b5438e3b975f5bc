"""Whole runs of real shapes on a card: files in memory, cold store, wall time of the process.

    gpu.py speed  QJOB [SHAPE[:LAYERS] ...]     the default shapes: qwen2-7b llama-3-8b llama-3-70b:8 opt-175b-as-llama:2
    gpu.py memory QJOB [SHAPE[:LAYERS]]         the same run within 24 GB and within 8 GB
    gpu.py peers  QJOB FOLDER IDS               on a model and token ids (raw int32) that other tools were given
    gpu.py perplexity QJOB [SHAPE[:LAYERS]]     tokens a second of validate

GPTQ, 4 bits, groups of 128, static act-order, 128 x 2048 made-up tokens; models are synthetic (qjob/model/synthetic.h), made
before the clock starts.  A model cut to some of its layers is run at two depths, and its whole time follows from the two.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

DEPTH = {"qwen2-7b": 28, "llama-3-8b": 32, "llama-3-70b": 80, "opt-175b-as-llama": 96}
WIDTHS = {"qwen2-7b": (3584, 18944, 28, 4, 128, 152064), "llama-3-8b": (4096, 14336, 32, 8, 128, 128256)}
SAMPLES, SEQLEN = 128, 2048
CEILING = 790e12                   # bf16 products, measured on one H200 (an H100 has the same)


def recipe(source, output, dataset="synthetic:tokens", method="gptq", **quantize):
    r = {"qjob": 1, "model": {"source": source}, "calibration": {"dataset": dataset, "samples": SAMPLES, "seqlen": SEQLEN},
         "quantize": {"method": method, "bits": 4, "group_size": 128, **quantize},
         "pack": {"format": "gptq", "max_shard_size": "1GB"}, "output": str(output)}
    if method == "rtn":
        del r["calibration"]
    return r


class Peak(threading.Thread):
    """The card's used memory, as its driver sees it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0
        self.go = True
        self.base = self.now()

    def now(self):
        said = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True)
        return int(said.stdout.split()[0]) if said.returncode == 0 else 0

    def run(self):
        while self.go:
            self.most = max(self.most, self.now())
            time.sleep(0.1)


def phases(events):
    """Seconds by stage, from the first start of a node to the last end."""
    spans = {}
    for line in pathlib.Path(events).read_text().splitlines():
        e = json.loads(line)
        if e["event"] != "state":
            continue
        stage = e["node"].split("/")[0]
        at = e["seconds"]
        first, last = spans.get(stage, (at, at))
        spans[stage] = (min(first, at), max(last, at))
    return {s: (round(a, 2), round(b, 2)) for s, (a, b) in spans.items()}


def run(qjob, place, r, *args, peak=False):
    """Seconds of one cold run; with peak, the MiB of the card it took."""
    place = pathlib.Path(place)
    (place / "r.yaml").write_text(json.dumps(r))
    shutil.rmtree(place / "cache", ignore_errors=True)
    shutil.rmtree(r["output"], ignore_errors=True)
    watch = Peak() if peak else None
    if watch:
        watch.start()
    began = time.monotonic()
    done = subprocess.run([qjob, "run", place / "r.yaml", "--cache-dir", place / "cache", "--events", place / "events", "-q", *args],
                          capture_output=True, text=True)
    seconds = time.monotonic() - began
    if watch:
        watch.go = False
        watch.join()
    if done.returncode != 0:
        sys.exit(f"qjob: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return seconds, (watch.most - watch.base if watch else 0)


def show_phases(place):
    events = pathlib.Path(place) / "events"
    for stage, (first, last) in phases(events).items():
        print(f"    {stage:10} from {first:7.2f} to {last:7.2f} s")
    began = [e["seconds"] for e in map(json.loads, events.read_text().splitlines())
             if e["event"] == "state" and e["node"].startswith("quantize/") and e["state"] == "runs"]
    gaps = sorted(b - a for a, b in zip(began[1:], began[2:]))
    if gaps:
        print(f"    a block every {gaps[len(gaps) // 2]:.3f} s, the first one {began[1] - began[0]:.2f} s")


def fill(qjob, source, place):
    """Makes the synthetic model, so that the clock starts on files in memory."""
    made = pathlib.Path(place) / "made"
    run(qjob, place, recipe(source, made, method="rtn"))
    shutil.rmtree(made, ignore_errors=True)


def one(qjob, shape, layers, place, *args, peak=False, **quantize):
    source = f"synthetic:{shape}?layers={layers}"
    fill(qjob, source, place)
    seconds, most = run(qjob, place, recipe(source, str(pathlib.Path(place) / "out"), **quantize), *args, peak=peak)
    return seconds, most


def speed(qjob, shapes):
    for word in shapes or ["qwen2-7b", "llama-3-8b", "llama-3-70b:8", "opt-175b-as-llama:2"]:
        shape, _, layers = word.partition(":")
        with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
            if not layers:
                seconds, _ = one(qjob, shape, DEPTH[shape], place)
                print(f"{shape}, {DEPTH[shape]} blocks: {seconds:.1f} s", flush=True)
            else:
                few = int(layers) // 2
                a, b = one(qjob, shape, few, place)[0], one(qjob, shape, int(layers), place)[0]
                each = (b - a) / (int(layers) - few)
                print(f"{shape}: {few} blocks {a:.1f} s, {layers} blocks {b:.1f} s, {each:.2f} s a block, "
                      f"{DEPTH[shape]} blocks about {a + each * (DEPTH[shape] - few):.0f} s", flush=True)
            show_phases(place)


def memory(qjob, shapes):
    shape, _, layers = (shapes or ["qwen2-7b:4"])[0].partition(":")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        source = f"synthetic:{shape}?layers={layers or DEPTH[shape]}"
        fill(qjob, source, place)
        for limit in ("", "24G", "8G"):
            args = ["--memory", limit] if limit else []
            seconds, most = run(qjob, place, recipe(source, str(pathlib.Path(place) / "out")), *args, peak=True)
            plan = subprocess.run([qjob, "plan", pathlib.Path(place) / "r.yaml", "--cache-dir", pathlib.Path(place) / "empty", "--json", *args],
                                  capture_output=True, text=True)
            said = max(node["cost"]["device_bytes"] for node in json.loads(plan.stdout)[0]["plan"]["nodes"])
            print(f"{shape}, {layers} blocks, --memory {limit or 'all':4}: {seconds:6.1f} s, card {most / 1024:.2f} GiB, planned {said / 2**30:.2f}", flush=True)


def peers(qjob, folder, ids):
    """The model folder and token ids that other tools were measured with."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        place = pathlib.Path(place)
        raw = pathlib.Path(ids).read_bytes()
        values = memoryview(raw).cast("i")
        with open(place / "ids.jsonl", "w") as f:
            for i in range(SAMPLES):
                f.write(json.dumps({"input_ids": list(values[i * SEQLEN:(i + 1) * SEQLEN])}) + "\n")
        r = recipe(str(folder), str(place / "out"), {"file": str(place / "ids.jsonl"), "field": "input_ids"})
        for what, more in (("default", {}), ("accuracy: high", {"accuracy": "high"})):
            r["quantize"].update(more)
            seconds = sorted(run(qjob, place, r)[0] for _ in range(3))
            print(f"qjob, {what}, {folder}: {', '.join(f'{s:.2f}' for s in seconds)} s", flush=True)
        show_phases(place)


def flops_a_token(shape, layers):
    """Of products with weights, the head's among them, and of causal attention."""
    D, I, heads, kv_heads, width, vocabulary = WIDTHS[shape]
    block = D * width * 2 * (heads + kv_heads) + 3 * D * I
    return 2 * (layers * block + D * vocabulary) + layers * 2 * SEQLEN * heads * width


def perplexity(qjob, shapes):
    shape, _, layers = (shapes or ["qwen2-7b"])[0].partition(":")
    layers = int(layers or DEPTH[shape])
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        place = pathlib.Path(place)
        source = f"synthetic:{shape}?layers={layers}"
        r = recipe(source, place / "out", method="rtn")
        r["validate"] = {"perplexity": {"dataset": "synthetic:tokens", "seqlen": SEQLEN, "windows": SAMPLES}}
        run(qjob, place, r)
        at = {}
        for e in map(json.loads, (place / "events").read_text().splitlines()):
            if e["event"] == "state":
                at[e["node"], e["state"]] = e["seconds"]
        for node in "validate/original", "validate/quantized":
            seconds = at[node, "done"] - at[node, "runs"]
            rate = flops_a_token(shape, layers) * SAMPLES * SEQLEN / seconds
            print(f"{shape}, {layers} blocks, {node}: {SAMPLES * SEQLEN / seconds:.0f} tokens a second, {rate / 1e12:.0f} TFLOP/s, "
                  f"{100 * rate / CEILING:.0f} % of the ceiling of bf16 products", flush=True)


def main():
    what, qjob, *rest = sys.argv[1:]
    qjob = str(pathlib.Path(qjob).resolve())
    {"speed": speed, "memory": memory, "perplexity": perplexity}.get(what, lambda q, r: peers(q, *r))(qjob, rest)


main()
