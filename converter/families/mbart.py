"""mBART."""

from converter.families._bart_layers import BartLayers


class Mbart(BartLayers):
    model_type = "mbart"
