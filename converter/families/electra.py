"""ELECTRA."""

from converter.families._bert_layers import BertLayers


class Electra(BertLayers):
    model_type = "electra"
