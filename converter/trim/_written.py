"""The tokens of what a model writes: right answers as it would write them, and what it writes itself."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from converter.data.probes import even_sample
from converter.examples import References
from converter.generate.loop import generate
from converter.reference import feed_of, torch_run

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.examples import Example
    from converter.stage import Context

OWN = 512
"""Texts that the model itself answers, or continues: what it then writes it can write afterwards."""
AT_ONCE = 32
LONGEST = 64
"""Tokens of such an answer."""
WHOLE = 1 << 20


def count_written(
    model: "TorchModel", examples: "Sequence[Example]", more: Sequence[str], ctx: "Context"
) -> Counter[int]:
    """Return how often each token occurs in right answers to `examples`, in `more` and in what the model answers."""
    found: Counter[int] = Counter()
    if model.cache is None:
        return found
    task: Any = model.task
    right = [t for e in examples if isinstance(e.label, References) for t in e.label.texts]
    for text in (*right, *more):
        found.update(task.answer_ids(text, WHOLE).tolist())
    own = even_sample(examples, OWN) if examples else ()
    asked = [task.encode(model.tokenizer, replace(e, label=None), model.max_length) for e in own]
    asked.sort(key=lambda encoding: encoding.length)
    settings = replace(task.settings, sample=False, beams=1, max_new_tokens=LONGEST)
    run, specs = torch_run(model), model.specs
    with ctx.progress.task("Reading what the model writes", total=len(asked)) as ticker:
        for begin in range(0, len(asked), AT_ONCE):
            batch = asked[begin : begin + AT_ONCE]
            for ids in generate(run, specs, feed_of(model, batch), settings).texts(settings):
                found.update(ids)
            ticker.advance(len(batch))
    return found
