"""XLM-RoBERTa."""

from converter.families._bert_layers import BertLayers


class XlmRoberta(BertLayers):
    model_type = "xlm-roberta"
