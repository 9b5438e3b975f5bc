#!/usr/bin/env python3
"""qjob against the Python tools on this machine's CPU, one after the other: 4 bits, group 64, symmetric.

    pip install -r tests/stock/requirements.txt llmcompressor==0.14.0.1 datasets==5.2.0
    python tests/bench/peers.py MODEL TEXT [--qjob build/release/qjob] [--samples 64 --seqlen 512] [--runs qjob,llmcompressor,gptqmodel]

MODEL: a folder (examples/smollm2/run.sh makes one); TEXT: a WikiText file. All are given the same windows. Prints a row for each:
whole wall seconds of the process, seconds of quantizing alone (for qjob: everything from reading to the written folder), peak memory.
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time


def windows(model, text, samples, seqlen):
    """The text as the hub's rows joined by two newlines, cut in order."""
    import transformers
    rows = [line if line.strip() else "" for line in pathlib.Path(text).read_text(encoding="utf-8").split("\n")]
    joined = "\n\n".join(row + "\n" if row else "" for row in rows)
    ids = transformers.AutoTokenizer.from_pretrained(model)(joined, add_special_tokens=False)["input_ids"]
    return [ids[i * seqlen:(i + 1) * seqlen] for i in range(samples)]


def run_llmcompressor(a, ids, out):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from transformers import AutoModelForCausalLM, AutoTokenizer
    IntermediatesCache.pin_memory = lambda self, *args, **kwargs: None     # wants a CUDA driver; changes no result
    group = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=64))
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype="auto")
    data = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]})
    start = time.time()
    oneshot(model=model, recipe=GPTQModifier(config_groups={"group_0": group}, ignore=["lm_head"]), dataset=data,
            num_calibration_samples=len(ids), max_seq_length=a.seqlen, shuffle_calibration_samples=False, pipeline="sequential",
            processor=AutoTokenizer.from_pretrained(a.model))
    seconds = time.time() - start
    model.save_pretrained(out, save_compressed=True)
    return seconds


def run_gptqmodel(a, ids, out):
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
    import torch
    from gptqmodel import GPTQModel
    from gptqmodel.quantization.config import GPTQConfig
    model = GPTQModel.load(a.model, GPTQConfig(bits=4, group_size=64, sym=True, offload_to_disk=False), dtype=torch.bfloat16, device="cpu")
    rows = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ids]
    start = time.time()
    model.quantize(rows, batch_size=1)
    seconds = time.time() - start
    model.save(out)
    return seconds


def run_qjob(a, ids, out):
    recipe = pathlib.Path(out) / "recipe.yaml"
    recipe.write_text(json.dumps({
        "qjob": 1, "model": {"source": os.path.abspath(a.model)},
        "calibration": {"dataset": {"file": os.path.abspath(a.text), "kind": "wikitext"}, "samples": a.samples, "seqlen": a.seqlen},
        "quantize": {"method": "gptq", "bits": 4, "group_size": 64}, "pack": {"format": "compressed-tensors"},
        "output": str(pathlib.Path(out) / "out")}))
    start = time.time()
    subprocess.run([a.qjob, "run", str(recipe), "--cache-dir", str(pathlib.Path(out) / "cache"), "-q"], check=True)
    return time.time() - start


RUNS = {"qjob": run_qjob, "llmcompressor": run_llmcompressor, "gptqmodel": run_gptqmodel}


def child(a):
    ids = None if a.child == "qjob" else windows(a.model, a.text, a.samples, a.seqlen)
    with tempfile.TemporaryDirectory() as out:
        seconds = RUNS[a.child](a, ids, out)
    who = resource.RUSAGE_CHILDREN if a.child == "qjob" else resource.RUSAGE_SELF
    print(f"\nRESULT {seconds} {resource.getrusage(who).ru_maxrss / 1024}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("text")
    p.add_argument("--qjob", default="build/release/qjob")
    p.add_argument("--samples", type=int, default=64)
    p.add_argument("--seqlen", type=int, default=512)
    p.add_argument("--runs", default="qjob,llmcompressor,gptqmodel,qjob")
    p.add_argument("--child", help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child:
        child(a)
        return
    print(f"{'tool':16s} {'wall s':>8s} {'quantize s':>11s} {'peak MB':>8s}", flush=True)
    for name in a.runs.split(","):
        start = time.time()
        done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child", name], capture_output=True, text=True)
        result = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        if not result:
            print(f"{name:16s} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}", flush=True)
            continue
        seconds, peak = map(float, result[0].split()[1:])
        print(f"{name:16s} {time.time() - start:8.1f} {seconds:11.1f} {peak:8.0f}", flush=True)


if __name__ == "__main__":
    main()
