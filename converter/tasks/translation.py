"""Translation: a text in another language, by an encoder-decoder."""

from converter.tasks._writing import Writing


class Translation(Writing):
    """Decisions are the most likely token at each step of the source's own translation."""

    name = "translation"
    architecture = "MTModel"
    auto_class = "AutoModelForSeq2SeqLM"
    kind = "encoder-decoder"

    @property
    def client_class(self) -> str:
        return "ORTModelForSeq2SeqLM"
