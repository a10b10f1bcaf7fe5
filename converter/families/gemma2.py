"""Gemma2."""

from converter.families._llama_layers import LlamaLayers


class Gemma2(LlamaLayers):
    model_type = "gemma2"
