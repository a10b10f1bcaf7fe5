"""Text to text: what an encoder-decoder writes about a text, whatever it was trained for."""

from converter.tasks._writing import Writing


class TextToText(Writing):
    """Decisions are the most likely token at each step of the source's own answer."""

    name = "text2text-generation"
    architecture = "ForConditionalGeneration"
    auto_class = "AutoModelForSeq2SeqLM"
    kind = "encoder-decoder"
    metric_name = "rouge_l"

    @property
    def client_class(self) -> str:
        return "ORTModelForSeq2SeqLM"
