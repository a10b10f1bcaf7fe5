"""Text generation: what a causal language model writes after a text."""

from converter.tasks._writing import Writing


class TextGeneration(Writing):
    """Decisions are the most likely token at each step of the source's own continuation."""

    name = "text-generation"
    architecture = "ForCausalLM"
    auto_class = "AutoModelForCausalLM"
    kind = "decoder"
