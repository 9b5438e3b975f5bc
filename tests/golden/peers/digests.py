#!/usr/bin/env python3
"""Prints, for each folder here, the SHA-256 of all its dequantized linears: fp32, [out, in], in order of their names.

The table of tests/stages/test_formats.c.  numpy alone, bit by bit, sharing nothing with qjob or the peers."""
import hashlib
import json
import pathlib
import re

import numpy as np

TYPES = {"F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "BF16": "<u2"}


def read(path):
    blob = path.read_bytes()
    start = 8 + int.from_bytes(blob[:8], "little")
    tensors = {}
    for name, info in json.loads(blob[8:start]).items():
        if name == "__metadata__":
            continue
        a, b = (start + x for x in info["data_offsets"])
        t = np.frombuffer(blob[a:b], TYPES[info["dtype"]]).reshape(info["shape"])
        tensors[name] = (t.astype("<u4") << 16).view("<f4") if info["dtype"] == "BF16" else t
    return tensors


def stream(words, bits, n):
    """n codes of a little-endian bit stream along the last axis."""
    flat = np.unpackbits(np.ascontiguousarray(words).view("u1"), axis=-1, bitorder="little")
    return flat[..., : n * bits].reshape(*words.shape[:-1], n, bits) @ (1 << np.arange(bits))


def gptq(t, name, config):
    scales = t[name + ".scales"].astype("f4")
    g_idx = t[name + ".g_idx"]
    bits = t[name + ".qweight"].shape[0] * 32 // len(g_idx)
    codes = stream(t[name + ".qweight"].T, bits, len(g_idx))
    zeros = stream(t[name + ".qzeros"], bits, scales.shape[1]) + (config["checkpoint_format"] == "gptq")
    return scales[g_idx].T * (codes - zeros[g_idx].T).astype("f4")


def packed(t, name, config):
    args = config["config_groups"]["group_0"]["weights"]
    bits, (out, width) = args["num_bits"], t[name + ".weight_shape"]
    codes = stream(t[name + ".weight_packed"], bits, width)
    scale = t[name + ".weight_scale"].astype("f4")
    zeros = np.full(scale.shape, 1 << bits - 1)
    if not args["symmetric"]:
        zeros = stream(t[name + ".weight_zero_point"].T, bits, out).T
    repeat = width // scale.shape[1]
    return np.repeat(scale, repeat, 1) * (codes - np.repeat(zeros, repeat, 1)).astype("f4")


for folder in sorted(p.parent for p in pathlib.Path(__file__).parent.glob("*/config.json")):
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    t = read(folder / "model.safetensors")
    rule, mark = (gptq, ".qweight") if config["quant_method"] == "gptq" else (packed, ".weight_packed")
    digest = hashlib.sha256()
    for name in sorted(n[: -len(mark)] for n in t if n.endswith(mark)):
        digest.update(np.ascontiguousarray(rule(t, name, config), "<f4").tobytes())
    print(f'\t{{"{folder.name}", "{digest.hexdigest()}"}},')
