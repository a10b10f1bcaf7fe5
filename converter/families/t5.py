"""T5."""

from converter.families._t5_layers import T5Layers


class T5(T5Layers):
    model_type = "t5"
