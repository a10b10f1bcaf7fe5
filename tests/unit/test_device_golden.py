"""The table of golden vectors: small, and with something of every text, however wide the outputs are."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.device.facts import DeviceFacts
from converter.device.golden_table import GOLDEN_FILE, MAX_VALUES, write_golden_table
from converter.device.shipped_files import check_golden_table
from converter.device.writing.golden import check_recorded
from converter.errors import PackageDamaged
from converter.examples import Encoding, Example
from converter.package.golden import Golden

MASK = 4


@dataclass(frozen=True)
class Task:
    """Encodes a text of n words as n tokens; masks are those that say so."""

    prompt: str = ""

    def encode(self, _tokenizer: object, example: Example, _max_length: int) -> Encoding:
        ids = np.array([MASK if w == "M" else 7 for w in example.text.split()])
        masked = tuple((i, -1) for i, x in enumerate(ids) if x == MASK)
        n = len(ids)
        return Encoding({"input_ids": ids}, (None,) * n, (0,) * n, ((0, 1),) * n, truncated=False, masked=masked)

    def decisions(self, judged: Any) -> list[Any]:
        return [tuple(int(np.argmax(row)) for row in j.outputs["logits"]) for j in judged]


@dataclass(frozen=True)
class Source:
    max_length: int = 512
    tokenizer: object = None
    task: Task = field(default_factory=Task)


def written(folder: Path, kind: str, texts: list[str], outputs: list[dict[str, np.ndarray]]) -> list[list[str]]:
    """Write the table of these texts and outputs; returns its rows."""
    width = next(iter(outputs[0].values())).shape[-1]
    facts = DeviceFacts("m", kind, (512,), ("input_ids",), tuple(outputs[0]), width, (), {}, "BPE", own_tokenizer=False)
    golden = Golden(
        examples=tuple(Example(t) for t in texts),
        ids=tuple({"input_ids": np.array([MASK if w == "M" else 7 for w in t.split()])} for t in texts),
        package=tuple(outputs),
        source=tuple(outputs),
        output_range=dict.fromkeys(outputs[0], 1.0),
    )
    assert write_golden_table(golden, Source(), facts, 0.1, folder) == len(texts)  # type: ignore[arg-type]
    lines = (folder / GOLDEN_FILE).read_text("utf-8").splitlines()
    return [line.split("\t") for line in lines if line.startswith("text\t")]


def read(row: list[str], raw: dict[str, np.ndarray]) -> int:
    """Return how many numbers a row holds; each is what stands at its place in the raw output."""
    assert row[7::3] == list(raw)
    total = 0
    for name, runs, numbers in zip(row[7::3], row[8::3], row[9::3], strict=True):
        found = np.array(numbers.split(), np.float32)
        places = [np.arange(int(b), int(b) + int(n)) for b, n in (r.split(":") for r in runs.split())]
        np.testing.assert_allclose(raw[name].ravel()[np.concatenate(places)], found, rtol=1e-6)
        assert len(found) > 0
        total += len(found)
    return total


def test_small_outputs_are_recorded_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["a b c", "a"]
    made = [{"logits": rng.normal(size=(len(t.split()), 5)).astype(np.float32)} for t in texts]
    rows = written(tmp_path, "tokens", texts, made)
    assert [read(row, raw) for row, raw in zip(rows, made, strict=True)] == [15, 5]


@pytest.mark.parametrize(("width", "words"), [(384, 500), (4096, 100), (50_000, 3)])
def test_of_outputs_that_are_too_many_every_text_keeps_some(width: int, words: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["a " * n for n in (words, words, 2, words)]
    made = [{"last_hidden_state": rng.normal(size=(len(t.split()), width)).astype(np.float32)} for t in texts]
    rows = written(tmp_path, "tokens", texts, made)
    counts = [read(row, raw) for row, raw in zip(rows, made, strict=True)]
    assert sum(counts) <= MAX_VALUES + len(texts)
    # The shortest text is whole where it can be: it has an answer that is read from it.
    assert (counts[2] == 2 * width) == (2 * width <= MAX_VALUES / 2)
    assert min(counts) > 700


def test_two_outputs_of_a_text_share_its_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["a " * 512] * 100
    made = [{n: rng.normal(size=512).astype(np.float32) for n in ("start_logits", "end_logits")} for _ in texts]
    counts = [read(r, raw) for r, raw in zip(written(tmp_path, "span", texts, made), made, strict=True)]
    assert sum(counts) <= MAX_VALUES
    assert min(counts) > 100


def test_of_fill_mask_each_masks_best_token_is_recorded_at_its_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vocabulary, texts = 30_000, ["a M b M", "M", "a b", "M " * 40]
    raw = [{"logits": rng.normal(size=(len(t.split()), vocabulary)).astype(np.float32)} for t in texts]
    places = [[i for i, w in enumerate(t.split()) if w == "M"] or [0] for t in texts]
    # Best at either end of the vocabulary, too.
    raw[1]["logits"][0, 0] = raw[0]["logits"][3, -1] = 99
    made = [{"logits": r["logits"][p]} for r, p in zip(raw, places, strict=True)]
    rows = written(tmp_path, "mask", texts, made)
    counts = [read(row, r) for row, r in zip(rows, raw, strict=True)]
    assert MAX_VALUES / 2 < sum(counts) <= MAX_VALUES
    for row, r, masks in zip(rows, raw, places, strict=True):
        runs = [tuple(map(int, run.split(":"))) for run in row[8].split()]
        assert [begin // vocabulary for begin, _ in runs] == masks
        for (begin, n), place in zip(runs, masks, strict=True):
            assert begin <= place * vocabulary + int(np.argmax(r["logits"][place])) < begin + n


SOUND = ["text", "a b", "-", "7 7", "0 0", "0 0", "", "logits", "0:2", "1 2"]


def shipped() -> Any:
    """Return what two tables are held to: one text of two tokens, which was answered, or continued, by two numbers."""
    ids = {"input_ids": np.array([7, 7]), "written": np.array([1, 2])}
    golden = Golden((Example("a b"),), (ids,), ({"logits": np.array([1.0, 2.0])},), ({},), {})
    manifest = SimpleNamespace(beside={"golden_texts": 1}, replay_tolerance=0.5)
    backend = SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(f"<{i}>" for i in ids))
    encodings = [SimpleNamespace(masked=())]
    tokenizer = SimpleNamespace(backend_tokenizer=backend)
    return SimpleNamespace(golden=golden, manifest=manifest, tokenizer=tokenizer, encodings=encodings, task=Task())


def table(folder: Path, *rows: list[str]) -> Path:
    path = folder / GOLDEN_FILE
    path.write_text("".join("\t".join(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_sound_table_of_golden_vectors_is_taken_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    tolerance = ["tolerance", "0.5"]
    check_golden_table(shipped(), table(tmp_path, tolerance, SOUND))
    damaged = [SOUND[:n] for n in range(1, len(SOUND))]
    damaged += [[*SOUND[:8], run, numbers] for run, numbers in (("0:x", "1 2"), ("0", "1 2"), ("", ""), ("0:2", "1 b"))]
    for row in damaged:
        with pytest.raises(PackageDamaged, match="is not that of the golden vectors"):
            check_golden_table(shipped(), table(tmp_path, tolerance, row))
    with pytest.raises(PackageDamaged, match="it has 0 texts"):
        check_golden_table(shipped(), table(tmp_path))


def test_the_sound_table_of_recorded_texts_is_taken_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    sound = ["text", "a b", "7 7", "1 2", "<1> <2>"]
    check_recorded(shipped(), table(tmp_path, ["steps", "2"], sound))
    for row in (*(sound[:n] for n in range(1, 5)), [*sound[:3], "1 x", ""], [*sound[:3], "", ""], [*sound, "more"]):
        with pytest.raises(PackageDamaged, match="is not that of the golden vectors"):
            check_recorded(shipped(), table(tmp_path, ["steps", "2"], row))
