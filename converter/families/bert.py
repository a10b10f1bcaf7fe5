"""BERT."""

from converter.families._bert_layers import BertLayers


class Bert(BertLayers):
    model_type = "bert"
