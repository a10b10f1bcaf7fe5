"""Qwen3."""

from converter.families._llama_layers import LlamaLayers


class Qwen3(LlamaLayers):
    model_type = "qwen3"
