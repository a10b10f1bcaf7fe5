"""One small BERT, trained from nothing on generated text by `distill.hard`, and kept only if it learned its task."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError

if TYPE_CHECKING:
    from converter.stage import Progress

Row = dict[str, Any]
"""One line of a data file, under the names that `converter.data.files` reads."""

SEED = 0
MAX_LENGTH = 128
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CARD = """---
license: apache-2.0
---
# {name}

{summary}

Made and trained by `sample_models/{name}.py` of plm-export on text that the same code generates: a small working model
to try the tool with, not one to use. On held-out generated text:
{metric} {value:.4f} (chance {chance:.4f}).
"""


@dataclass(frozen=True)
class SampleSpec:
    """What is learned, how long, and how well it must be known in the end."""

    name: str
    summary: str
    task: str
    train: Sequence[Row]
    held_out: Sequence[Row]
    labels: tuple[str, ...] = ()
    suffix: str = ".jsonl"
    lower_case: bool = True
    vocabulary: int = 2000
    hidden: int = 128
    layers: int = 2
    epochs: int = 4
    rate: float = 1e-3
    least: float = 0.95
    """Least metric on `held_out`: below it the sample is an error, never a silently bad model."""


def train_sample(spec: SampleSpec, folder: Path, progress: "Progress") -> None:
    """Write model, tokenizer, `train` and `eval` files into `folder`.

    Raises:
        SourceError: the trained model is below `spec.least` on text it was not trained on.

    """
    from converter.data.files import read_examples
    from converter.distill.hard import HardLabels
    from converter.model_folder.load import load_source
    from converter.stage import Context, run_stage

    train_file = write_rows(folder / f"train{spec.suffix}", spec.train)
    eval_file = write_rows(folder / f"eval{spec.suffix}", spec.held_out)
    _write_untrained(spec, folder)
    model = load_source(str(folder))
    with tempfile.TemporaryDirectory() as work:
        ctx = Context(Path(work), SEED, calibration=read_examples(train_file, model.task), progress=progress)
        trained, _ = run_stage(HardLabels(epochs=spec.epochs, learning_rate=spec.rate), model, ctx)
    trained.module.save_pretrained(folder)  # type: ignore[operator]
    metric, value, chance = _score(folder, eval_file, progress)
    if value < spec.least:
        raise SourceError(
            f"it reached {metric} {value:.4f} on held-out text, wanted {spec.least}",
            where=f"sample:{spec.name}",
            hint="it was not kept; please report this with the versions that `plm-export doctor` prints",
        )
    card = CARD.format(name=spec.name, summary=spec.summary, metric=metric, value=value, chance=chance)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as lines of JSON, or as a table where the file is a `.tsv`; returns the path."""
    if path.suffix == ".tsv":
        lines = ["\t".join(rows[0]), *("\t".join(str(v) for v in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _texts(value: Any) -> Iterator[str]:
    """Yield all text in a row, however deep."""
    if isinstance(value, str):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _texts(item)


def _tokenizer(spec: SampleSpec) -> Any:
    """Learn a WordPiece vocabulary from the training text alone."""
    import tokenizers
    import transformers

    learner = tokenizers.BertWordPieceTokenizer(lowercase=spec.lower_case)
    ascii_letters = [chr(c) for c in range(33, 127)]
    learner.train_from_iterator(
        _texts(list(spec.train)),
        vocab_size=spec.vocabulary,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ascii_letters,
        show_progress=False,
    )
    return transformers.BertTokenizer(
        vocab=learner.get_vocab(), do_lower_case=spec.lower_case, model_max_length=MAX_LENGTH
    )


def _write_untrained(spec: SampleSpec, folder: Path) -> None:
    """Write a model that knows nothing, its weights drawn from the seed, and its tokenizer."""
    import torch
    import transformers

    from converter.registry import task_class

    tokenizer = _tokenizer(spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = getattr(transformers, task_class(spec.task).auto_class).from_config(_config(spec, len(tokenizer)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _config(spec: SampleSpec, vocabulary: int) -> Any:
    import transformers

    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.hidden // 32,
        intermediate_size=spec.hidden * 4,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=spec.hidden**-0.5,  # BERT's 0.02 is for a width of 768: here attention would start flat
    )
    if spec.labels:
        config.id2label = dict(enumerate(spec.labels))
        config.label2id = {label: i for i, label in enumerate(spec.labels)}
    return config


def _score(folder: Path, eval_file: Path, progress: "Progress") -> tuple[str, float, float]:
    """Return the metric's name, its value and chance on held-out text, of the saved model read back as any source."""
    from converter.data.files import read_examples
    from converter.model_folder.load import load_source
    from converter.reference import capture_reference

    source = load_source(str(folder))
    reference = capture_reference(source, read_examples(eval_file, source.task), progress)
    assert reference.chance is not None
    return source.task.metric_name, reference.metric[source.task.metric_name], reference.chance
