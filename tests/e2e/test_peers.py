"""preset: compat against checkpoints that the peers wrote (tests/golden/peers): round to nearest byte for byte, GPTQ code for
code where the inputs are the same to the bit (q, k, v of block 0), and close behind."""
from qjob import *

PEERS, MODELS = SOURCE / "tests/golden/peers", SOURCE / "tests/golden/models"
GPTQ, CT = ("qweight", "qzeros", "scales", "g_idx"), ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def make(p, model, quantize, pack):
    p.write("r.yaml", {"qjob": 1, "model": {"source": str(MODELS / model)},
                       "calibration": {"dataset": str(PEERS / "calibration.jsonl"), "samples": 32, "seqlen": 64},
                       "quantize": {"preset": "compat", "group_size": 32, **quantize}, "pack": pack, "output": "out"})
    p.qjob("run", "r.yaml", "-q")
    return read_tensors(p.dir / "out/model.safetensors")


def compare(have, golden, names, parts):
    """Every named tensor of every linear, bit for bit; how many."""
    n = 0
    for name, value in read_tensors(PEERS / golden / "model.safetensors").items():
        linear, _, part = name.rpartition(".")
        if part in parts and names in linear:
            equal(have.get(name), value, golden, name)
            n += 1
    check(n > 0, golden, "nothing compared")
    return n


def nearest_is_theirs():
    rows = [
        ("gptqmodel-llama_tied_bf16-rtn-w4g32sym", "llama-tied-bf16", {"bits": 4}, {}, GPTQ),
        ("gptqmodel-llama_tied_bf16-rtn-w8g32sym", "llama-tied-bf16", {"bits": 8}, {}, GPTQ),
        ("gptqmodel-llama_tied_bf16-rtn-w3g32sym", "llama-tied-bf16", {"bits": 3}, {}, GPTQ),
        ("gptqmodel-qwen2-rtn-w4g32asym-v2", "qwen2", {"bits": 4, "sym": False}, {"checkpoint_format": "gptq_v2"}, GPTQ),
        ("llmcompressor-llama_tied_bf16-rtn-w4g32sym", "llama-tied-bf16", {"bits": 4}, {"format": "compressed-tensors"}, CT),
        ("llmcompressor-llama_tied_bf16-rtn-w3g32sym", "llama-tied-bf16", {"bits": 3}, {"format": "compressed-tensors"}, CT),
        ("llmcompressor-qwen2-rtn-w4g32asym", "qwen2", {"bits": 4, "sym": False}, {"format": "compressed-tensors"}, CT),
    ]
    for golden, model, quantize, pack, parts in rows:
        with place() as p:
            compare(make(p, model, {"method": "rtn", **quantize}, pack), golden, "", parts)


def codes_apart(have, want, bits):
    """The share of codes that differ, 4 or 8 bits, and whether one is more than a step away."""
    differ = total = 0
    for a, b in zip(have, want):
        for at in range(0, 8, bits):
            x, y = a >> at & (1 << bits) - 1, b >> at & (1 << bits) - 1
            differ += x != y
            total += 1
    return differ / total


def gptq_is_theirs():
    rows = [
        ("gptqmodel-llama-gptq-w4g32sym", {}, {}, GPTQ, True),
        ("gptqmodel-llama-gptq-w4g32sym-descact", {"desc_act": True}, {}, GPTQ, True),
        ("gptqmodel-llama-gptq-w4g32sym-down8", {"overrides": [{"match": "*.down_proj", "bits": 8}]}, {}, GPTQ, True),
        # llm-compressor's later linears see their unquantized neighbours, so only what all of it shares is compared.
        ("llmcompressor-llama-gptq-w4g32sym", {"actorder": "static", "true_sequential": False}, {"format": "compressed-tensors"}, CT, False),
    ]
    for golden, quantize, pack, parts, follow in rows:
        with place() as p:
            have = make(p, "llama", {"method": "gptq", "damp_percent": 0.01, **quantize}, pack)
            n = sum(compare(have, golden, f"layers.0.self_attn.{x}_proj", parts) for x in "qkv")
            equal(n, 3 * (len(parts) - (parts is CT)), golden)
            if not follow:
                continue
            for name, (_, _, codes) in read_tensors(PEERS / golden / "model.safetensors").items():
                if name.endswith("qweight"):
                    bits = 8 if "down8" in golden and "down_proj" in name else 4
                    share = codes_apart(have[name][2], codes, bits)
                    check(share < 0.2, golden, name, f"{100 * share:.1f} % of codes differ")


if __name__ == "__main__":
    main([nearest_is_theirs, gptq_is_theirs])
