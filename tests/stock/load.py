#!/usr/bin/env python3
"""Packs small models with qjob and loads them with stock software on the CPU.

    load.py --qjob BUILD/qjob --work FOLDER [case ...]

Each case is one recipe over a model of tests/golden/models.  Of its output it is asked that

  - the loader reports nothing missing, left over or of another shape,
  - exactly the linears of the file are quantized modules,
  - every weight, seen through the stock module by one-hot inputs, is what the file says (dequantized here by numpy alone),
  - logits agree with `qjob forward` of the same folder, and are near those of the full-precision model.

Loaders believe labels, so the third question alone cannot see a wrong one; the fourth can.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # compiling costs more than it saves here
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")

import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
TEXT = "The quick brown fox jumps over the lazy dog, while 1234567890 bytes of text pass by; nothing here means much. "
ROUNDING = {"float32": 2.0**-20, "float16": 2.0**-10, "bfloat16": 2.0**-7}  # of a value
TO_OURS = {"float32": 1e-4, "float16": 1e-3, "bfloat16": 1e-2}  # most KL of stock logits in that type to ours in fp32
STEP_PART = 0.1  # a weight may be off by this part of its quantization step, and by rounding

SKIP_O = {"match": "*.o_proj", "skip": True}
DOWN_8 = {"match": "*.down_proj", "bits": 8}
ONE_ASYM = {"match": "model.layers.1.mlp.up_proj", "sym": "false"}
ONE_SKIP = {"match": "model.layers.0.mlp.gate_proj", "skip": True}
BOTH = ("transformers", "gptqmodel")

# name: model, quantize, pack, loaders, most KL to full precision in nats: twice what it is, or thereabouts; a wrong
# label gives more than 1.5 with 4 bits
CASES = {
    "gptq-4": ("llama", {"bits": 4}, {}, BOTH, 0.5),
    "gptq-4-tied": ("llama-tied-bf16", {"method": "rtn", "bits": 4}, {}, ("transformers",), 1.5),
    "gptq-4-desc_act": ("llama", {"bits": 4, "desc_act": True}, {}, BOTH, 0.5),
    "gptq-4-asym": ("qwen2", {"bits": 4, "sym": False}, {}, BOTH, 0.5),
    "gptq_v2-4-asym": ("qwen2", {"bits": 4, "sym": False, "desc_act": True},
                       {"checkpoint_format": "gptq_v2"}, BOTH, 0.5),
    "gptq-4-narrow": ("mistral", {"bits": 4}, {}, ("transformers",), 0.5),
    "gptq-3": ("llama3-rope", {"bits": 3}, {}, ("transformers",), 1.4),
    "gptq-3-asym": ("llama", {"bits": 3, "sym": False, "method": "rtn"}, {}, BOTH, 1.4),
    "gptq_v2-2": ("mistral", {"bits": 2, "group_size": 16}, {"checkpoint_format": "gptq_v2"},
                  ("transformers",), 3),
    "gptq-8-row": ("qwen3", {"bits": 8, "group_size": -1}, {"max_shard_size": "100kB"},
                   ("transformers",), 0.01),
    "gptq-skip": ("llama", {"bits": 4, "overrides": [SKIP_O]}, {}, BOTH, 0.5),
    "gptq-skip-one": ("llama", {"bits": 4, "overrides": [SKIP_O, ONE_SKIP]}, {}, BOTH, 0.5),
    "gptq-mixed": ("llama", {"bits": 4, "overrides": [DOWN_8, ONE_ASYM, ONE_SKIP]}, {}, ("gptqmodel",), 0.5),
    "ct-4": ("llama", {"bits": 4}, {}, ("transformers",), 0.5),
    "ct-4-asym": ("qwen2", {"bits": 4, "sym": False}, {"max_shard_size": "100kB"},
                  ("transformers",), 0.5),
    "ct-3-tied": ("llama-tied-bf16", {"bits": 3}, {}, ("transformers",), 6),
    "ct-8-row": ("mistral", {"bits": 8, "group_size": -1, "method": "rtn"}, {}, ("transformers",), 0.01),
    "ct-mixed": ("qwen3", {"bits": 4, "overrides": [DOWN_8, ONE_ASYM, ONE_SKIP]}, {}, ("transformers",), 0.5),
}


# ---- qjob ----


def byte_tokenizer():
    """tokenizer.json whose ids are bytes: the golden models have no tokenizer of their own."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    letters = [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "vocab": {c: i for i, c in enumerate(letters)}, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": None, "pre_tokenizer": level, "post_processor": None, "decoder": level,
            "model": model}


