"""A package that is being verified: opened, its files checked, its golden texts encoded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converter.examples import Encoding
    from converter.graphs import GraphSpec
    from converter.package.golden import Golden
    from converter.package.schema import Manifest
    from converter.target import Runner
    from converter.task import Task


@dataclass(frozen=True)
class Shipped:
    """What `Target.check_shipped` is handed."""

    folder: Path
    manifest: "Manifest"
    task: "Task"
    tokenizer: Any
    """The shipped one."""
    specs: "Mapping[str, GraphSpec]"
    runner: "Runner"
    golden: "Golden"
    encodings: "tuple[Encoding, ...]"
    """Of the golden texts, by the shipped tokenizer."""
