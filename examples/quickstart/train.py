#!/usr/bin/env python3
"""Trains the quick start's model: a Llama of 1.1 million parameters with its own byte-level BPE, on the Jargon File.

    python train.py text jargon.txt     # jargon.txt of Debian's package jargon-text -> text/*.txt
    python train.py tokenizer           # text/training.txt.xz -> model/tokenizer.json
    python train.py model               # trains, writes model/ (half a minute on a GPU, ten minutes on two CPU cores)

Needs torch, tokenizers, numpy. The bytes of the model depend on the machine that trains it; those kept here were
made on one NVIDIA H100.
"""
import json
import lzma
import math
import pathlib
import re
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
TEXT, MODEL = HERE / "text", HERE / "model"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
    "dtype": "bfloat16", "eos_token_id": 0, "head_dim": 32, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02,
    "intermediate_size": 384, "max_position_embeddings": 512, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": True, "use_cache": True,
    "vocab_size": 2048,
}
STEPS, BATCH, SEQLEN, RATE = 600, 48, 256, 4e-3


def make_text(source):
    """Paragraphs on one line each; every 24th entry is held out for evaluation, the calibration text is part of the rest."""
    lines = [l for l in pathlib.Path(source).read_text(encoding="utf-8").splitlines() if not re.search("[\u2500-\u257f]", l)]
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", "\n".join(lines))]
    paragraphs = [p for p in paragraphs if len(p) > 40]
    held = [i // 12 % 24 == 11 for i in range(len(paragraphs))]
    train = [p for p, h in zip(paragraphs, held) if not h]
    TEXT.mkdir(exist_ok=True)
    (TEXT / "training.txt.xz").write_bytes(lzma.compress("\n\n".join(train).encode(), preset=9))
    (TEXT / "calibration.txt").write_text("\n\n".join(train[::9]) + "\n", encoding="utf-8")
    (TEXT / "evaluation.txt").write_text("\n\n".join(p for p, h in zip(paragraphs, held) if h) + "\n", encoding="utf-8")


def training_text():
    return lzma.decompress((TEXT / "training.txt.xz").read_bytes()).decode()


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator([training_text()], trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    MODEL.mkdir(exist_ok=True)
    t.save(str(MODEL / "tokenizer.json"))
    (MODEL / "tokenizer_config.json").write_text(json.dumps({
        "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")


def make_network(torch):
    from torch import nn
    F = nn.functional
    c = CONFIG
    D, H, K, E = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(D))

        def forward(self, x):
            return x * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + c["rms_norm_eps"]).to(x.dtype) * self.weight

    def rotate(x):
        T = x.shape[2]
        f = torch.outer(torch.arange(T, device=x.device).float(), 1 / 10000.0 ** (torch.arange(0, E, 2, device=x.device).float() / E))
        cos, sin = (torch.cat([g, g], -1).to(x.dtype) for g in (f.cos(), f.sin()))
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat([-b, a], -1) * sin

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
            self.self_attn = nn.ModuleDict({n: nn.Linear(D, o, bias=False) for n, o in
                                            (("q_proj", H * E), ("k_proj", K * E), ("v_proj", K * E))})
            self.self_attn["o_proj"] = nn.Linear(H * E, D, bias=False)
            self.mlp = nn.ModuleDict({n: nn.Linear(D, c["intermediate_size"], bias=False) for n in ("gate_proj", "up_proj")})
            self.mlp["down_proj"] = nn.Linear(c["intermediate_size"], D, bias=False)

        def forward(self, x):
            h = self.input_layernorm(x)
            q, k, v = (self.self_attn[n](h).unflatten(-1, (-1, E)).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj"))
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=True)
            x = x + self.self_attn["o_proj"](y.transpose(1, 2).flatten(-2))
            h = self.post_attention_layernorm(x)
            return x + self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed_tokens = nn.Embedding(c["vocab_size"], D)
            self.layers = nn.ModuleList(Block() for _ in range(c["num_hidden_layers"]))
            self.norm = Norm()
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=0.02)

        def forward(self, ids):
            x = self.embed_tokens(ids)
            for block in self.layers:
                x = block(x)
            return self.norm(x) @ self.embed_tokens.weight.T

    return Network()


def write_safetensors(path, tensors):
    """bf16 tensors by name, sorted."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name in sorted(tensors):
        raw = tensors[name].detach().cpu().bfloat16().contiguous().view(dtype=__import__("torch").int16).numpy().tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def make_model():
    import torch
    from tokenizers import Tokenizer
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    ids = torch.tensor(tokenizer.encode(training_text()).ids, device=device)
    held = torch.tensor(tokenizer.encode((TEXT / "evaluation.txt").read_text(encoding="utf-8")).ids, device=device)
    net = make_network(torch).to(device)
    decayed = [p for p in net.parameters() if p.dim() == 2]
    rest = [p for p in net.parameters() if p.dim() != 2]
    best = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}], lr=RATE, betas=(0.9, 0.95))
    print(f"{sum(p.numel() for p in net.parameters())} parameters, {ids.numel()} training tokens, {held.numel()} held out", flush=True)

    def loss_of(rows):
        logits = net(rows[:, :-1]).float()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    for step in range(STEPS):
        rate = RATE * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        for group in best.param_groups:
            group["lr"] = rate
        at = torch.randint(0, ids.numel() - SEQLEN - 1, (BATCH,), device=device)
        loss = loss_of(ids[at[:, None] + torch.arange(SEQLEN + 1, device=device)])
        best.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        best.step()
        if step % 200 == 199:
            with torch.no_grad():
                n = held.numel() // SEQLEN
                test = loss_of(held[:n * SEQLEN].reshape(n, SEQLEN))
            print(f"step {step + 1} training loss {loss:.3f} held-out loss {test:.3f} perplexity {math.exp(test):.2f}", flush=True)
    names = {("model." + n): p for n, p in net.named_parameters()}
    write_safetensors(MODEL / "model.safetensors", names)
    (MODEL / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what == "text" and len(sys.argv) == 3:
        make_text(sys.argv[2])
    elif what == "tokenizer":
        make_tokenizer()
    elif what == "model":
        make_model()
    else:
        sys.exit(__doc__)
