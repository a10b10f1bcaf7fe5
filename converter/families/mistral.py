"""Mistral."""

from converter.families._llama_layers import LlamaLayers


class Mistral(LlamaLayers):
    model_type = "mistral"
