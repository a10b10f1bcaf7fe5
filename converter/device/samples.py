"""Samples generated for one very model: typed call, labels, pooling, length picker, tokenizer and self-test."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.bounds.source_code import check_compiles, code_templates
from converter.device.runtime import MODEL_FILE, written_for
from converter.errors import StageFailed
from converter.tflite.file import has_four_bits
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE

if TYPE_CHECKING:
    from jinja2 import Environment

    from converter.device.facts import DeviceFacts

TEMPLATES = Path(__file__).parent / "templates"
FOLDER = "samples"
PACKAGE = "org.plmexport.textmodel"
OTHER_FILES = {
    "cpp/encoded.hpp",
    "cpp/litert_api.hpp",
    "cpp/CMakeLists.txt",
    "java/Encoded.java",
    "swift/Encoded.swift",
}
"""Files that are the same for every model, and no part of the tokenizer."""
PARTIAL = {"cpp/calls.hpp.j2", "java/Calls.java.j2", "swift/Calls.swift.j2"}
"""Parts of other templates."""
ANDROID = "android"
"""The folder of the project for Android Studio, which writers' packages have too."""
RENAMED = {"java/TextModel.java.j2": "java/{}.java", "swift/TextModel.swift.j2": "swift/{}.swift"}
"""Files that carry the name of the class they hold."""
LITERT, LITERT_OF_4_BITS = "1.3", "2.0"
"""The least LiteRT by trial: 1.0 rounds activations differently. With weights of 4 bits, 1.0 to 1.2 are wrong:
`converter.tflite.versions` makes everything before 2 refuse them."""


def write_samples(
    facts: "DeviceFacts", folder: Path, n_hard: int = 0, gpu: Mapping[str, Any] | None = None
) -> list[str]:
    """Write every sample below `folder`, which lies in the package; returns their names.

    `n_hard`: texts in the table of the tokenizer's proof.

    Raises:
        StageFailed: the one sample that can be compiled here does not.

    """
    environment = sample_templates(folder.parent, TEMPLATES)
    environment.globals |= {
        "file_runtime": facts.runtime.get(MODEL_FILE),
        "mediapipe": MEDIAPIPE_FILE if (folder.parent / MEDIAPIPE_FILE).is_file() else "",
    }
    names = []
    for path in sorted(p for p in TEMPLATES.rglob("*") if p.is_file()):
        name = path.relative_to(TEMPLATES).as_posix()
        needs_tokenizer = is_of_tokenizer(name) or name.startswith(f"{ANDROID}/")
        if name in PARTIAL or (needs_tokenizer and not facts.own_tokenizer):
            continue
        made = RENAMED.get(name, name).format(facts.class_name).removesuffix(".j2")
        text = environment.get_template(name).render(
            facts=facts,
            package=PACKAGE,
            n_hard=n_hard,
            gpu=gpu or {},
        )
        if made.endswith(".py"):
            check_compiles(text, made)
        (folder / made).parent.mkdir(parents=True, exist_ok=True)
        (folder / made).write_bytes(text.encode())
        names.append(made)
    return names


def is_of_tokenizer(name: str) -> bool:
    """Whether a template is a part of the tokenizer, the same in every package that has tables for it."""
    return not name.endswith(".j2") and name not in OTHER_FILES


def tokenizer_templates() -> list[str]:
    """Return the templates of the tokenizer's code in all languages; they need nothing but `package`."""
    names = sorted(p.relative_to(TEMPLATES).as_posix() for p in TEMPLATES.rglob("*") if p.is_file())
    return [name for name in names if is_of_tokenizer(name) or Path(name).stem.lower() == "encoded"]


def sample_templates(package: Path, *folders: Path) -> "Environment":
    """Return what renders the templates of some folders, with what is read from the model of the package."""
    environment = code_templates(*folders)
    environment.filters |= {"java": java_text, "cpp": cpp_text, "swift": swift_text}
    four_bits = (package / MODEL_FILE).is_file() and has_four_bits(package / MODEL_FILE)
    environment.globals |= {
        "four_bits": four_bits,
        "samples": written_for(four_bits=four_bits),
        "litert": LITERT_OF_4_BITS if four_bits else LITERT,
    }
    return environment


def java_text(text: str) -> str:
    r"""Return a string literal of Java or Kotlin.

    >>> print(java_text('a"é'))
    "a\"\u00e9"
    """
    return json.dumps(text).replace("$", "\\u0024")


def cpp_text(text: str) -> str:
    r"""Return a string literal of C++ for UTF-8 text: octal escapes, which never swallow the next letter.

    >>> cpp_text('é"')
    '"\\303\\251\\042"'
    """
    plain = set(range(0x20, 0x7F)) - {ord('"'), ord("\\"), ord("?")}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'


def swift_text(text: str) -> str:
    r"""Return a string literal of Swift.

    >>> swift_text('é"')
    '"\\u{e9}\\u{22}"'
    """
    plain = set(range(0x20, 0x7F)) - {ord('"'), ord("\\")}
    return '"' + "".join(c if ord(c) in plain else f"\\u{{{ord(c):x}}}" for c in text) + '"'


def check_facts(facts: "DeviceFacts") -> dict[str, Any]:
    """Return the facts as the manifest keeps them.

    Raises:
        StageFailed: the file has no signature that the samples know.

    """
    if not (facts.lengths or facts.any_up_to):
        raise StageFailed("the file has no signature for the samples to call")
    kept = {"kind", "lengths", "any_up_to", "batch", "own_tokenizer", "why_not", "tokenizer", "runtime"}
    return {k: v for k, v in asdict(facts).items() if k in kept}
