"""BART."""

from converter.families._bart_layers import BartLayers


class Bart(BartLayers):
    model_type = "bart"
