"""Smaller models that write text, all the way: a folder, a recipe, a package that passes its gate and answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.api import convert, verify
from converter.model_folder.load import load_source
from converter.package.answer import open_for_answers
from converter.validate.checks import Status
from tests.tiny import SENTENCES
from tests.tiny_text import save_causal, save_marian

KINDS: dict[str, tuple[Callable[[Path], Path], list[dict[str, Any]]]] = {
    "gpt2": (
        save_causal,
        [{"stage": "prune.layers", "indices": [0]}],
    ),
    "marian": (
        save_marian,
        [
            {"stage": "trim.vocabulary"},
            {
                "stage": "prune.structured",
                "heads": 0.25,
                "ffn": 0.5,
                "scope": "layer",
                "score": "magnitude",
                "steps": 1,
                "round_to": 4,
            },
        ],
    ),
}


def idle(folder: Path) -> None:
    """Let the last layer of a causal model, and half of an encoder-decoder's neurons, write nothing."""
    import torch

    from converter.surgery.cut import matrix_of
    from converter.surgery.resize import family_of

    source = load_source(str(folder))
    parts = family_of(source).layers(source.module)
    with torch.no_grad():
        for i, part in enumerate(parts):
            if source.task.kind == "decoder" and i == len(parts) - 1:
                for linear in (part.attention_output, part.ffn_output):
                    linear.weight.zero_()
                    linear.bias.zero_()
            if source.task.kind != "decoder":
                matrix_of(part.ffn_output)[:, 1::2] = 0
                matrix_of(part.attention_output)[:, : part.head_dim] = 0
                if part.cross:
                    matrix_of(part.cross.attention_output)[:, : part.cross.head_dim] = 0
    source.module.save_pretrained(folder)  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_what_writes_nothing_goes_and_the_package_answers_as_its_source(kind: str, tmp_path: Path) -> None:
    save, stages = KINDS[kind]
    folder = save(tmp_path / "model")
    idle(folder)
    table = {"model": str(folder), "targets": ["cpu-int8"], "quantize": {"cpu-int8": "none"}, "compress": stages}
    if stages[0]["stage"] == "trim.vocabulary":
        # Text whose tokens are kept, and nothing else to be judged by.
        file = tmp_path / "texts.txt"
        pairs = [(SENTENCES[i], SENTENCES[i - n]) for n in (1, 3) for i in range(len(SENTENCES))]
        file.write_text("".join(f"{text}\n" for text in (*SENTENCES, *(f"{a}, {b}" for a, b in pairs))))
        table |= {"calibration": str(file), "eval": str(file)}
    made = convert(table, tmp_path / "out")
    (target,) = made.targets
    assert target.evaluation is not None, target.error
    assert target.status is Status.PASS, target.error
    checks = {check.name: check for check in target.evaluation.checks}
    assert checks["generation"].status is Status.PASS
    # With a trimmed vocabulary, an edge case after which the source writes a token that is gone counts as different.
    assert (checks["generation"].value or 0) >= (0.9 if kind == "marian" else 1.0)
    verify(tmp_path / "out" / "cpu-int8")
    source = load_source(str(folder))
    package = open_for_answers(tmp_path / "out" / "cpu-int8")
    assert (len(package.tokenizer) < len(source.tokenizer)) == (kind == "marian")
    task: Any = source.task
    settings = package.settings({"max_new_tokens": 8})
    for text in SENTENCES[:3]:
        from converter.generate.loop import generate
        from converter.reference import torch_run

        asked = task.encode(source.tokenizer, _example(text), 64)
        own = task.settings.__class__(**{**vars(task.settings), "max_new_tokens": 8, "max_length": None})
        (wanted,) = generate(torch_run(source), source.specs, task.prompt_of(asked), own).texts(own)
        assert package.write(text, settings, lambda _: None).strip() == task.read_written(wanted)


def _example(text: str) -> Any:
    from converter.examples import Example

    return Example(text)
