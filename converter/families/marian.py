"""Marian."""

from converter.families._bart_layers import BartLayers


class Marian(BartLayers):
    model_type = "marian"