def make_model(name, work):
    folder = work / "models" / name
    if folder.exists():
        return folder
    shutil.copytree(GOLDEN / "models" / name, folder, ignore=shutil.ignore_patterns("expected*"))
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "!", "eos_token": "!"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def run_qjob(args, *command):
    env = dict(os.environ, QJOB_CACHE=str(args.work / "cache"))
    done = subprocess.run([args.qjob, *map(str, command)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"qjob {command[0]}: exit code {done.returncode}: {done.stderr.strip()}")


def pack(name, args):
    """Runs the recipe of a case; returns the source and the output folder."""
    model, quantize, packing, _, _ = CASES[name]
    source = make_model(model, args.work)
    out = args.work / "out" / name
    form = "compressed-tensors" if name.startswith("ct") else "gptq"
    recipe = {
        "qjob": 1,
        "model": {"source": str(source)},
        "calibration": {"dataset": [TEXT * 8], "samples": 8, "seqlen": 64},
        "quantize": {"method": "gptq", "group_size": 32, **quantize},
        "pack": {"format": form, **packing},
        "output": str(out),
    }
    path = args.work / f"{name}.yaml"
    path.write_text(json.dumps(recipe))  # JSON is YAML
    run_qjob(args, "run", "-q", path)
    return source, out


def forward(folder, ids, args):
    import safetensors.numpy as st

    asked, answer = args.work / "ids.safetensors", args.work / "logits.safetensors"
    st.save_file({"input_ids": ids}, asked)
    run_qjob(args, "forward", folder, "--ids", asked, "--output", answer)
    return st.load_file(answer)["logits"]


# ---- the file, read without any loader ----

TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BF16": "<u2"}


def read_tensors(folder):
    """{name: array} of a folder's safetensors files; bf16 is widened to float32."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        blob = path.read_bytes()
        start = 8 + int.from_bytes(blob[:8], "little")
        for name, info in json.loads(blob[8:start]).items():
            if name == "__metadata__":
                continue
            first, end = (start + x for x in info["data_offsets"])
            t = np.frombuffer(blob[first:end], TYPES[info["dtype"]]).reshape(info["shape"])
            tensors[name] = (t.astype("<u4") << 16).view("<f4") if info["dtype"] == "BF16" else t
    return tensors


def stream(words, bits, count):
    """Codes of a little-endian bit stream along the last axis of int32 words."""
    flat = np.unpackbits(np.ascontiguousarray(words).view("u1"), axis=-1, bitorder="little")
    return flat[..., : count * bits].reshape(*words.shape[:-1], count, bits) @ (1 << np.arange(bits))


def dequant_gptq(t, config):
    """Weights [out, in] and the step between their codes."""
    scales, g_idx = t["scales"].astype(np.float64), t["g_idx"]
    bits = t["qweight"].shape[0] * 32 // g_idx.size
    codes = stream(t["qweight"].T, bits, g_idx.size)
    zeros = stream(t["qzeros"], bits, scales.shape[1]) + (config["checkpoint_format"] == "gptq")
    step = scales[g_idx].T
    return step * (codes - zeros[g_idx].T), step


def dequant_packed(t, config):
    out, width = t["weight_shape"]
    scale = t["weight_scale"].astype(np.float64)
    bits = t["weight_packed"].shape[1] * 32 // width
    zeros = np.full(scale.shape, 1 << bits - 1)
    if "weight_zero_point" in t:
        zeros = stream(t["weight_zero_point"].T, bits, out).T
    spread = [np.repeat(x, width // scale.shape[1], 1) for x in (scale, zeros)]
    return spread[0] * (stream(t["weight_packed"], bits, width) - spread[1]), spread[0]


def quantized_linears(tensors, config):
    """{linear: (weights, steps)} as the file tells it."""
    gptq = config["quant_method"] == "gptq"
    mark, rule = (".qweight", dequant_gptq) if gptq else (".weight_packed", dequant_packed)
    found = {}
    for name in sorted(k[: -len(mark)] for k in tensors if k.endswith(mark)):
        own = {k[len(name) + 1:]: v for k, v in tensors.items() if k.startswith(name + ".")}
        found[name] = rule(own, config)
    return found


# ---- stock loaders ----


def load_transformers(folder, config):
    """The model, what its loading report complains of, and the type in which its kernel holds a weight."""
    from transformers import AutoModelForCausalLM, GPTQConfig

    choose, held = {}, "float32"
    if config and config["quant_method"] == "gptq":  # the exact kernel, not the fastest one of this CPU
        choose = {"quantization_config": GPTQConfig(config["bits"], backend="gptq_torch")}
        held = "float16"
    if config:
        choose["device_map"] = "cpu"
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True, **choose)
    return model, [f"{kind}: {sorted(map(str, keys))[:4]}" for kind, keys in report.items() if keys], held


def load_gptqmodel(folder, config):
    import torch
    from gptqmodel import BACKEND, GPTQModel

    loaded = GPTQModel.load(str(folder), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    return loaded.model, [], "float16"


LOADERS = {"transformers": load_transformers, "gptqmodel": load_gptqmodel}


def is_quantized(module):
    if hasattr(module, "qweight"):
        return True
    return getattr(getattr(module, "quantization_scheme", None), "weights", None) is not None


def logits_of(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids)).logits.float().numpy()


def misloaded(model, linears):
    """A linear that is quantized in the file or in the model, but not both."""
    modules = dict(model.named_modules())
    for name in sorted(set(linears) | {n for n, m in modules.items() if is_quantized(m)}):
        if name not in modules or not is_quantized(modules[name]):
            yield f"{name} is not quantized in the loaded model"
        elif name not in linears:
            yield f"{name} is quantized in the loaded model, and not in the file"


def wrong_weights(model, linears, held):
    """Each weight through its stock module, by one-hot inputs."""
    import torch

    modules = dict(model.named_modules())
    dtype = next(p.dtype for n, p in model.named_parameters() if "norm" in n)
    rounding = max(ROUNDING[held], ROUNDING[str(dtype)[6:]])
    for name, (want, step) in linears.items():
        bias = getattr(modules[name], "bias", None)
        bias = np.zeros(1) if bias is None else bias.detach().double().numpy()
        with torch.no_grad():
            got = modules[name](torch.eye(want.shape[1], dtype=dtype)).double().numpy()
        allowed = STEP_PART * step + rounding * (np.abs(want) + np.abs(bias)[..., None])
        worst = (np.abs((got - bias).T - want) / np.maximum(allowed, 1e-30)).max()
        if not worst <= 1:
            yield f"{name}: weights are {worst:.2f} times further off than allowed"


# ---- verdicts ----


def divergence(p, q):
    """Mean KL in nats of two sets of logits."""
    p, q = (x.astype(np.float64) for x in (p, q))
    p, q = (x - x.max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return (np.exp(p) * (p - q)).sum(-1).mean()


def judge(name, loader, folders, args):
    source, out = folders
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    linears = quantized_linears(read_tensors(out), config)
    model, complaints, held = LOADERS[loader](out, config)
    model.eval()
    complaints += misloaded(model, linears)
    if not linears:
        complaints.append("the file has no quantized linear")
    if complaints:  # what was not loaded must not run: its tensors are arbitrary
        return complaints
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, (2, 48))
    logits = logits_of(model, ids)
    complaints += wrong_weights(model, linears, held)
    full, _, _ = load_transformers(source, None)
    to_full = divergence(logits_of(full.float(), ids), logits)
    to_ours = divergence(forward(out, ids, args), logits)
    print(f"  {name} by {loader}: {len(linears)} linears, KL to full precision {to_full:.5f}, to qjob forward {to_ours:.2e}")
    if not to_full <= CASES[name][4]:
        complaints.append(f"KL to full precision is {to_full:.5f}, more than {CASES[name][4]}")
    most = TO_OURS[str(model.dtype)[6:]]
    if not to_ours <= most:
        complaints.append(f"KL to qjob forward is {to_ours:.2e}, more than {most}")
    return complaints


def verdicts(name, args):
    """Runs one case; returns how many of its loaders passed, and how many failed."""
    failed = 0
    loaders = CASES[name][3]
    try:
        folders = pack(name, args)
    except RuntimeError as e:
        print(f"FAIL: {name}: {e}", flush=True)
        return 0, len(loaders)
    for loader in loaders:
        began = time.monotonic()
        try:
            complaints = judge(name, loader, folders, args)
        except Exception as e:  # whatever stock software raises is the finding
            complaints = [f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"]
        for complaint in complaints[:5]:
            print(f"  {complaint}")
        failed += bool(complaints)
        word = "FAIL" if complaints else "PASS"
        print(f"{word}: {name} by {loader} ({time.monotonic() - began:.1f} s)", flush=True)
    return len(loaders) - failed, failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; default: all")
    parser.add_argument("--qjob", required=True)
    parser.add_argument("--work", required=True, type=Path)
    args = parser.parse_args()
    unknown = set(args.case) - set(CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    args.work = args.work.resolve()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    counts = [verdicts(name, args) for name in args.case or CASES]
    passed, failed = (sum(x) for x in zip(*counts))
    print(f"{passed} passed, {failed} failed", flush=True)
    os._exit(bool(failed))  # some loaders leave threads that would keep the process


if __name__ == "__main__":
    main()
