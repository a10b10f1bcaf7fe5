"""Qwen2."""

from converter.families._llama_layers import LlamaLayers


class Qwen2(LlamaLayers):
    model_type = "qwen2"
