"""Text generation: what a causal language model writes after a text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.examples import Encoding, Example, References
from converter.generate.forcing import forced_pieces
from converter.graphs import GraphSpec, Run
from converter.scoring.continuation import perplexity, surprise
from converter.task import Judged
from converter.tasks._writing import FROM_CACHE, Writing

if TYPE_CHECKING:
    from numpy.typing import NDArray

SURPRISE = "surprise"
"""Among what a text is scored by: minus the log probability of each token of it, or of its completion."""


class TextGeneration(Writing):
    """Decisions are the most likely token at each step of the source's own continuation."""

    name = "text-generation"
    architecture = "ForCausalLM"
    auto_class = "AutoModelForCausalLM"
    kind = "decoder"
    metric_name = "perplexity"
    lower_is_better = True

    def scored_outputs(
        self, specs: Mapping[str, GraphSpec], run: Run, one: Example, encoding: Encoding
    ) -> "Mapping[str, NDArray[Any]]":
        """Return how surprising the text is, or the completion that follows it; and what the model writes instead."""
        assert isinstance(one.label, References)
        given = encoding.inputs["input_ids"]
        made: dict[str, NDArray[Any]] = {}
        if one.label.texts:
            made |= super().scored_outputs(specs, run, one, encoding)
        rest = self._completion(one.label.texts[0]) if one.label.texts else given[:0]
        context = self.settings.context
        ids = np.concatenate([given, rest])[:context]
        if len(ids) > 1:
            feed = {"input_ids": ids[None], "attention_mask": np.ones_like(ids[None])}
            parts, after = [], len(given) if len(rest) else 1
            for place, logits in forced_pieces(run, specs, feed, None, (max(1, len(ids) - FROM_CACHE),)):
                told = ids[place.start + 1 : place.stop + 1]  # by each step but the last
                own = slice(max(0, after - 1 - place.start), len(told))
                parts.append(surprise(logits[0][own], told[own]))
                del logits  # before the next piece is made
            made[SURPRISE] = np.concatenate(parts)
        return made

    def _completion(self, text: str) -> "NDArray[np.int64]":
        """Return the tokens of a text that stands behind another."""
        spaced = text if text[:1].isspace() else f" {text}"
        return np.asarray(self._tokenizer(spaced, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)

    def metric(self, judged: Sequence[Judged]) -> dict[str, float]:
        """Return the perplexity of all texts, every token alike; where there are completions, their scores too."""
        every = [j.outputs[SURPRISE] for j in judged if len(j.outputs.get(SURPRISE, ()))]
        return ({self.metric_name: perplexity(every)} if every else {}) | super().metric(judged)

    def chance(self, examples: Sequence[Example]) -> float:
        """A model that knows nothing holds every token for as likely."""
        return float(self.config.vocab_size)
