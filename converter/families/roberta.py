"""RoBERTa."""

from converter.families._bert_layers import BertLayers


class Roberta(BertLayers):
    model_type = "roberta"
