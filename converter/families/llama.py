"""Llama."""

from converter.families._llama_layers import LlamaLayers


class Llama(LlamaLayers):
    model_type = "llama"
