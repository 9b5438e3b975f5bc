#!/usr/bin/env python3
"""Writes the small-* models beside this file: what the larger ones leave out (biases, sliding windows, linear rope).

Each folder has config.json, model.safetensors and expected.safetensors (input_ids, hidden_states.0 .. L, logits of the
fp32 model by Transformers, eager attention).  Made with transformers 5.17.0, torch 2.11.0, safetensors 0.8.0.
"""
import json
import os

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

BASE = dict(vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.3, bos_token_id=1, eos_token_id=2)

MODELS = {
    "small-llama-bias": LlamaConfig(**BASE, attention_bias=True, mlp_bias=True, hidden_act="gelu_pytorch_tanh"),
    "small-llama-linear": LlamaConfig(**BASE, hidden_act="gelu",
                                      rope_parameters=dict(rope_type="linear", rope_theta=1000.0, factor=3.0)),
    "small-mistral-window": MistralConfig(**BASE, sliding_window=5),
    "small-qwen2-window": Qwen2Config(**BASE, use_sliding_window=True, sliding_window=6, max_window_layers=1),
    "small-qwen3-bias": Qwen3Config(**BASE, attention_bias=True, head_dim=6, tie_word_embeddings=True),
}


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    for number, (name, config) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config).float().eval()
        for parameter in model.parameters():  # norms and biases start as ones and zeros
            if parameter.dim() == 1:
                parameter.data += 0.2 * torch.randn_like(parameter)
        folder = os.path.join(here, name)
        model.save_pretrained(folder)
        os.remove(os.path.join(folder, "generation_config.json"))
        ids = torch.randint(0, config.vocab_size, (2, 24))
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
        tensors = {"input_ids": ids, "logits": out.logits.contiguous()}
        tensors.update({f"hidden_states.{i}": h.contiguous() for i, h in enumerate(out.hidden_states)})
        save_file(tensors, os.path.join(folder, "expected.safetensors"))
        print(name, json.load(open(os.path.join(folder, "config.json"))).get("layer_types"))


main()
