"""Gemma."""

from converter.families._llama_layers import LlamaLayers


class Gemma(LlamaLayers):
    model_type = "gemma"
