"""mT5."""

from converter.families._t5_layers import T5Layers


class Mt5(T5Layers):
    model_type = "mt5"
