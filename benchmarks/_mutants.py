"""Faults that are planted into the files of a good package: one function a kind, in place, from a seed.

A kind that a package has no place for raises `NoPlace`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Plant = Callable[[Path, np.random.Generator], str]
"""Changes a folder; returns a line about what was done."""


class NoPlace(Exception):
    """The package has nothing that this fault could sit in."""


def table_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write(path: Path, table: Any) -> None:
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False), encoding="utf-8")


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / name
    if not path.is_file():
        raise NoPlace(name)
    table = table_of(path)
    change(table)
    write(path, table)


def labels_swapped(folder: Path, random: np.random.Generator) -> str:
    """The names of two classes change places in every file that has them."""
    config = table_of(folder / "config.json")
    names = config.get("id2label") or {}
    if len(names) < 2 or not (folder / "labels.txt").is_file():
        raise NoPlace("labels")
    a, b = (str(i) for i in random.choice(len(names), 2, replace=False))
    names[a], names[b] = names[b], names[a]
    write(folder / "config.json", config | {"label2id": {v: int(k) for k, v in names.items()}})
    lines = [names[str(i)] for i in range(len(names))]
    (folder / "labels.txt").write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
    return f"{a} and {b}"


def label_renamed(folder: Path, random: np.random.Generator) -> str:
    config = table_of(folder / "config.json")
    names = config.get("id2label") or {}
    if len(names) < 2 or not (folder / "labels.txt").is_file():
        raise NoPlace("labels")
    place = str(random.integers(len(names)))
    names[place] = "LABEL_X"
    write(folder / "config.json", config | {"label2id": {v: int(k) for k, v in names.items()}})
    return place


def labels_file_swapped(folder: Path, _random: np.random.Generator) -> str:
    path = folder / "labels.txt"
    if not path.is_file():
        raise NoPlace("labels.txt")
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{x}\n" for x in lines[1:] + lines[:1]), encoding="utf-8")
    return "turned by one"


def cuts_early(folder: Path, random: np.random.Generator) -> str:
    length = int(random.choice([8, 16, 24]))
    edit(folder, "tokenizer_config.json", lambda t: t.update(model_max_length=length))
    return f"{length} tokens"


def cuts_inside(folder: Path, _random: np.random.Generator) -> str:
    cut = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    edit(folder, "tokenizer.json", lambda t: t.update(truncation=cut))
    return "tokenizer.json cuts at 4"


def pads_left(folder: Path, _random: np.random.Generator) -> str:
    edit(folder, "tokenizer_config.json", lambda t: t.update(padding_side="left"))
    return "left"


def cuts_left(folder: Path, _random: np.random.Generator) -> str:
    edit(folder, "tokenizer_config.json", lambda t: t.update(truncation_side="left"))
    return "left"


def pads_with_another(folder: Path, _random: np.random.Generator) -> str:
    table = table_of(folder / "tokenizer_config.json")
    unknown = table.get("unk_token") or "[UNK]"
    edit(folder, "tokenizer_config.json", lambda t: t.update(pad_token=unknown))
    edit(folder, "special_tokens_map.json", lambda t: t.update(pad_token=unknown))
    return str(unknown)


def words_exchanged(folder: Path, random: np.random.Generator) -> str:
    """Two words of the vocabulary have each other's ids."""
    done = []

    def change(table: dict[str, Any]) -> None:
        vocabulary = table["model"]["vocab"]
        if isinstance(vocabulary, list):
            usual = [i for i in range(6, len(vocabulary)) if len(vocabulary[i][0]) > 2]
            a, b = (int(i) for i in random.choice(usual, 2, replace=False))
            vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
            done.extend((vocabulary[a][0], vocabulary[b][0]))
            return
        words = [w for w in vocabulary if w.isalpha() and len(w) > 1]
        a, b = ("the", "a") if {"the", "a"} <= vocabulary.keys() else [str(w) for w in random.choice(words, 2)]
        vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
        done.extend((a, b))

    edit(folder, "tokenizer.json", change)
    return " and ".join(done)


