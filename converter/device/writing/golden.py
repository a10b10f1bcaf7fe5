"""What a package wrote when it was sealed, as a table that the samples' self-test reads: no library, no JSON."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.device.golden_table import GOLDEN_FILE, rows_in
from converter.device.parity import backend_of
from converter.device.tables import escaped
from converter.device.tokenize import DeviceTokenizer
from converter.errors import PackageDamaged
from converter.package.golden import WRITTEN

if TYPE_CHECKING:
    from converter.artifact import TorchModel
    from converter.package.golden import Golden
    from converter.package.shipped import Shipped


def write_recorded(golden: "Golden", source: "TorchModel", folder: Path, tables: DeviceTokenizer | None) -> int:
    """Write `golden.tsv`; returns how many texts it holds.

    Lines: `steps` and how many tokens were written at most, and per text, behind `text`: the text, its ids, the tokens
    that the package wrote, and those as text. `tables`, the samples' tokenizer: texts alone that it reads and spells
    as the package does, which may have cut one; None: all of them, for their ids.
    """
    task: Any = source.task
    rows = list(_rows(golden, source, tables))
    lines = [f"steps\t{task.judged_settings.max_new_tokens}", *("\t".join(("text", *row)) for row in rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / GOLDEN_FILE).write_bytes(("\n".join(lines) + "\n").encode())
    return len(rows)


def _rows(golden: "Golden", source: "TorchModel", tables: DeviceTokenizer | None) -> Iterator[tuple[str, ...]]:
    backend = backend_of(source)
    for example, known in zip(golden.examples, golden.ids, strict=True):
        if WRITTEN not in known:
            continue
        ids, tokens = known["input_ids"].tolist(), known[WRITTEN].tolist()
        said = backend.decode(tokens, skip_special_tokens=True)
        if tables is not None:
            # As in `Writing.encode`: a text without a token gets one to begin with, which the samples give it too.
            whole = tables.encode(source.task.prompt + example.text, None, sys.maxsize).ids or ids
            if whole != ids or tables.decode(tokens) != said:
                continue
        yield escaped(example.text), " ".join(map(str, ids)), " ".join(map(str, tokens)), escaped(said)


def check_recorded(shipped: "Shipped", path: Path) -> None:
    """Compare `golden.tsv` with the golden vectors, which have been replayed.

    Raises:
        PackageDamaged: it is gone, or says something else.

    """
    try:
        rows = rows_in(path)
    except (OSError, UnicodeDecodeError) as error:
        raise PackageDamaged(f"the table of recorded texts cannot be read ({error})", where=str(path)) from None
    known = {
        (escaped(e.text), " ".join(map(str, ids["input_ids"].tolist())), " ".join(map(str, ids[WRITTEN].tolist())))
        for e, ids in zip(shipped.golden.examples, shipped.golden.ids, strict=True)
        if WRITTEN in ids
    }
    backend = shipped.tokenizer.backend_tokenizer
    n_texts = shipped.manifest.beside.get("golden_texts")
    texts = [tuple(row[1:]) for row in rows if row[0] == "text"]
    if len(texts) != n_texts:
        raise PackageDamaged(f"it has {len(texts)} texts, the manifest says {n_texts}", where=str(path))
    for row in texts:
        # What is known has three cells, and numbers in the third.
        if row[:3] not in known or row[3:] != (_said(backend, row[2]),):
            raise PackageDamaged(
                f"its line of {''.join(row[:1])[:60]!r} is not that of the golden vectors", where=str(path)
            )


def _said(backend: Any, tokens: str) -> str:
    return escaped(backend.decode([int(i) for i in tokens.split()], skip_special_tokens=True))
