"""The tokenizer tables and the table of golden vectors that a package ships for devices, held to the package itself."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from converter.device.golden_table import GOLDEN_FILE, rows_in
from converter.device.parity import PARITY_FILE, expected, write_parity
from converter.device.tables import (
    TABLES_FILE,
    VOCABULARY_FILE,
    NoTables,
    escaped,
    read_tables,
    unescaped,
    write_tables,
)
from converter.device.tokenize import DeviceTokenizer
from converter.device.tokenizer.form import EARLIER_FORMAT
from converter.device.tokenizer_files import ASSETS, FACT
from converter.errors import PackageDamaged
from converter.package.installed import version_of
from converter.validate.answers import shorten

if TYPE_CHECKING:
    from converter.package.shipped import Shipped

FEW = 1e-5
"""Numbers in `golden.tsv` have eight digits."""


def check_device_files(shipped: "Shipped") -> tuple[str, ...]:
    """Run the shipped tokenizer tables on the golden texts and the hard texts; returns what was checked.

    Raises:
        PackageDamaged: they give other ids, or a table that the manifest tells of is not there.

    """
    made = check_tokenizer_files(shipped)
    assets = shipped.folder / ASSETS
    if shipped.manifest.beside.get("golden_texts") or (assets / GOLDEN_FILE).is_file():
        check_golden_table(shipped, assets / GOLDEN_FILE)
        made = (*made, f"{ASSETS}/{GOLDEN_FILE}")
    return made


def check_tokenizer_files(shipped: "Shipped") -> tuple[str, ...]:
    """Run the shipped tokenizer tables alone; returns their files, nothing where the package has none.

    Raises:
        PackageDamaged: they give other ids, or the manifest tells of tables that are not there.

    """
    assets = shipped.folder / ASSETS
    fact = shipped.manifest.gate.facts.get(FACT)
    promised = isinstance(fact, dict) and "why_not" not in fact
    if not promised and not (assets / TABLES_FILE).is_file():
        return ()
    _check_tokenizer(shipped, assets)
    return tuple(f"{ASSETS}/{name}" for name in (TABLES_FILE, VOCABULARY_FILE, PARITY_FILE))


def _check_tokenizer(shipped: "Shipped", assets: Path) -> None:
    try:
        tables = DeviceTokenizer(assets)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise PackageDamaged(f"the tokenizer tables for devices cannot be read ({error})", where=str(assets)) from None
    task, most = shipped.task, shipped.manifest.max_length
    for example, ids, encoding in zip(shipped.golden.examples, shipped.golden.ids, shipped.encodings, strict=True):
        if example.window or encoding.masked:
            continue
        text = task.prompt + (example.text if example.words is None else " ".join(example.words))
        pair = example.pair or "" if task.cuts_second else example.pair
        found = tables.encode(text, pair, most, only_second=task.cuts_second)
        if task.kind == "decoder" and (encoding.truncated or not found.ids):
            continue  # it was cut to leave room for an answer, or given a token to begin with
        if found.ids != ids["input_ids"].tolist() and not _known_to_differ(shipped):
            raise PackageDamaged(
                f"the tokenizer tables for devices give other ids than recorded for {shorten(text)!r}",
                where=str(assets),
            )
    _check_bytes(shipped, assets)


def _known_to_differ(shipped: "Shipped") -> bool:
    """Whether the gate saw texts to which the tables give other ids: one in a hundred may."""
    fact = shipped.manifest.gate.facts.get(FACT)
    return bool(isinstance(fact, dict) and fact.get("differing"))


def _check_bytes(shipped: "Shipped", assets: Path) -> None:
    """Write the tables and the hard texts once more, from the shipped tokenizer: every byte must be the same.

    Another version of tokenizers may know other characters, so that there the golden texts decide alone.
    """
    if shipped.manifest.versions.get("tokenizers") != version_of("tokenizers"):
        return
    backend, most = shipped.tokenizer.backend_tokenizer, shipped.manifest.max_length
    with tempfile.TemporaryDirectory() as made:
        try:
            write_tables(read_tables(backend), Path(made))
        except NoTables as error:
            raise PackageDamaged(
                f"the shipped tokenizer has no form as tables ({error})", where=str(shipped.folder)
            ) from None
        write_parity(expected(backend, most), Path(made), most)
        # An earlier version of plm-export wrote them in another form: the texts decide alone.
        earlier = (assets / TABLES_FILE).read_bytes().startswith(EARLIER_FORMAT.encode())
        for name in (PARITY_FILE,) if earlier else (TABLES_FILE, VOCABULARY_FILE, PARITY_FILE):
            if not (assets / name).is_file() or (Path(made) / name).read_bytes() != (assets / name).read_bytes():
                raise PackageDamaged(
                    f"{ASSETS}/{name} is not what tokenizer.json gives as a table", where=str(shipped.folder)
                )


def check_golden_table(shipped: "Shipped", path: Path) -> None:
    """Compare `golden.tsv` with the golden vectors, which have been replayed.

    Raises:
        PackageDamaged: it is gone, or says something else.

    """
    try:
        rows = rows_in(path)
    except (OSError, UnicodeDecodeError) as error:
        raise PackageDamaged(f"the table of golden vectors cannot be read ({error})", where=str(path)) from None
    texts = [row for row in rows if row[0] == "text"]
    wanted = [i for i, e in enumerate(shipped.golden.examples) if not e.window]
    first = "\t".join(rows[0]) if rows else ""
    if len(texts) != len(wanted) or first != f"tolerance\t{shipped.manifest.replay_tolerance:g}":
        raise PackageDamaged(
            f"it has {len(texts)} texts and {shorten(first)!r}, the package {len(wanted)} and a tolerance of "
            f"{shipped.manifest.replay_tolerance:g}",
            where=str(path),
        )
    for i, row in zip(wanted, texts, strict=True):
        try:
            same = _same(shipped, i, row)
        except (IndexError, ValueError):  # a cell that is not there, or no number
            same = False
        if not same:
            raise PackageDamaged(
                f"its line of {shorten(unescaped(row[1]) if len(row) > 1 else '')!r} is not that of the golden vectors",
                where=str(path),
            )


def _same(shipped: "Shipped", i: int, row: list[str]) -> bool:
    example, outputs = shipped.golden.examples[i], shipped.golden.package[i]
    text = shipped.task.prompt + (example.text if example.words is None else " ".join(example.words))
    ids = " ".join(map(str, shipped.golden.ids[i]["input_ids"].tolist()))
    if row[1] != escaped(text) or row[3] != ids or sorted(row[7::3]) != sorted(outputs):
        return False
    if shipped.encodings[i].masked:
        return True  # places of its rows in the raw output, which is not in the golden vectors
    for name, runs, numbers in zip(row[7::3], row[8::3], row[9::3], strict=True):
        flat = outputs[name].reshape(-1)
        spans = [tuple(map(int, run.split(":"))) for run in runs.split()]
        held = np.concatenate([flat[begin : begin + n] for begin, n in spans])
        found = np.array(numbers.split(), dtype=np.float64)
        if held.shape != found.shape or not np.allclose(held, found, rtol=FEW, atol=1e-30):
            return False
    return True
