"""Files that loaders look for beside the model."""

from collections.abc import Callable
from pathlib import Path

from converter.model_folder.files import write_model_files
from converter.model_folder.load import load_source


def test_every_class_has_one_line_in_labels_txt(tiny: Callable[..., Path], tmp_path: Path) -> None:
    """An app reads the class of a logit by its line: a name that breaks the line would shift all that follow."""
    names = {0: "good, very", 1: "two\nlines", 2: "ünd"}
    source = load_source(str(tiny(layers=1, id2label=names, label2id={v: k for k, v in names.items()})))
    write_model_files(source, tmp_path, {})
    assert (tmp_path / "labels.txt").read_text(encoding="utf-8").splitlines() == ["good, very", "two\\nlines", "ünd"]
