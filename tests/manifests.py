"""Manifests for tests: complete ones, and packages whose manifest a forger has written anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from converter.jsonfile import json_text
from converter.package.manifest import DIGEST, _describe, _digest

SPEC = {"name": "x", "dtype": "int64", "axes": ["batch"], "fill": 0, "side": "right", "draw": [0, 1]}
TOLD = {"name": "x", "dtype": "int64", "shape": [None]}
CHECKS = [{"name": "agreement", "status": "PASS"}]


def complete(file: str = "model.onnx", **changes: Any) -> dict[str, Any]:
    """Return what every manifest has, but its format, files and digest, which `seal` adds."""
    return {
        "tool": {"name": "plm-export", "version": "0.1.0"},
        "target": "cpu-int8",
        "target_options": {},
        "precision": "none",
        "task": "text-classification",
        "labels": [],
        "prompt": None,
        "source": {
            "id": "tiny",
            "revision": None,
            "weights_sha256": {},
            "licence": None,
            "dtype": "float32",
            "size_bytes": 1,
            "max_length": 64,
        },
        "recipe": {},
        "resolved": {"measured": {}},
        "golden": {"texts": 16, "same_answers": 16},
        "rebuild": [],
        "versions": {},
        "platform": "Linux x86_64",
        "records": [],
        "limits": {},
        "relaxed": [],
        "gate": {
            "status": "PASS",
            "checks": CHECKS,
            "deviations": [],
            "agreement": 1.0,
            "metric": {},
            "source_metric": {},
            "n_probes": 16,
            "facts": {},
        },
        "runtime": "onnxruntime",
        "graphs": {
            "model": {
                "file": file,
                "inputs": [SPEC],
                "outputs": [SPEC],
                "signature": {"inputs": [TOLD], "outputs": [TOLD]},
            }
        },
        "max_length": 64,
        "max_batch": None,
        "lengths": [],
        "replay_tolerance": 1e-4,
        **changes,
    }


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def forge(folder: Path, change: Callable[[dict[str, Any]], object] = lambda table: None) -> None:
    """Change the manifest as somebody would who knows how it is made: hashes and digest made anew."""
    table = manifest_of(folder)
    found = [p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"]
    table["files"] = {p.relative_to(folder).as_posix(): _describe(p) for p in found}
    change(table)
    table[DIGEST] = _digest(table)
    (folder / "manifest.json").write_text(json_text(table), encoding="utf-8")
