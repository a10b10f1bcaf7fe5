"""M2M100."""

from converter.families._bart_layers import BartLayers


class M2m100(BartLayers):
    model_type = "m2m_100"