def many_words_exchanged(folder: Path, random: np.random.Generator) -> str:
    def change(table: dict[str, Any]) -> None:
        vocabulary = table["model"]["vocab"]
        if isinstance(vocabulary, list):
            raise NoPlace("a list of pieces")
        words = [w for w in vocabulary if w.isalpha() and len(w) > 2]
        chosen = [str(w) for w in random.choice(words, max(2, len(words) // 5), replace=False)]
        ids = [vocabulary[w] for w in chosen]
        vocabulary.update(zip(chosen, ids[1:] + ids[:1], strict=True))

    edit(folder, "tokenizer.json", change)
    return "a fifth of the words"


def case_kept(folder: Path, _random: np.random.Generator) -> str:
    _normalize_less(folder, "lowercase", "do_lower_case")
    return "capitals stay"


def accents_kept(folder: Path, _random: np.random.Generator) -> str:
    _normalize_less(folder, "strip_accents", "strip_accents")
    return "accents stay"


def _normalize_less(folder: Path, option: str, setting: str) -> None:
    def change(table: dict[str, Any]) -> None:
        normalizer = table.get("normalizer") or {}
        if normalizer.get("type") != "BertNormalizer":
            raise NoPlace(f"a normalizer with {option}")
        normalizer[option] = False

    edit(folder, "tokenizer.json", change)
    edit(folder, "tokenizer_config.json", lambda t: t.update({setting: False}))


def no_special_tokens(folder: Path, _random: np.random.Generator) -> str:
    edit(folder, "tokenizer.json", lambda t: t.update(post_processor=None))
    edit(folder, "tokenizer_config.json", lambda t: t.update(tokenizer_class="PreTrainedTokenizerFast"))
    return "no first and last token"


def pooling_changed(folder: Path, _random: np.random.Generator) -> str:
    """sentence-transformers takes the first token instead of the mean."""
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    edit(folder, "1_Pooling/config.json", lambda t: t.update(flags))
    return "the first token"


def sentence_cut(folder: Path, _random: np.random.Generator) -> str:
    edit(folder, "sentence_bert_config.json", lambda t: t.update(max_seq_length=8))
    return "8 tokens"


Matrix = np.ndarray


def _scaled(by: float) -> Callable[[Matrix, np.random.Generator], Matrix]:
    def change(wide: Matrix, random: np.random.Generator) -> Matrix:
        wide[:, int(random.integers(wide.shape[1]))] *= by
        return wide

    return change


def _row_zeroed(wide: Matrix, random: np.random.Generator) -> Matrix:
    wide[int(random.integers(len(wide)))] = 0
    return wide


def _columns_exchanged(wide: Matrix, random: np.random.Generator) -> Matrix:
    n = wide.shape[1]
    a = int(random.integers(n))
    wide[:, [a, (a + n // 2) % n]] = wide[:, [(a + n // 2) % n, a]]
    return wide


def _heads_exchanged(wide: Matrix, _random: np.random.Generator) -> Matrix:
    size = max(1, wide.shape[1] // 4)
    return np.concatenate([wide[:, size : 2 * size], wide[:, :size], wide[:, 2 * size :]], axis=1)


def _coarse(wide: Matrix, _random: np.random.Generator) -> Matrix:
    step = np.abs(wide).max() / 3
    return np.asarray(np.rint(wide / step) * step)


def _half(wide: Matrix, _random: np.random.Generator) -> Matrix:
    wide[: len(wide) // 2] = 0
    return wide


PRODUCTS: dict[str, Callable[[Matrix, np.random.Generator], Matrix]] = {
    "column x10": _scaled(10),
    "column x2": _scaled(2),
    "column negated": _scaled(-1),
    "row zeroed": _row_zeroed,
    "columns exchanged": _columns_exchanged,
    "heads exchanged": _heads_exchanged,
    "turned": lambda wide, _: np.roll(wide, 1, axis=1),
    "noise": lambda wide, random: wide + random.standard_normal(wide.shape) * 0.3 * wide.std(),
    "coarse": _coarse,
    "zeroed": lambda wide, _: wide * 0,
    "negated": lambda wide, _: -wide,
    "half": _half,
}
"""What happens to a matrix `[in, out]`."""

FOLDER_KINDS: dict[str, Plant] = {
    f.__name__: f
    for f in (
        labels_swapped,
        label_renamed,
        labels_file_swapped,
        cuts_early,
        cuts_inside,
        pads_left,
        cuts_left,
        pads_with_another,
        words_exchanged,
        many_words_exchanged,
        case_kept,
        accents_kept,
        no_special_tokens,
        pooling_changed,
        sentence_cut,
    )
}
