"""Measurements of a package on devices: kept beside it, since a sealed folder is not changed, and in the report."""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from converter.device.measured import HINT, Measurement, read_measurements
from converter.errors import DataError
from converter.jsonfile import json_text
from converter.package.output_commit import with_free_name
from converter.package.output_marker import (
    MEASUREMENTS_SUFFIX,
    is_measurements_table,
    read_marker,
    read_small_json,
    renew_marker,
    same,
)

MEGABYTES = (1e6, 2**20)
"""Either spelling of a file's size is this model's."""
SIZE_ROOM = 0.002
"""What rounding leaves of it: an export of another model is further off."""


def import_results(
    package: Path, results: Sequence[Path], device: str, note: Callable[[str], None] = lambda _text: None
) -> list[dict[str, Any]]:
    """Take `results` into the list of what `package` was measured at on devices; returns the whole list.

    A measurement of the same device, length, texts a call, threads and delegate takes the place of the one before.
    One that does not say how large its model was is taken as this package's. `note` is told of files that were kept.

    Raises:
        PackageDamaged: `package` is no package.
        DataError: a result cannot be read, or is of another model; a file that is not ours has the name of the list.

    """
    from converter.package.manifest import DIGEST, read_manifest

    manifest = read_manifest(package)
    rows = known_results(package)
    for path in results:
        for found in read_measurements(path):
            _refuse_other(found, manifest, path)
            _refuse_batch(found, manifest, path)
            row = {"device": device, **asdict(_with_length(found, manifest, path))}
            rows = [r for r in rows if _key(r) != _key(row)] + [row]
    rows.sort(key=lambda r: (r["device"], bool(r["gpu"]), r["threads"] or 0, r["length"] or 0))
    _make_room(_file(package), manifest[DIGEST], note)
    _write(_file(package), json_text({"package": manifest[DIGEST], "results": rows}))
    _draw(package, rows, note)
    return rows


def known_results(package: Path) -> list[dict[str, Any]]:
    """Return what was imported for this very package; what belonged to an earlier one of its name is left out."""
    from converter.package.manifest import DIGEST, read_manifest

    table = read_small_json(_file(package))
    if not isinstance(table, dict) or not is_measurements_table(table):
        return []
    return list(table["results"]) if table["package"] == read_manifest(package)[DIGEST] else []


def _file(package: Path) -> Path:
    folder = package.resolve()
    return folder.with_name(folder.name + MEASUREMENTS_SUFFIX)


def _make_room(path: Path, digest: str, note: Callable[[str], None]) -> None:
    """Give what was measured with an earlier package of this name another name; refuse where the file is not ours."""
    if not os.path.lexists(path):
        return
    table = read_small_json(path)
    if not isinstance(table, dict) or not is_measurements_table(table):
        raise DataError(
            "the list of measurements goes here, and the file is not one",
            where=str(path),
            hint="move it away, and import again",
        )
    if table["package"] != digest:
        name = path.name.removesuffix(MEASUREMENTS_SUFFIX)
        kept = with_free_name(path, path.with_name(f"{name}.earlier{MEASUREMENTS_SUFFIX}"))
        note(f"what was measured with an earlier {name} is kept in {kept}")


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    # Rows of before there were batches are of one text a call.
    return row["device"], row["length"], row.get("texts_per_call", 1), row["threads"], row["gpu"]


def _refuse_other(found: Measurement, manifest: Mapping[str, Any], path: Path) -> None:
    from converter.package.manifest import model_bytes

    size = model_bytes(manifest)
    if found.model_mb and size and not any(_rounds_to(found.model_mb, size / mega) for mega in MEGABYTES):
        raise DataError(
            f"it was measured with a model of {found.model_mb:g} MB, the package's has {size / 1e6:.4g} MB",
            where=str(path),
            hint="push the package's own model.tflite to the device and measure again",
        )


def _rounds_to(said: float, size: float) -> bool:
    # Written with a digit or two behind the point: a small model's size is not told more closely.
    return abs(said - size) <= max(SIZE_ROOM * size, 0.06)


def _refuse_batch(found: Measurement, manifest: Mapping[str, Any], path: Path) -> None:
    batch = manifest.get("target_options", {}).get("batch", 1)
    if found.texts_per_call not in {1, batch}:
        takes = "one text" if batch == 1 else f"one or {batch} texts"
        raise DataError(
            f"it was measured with {found.texts_per_call} texts a call, the package takes {takes}",
            where=str(path),
            hint=HINT,
        )


def _with_length(found: Measurement, manifest: Mapping[str, Any], path: Path) -> Measurement:
    lengths = manifest.get("lengths") or []
    if found.length is None and len(lengths) == 1:
        return replace(found, length=lengths[0])
    if found.length is not None and lengths and found.length not in lengths:
        raise DataError(
            f"it was measured at {found.length} tokens, the package has {', '.join(map(str, lengths))}",
            where=str(path),
            hint=HINT,
        )
    if found.length is None and lengths:
        raise DataError(
            "it does not say at which length it was measured", where=str(path), hint="give --signature_to_run_for"
        )
    return found


def _draw(package: Path, rows: Sequence[Mapping[str, Any]], note: Callable[[str], None]) -> None:
    """Draw the report of the package's run again, with its devices; without a report there is nothing to draw.

    A report that somebody has changed, or that no marker says is ours, stays as it is.
    """
    from converter.report.page import page
    from converter.report.summary import FORMAT, JSON_FILE, PAGE_FILE

    folder = package.resolve().parent
    table = read_small_json(folder / JSON_FILE)
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        return
    files, names = read_marker(folder) or {}, (JSON_FILE, PAGE_FILE)
    if changed := [n for n in names if os.path.lexists(folder / n) and not same(folder / n, files.get(n, ""))]:
        note(f"{folder / changed[0]} is not provably as its run has written it: it stays, without these measurements")
        return
    for target in table["targets"]:
        if target.get("folder") == package.resolve().name:
            target["devices"] = list(rows)
    drawn = page(table)
    _write(folder / JSON_FILE, json_text(table))
    _write(folder / PAGE_FILE, drawn)
    renew_marker(folder, names)


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole: a full disk, or a stop in between, leaves what was measured before."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            made.unlink()
