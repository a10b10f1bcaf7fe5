"""Samples generated for one very model that writes text: the loop, its rules, the tokenizer and a self-test."""

from pathlib import Path
from typing import TYPE_CHECKING

from converter.bounds.source_code import check_compiles
from converter.device.samples import ANDROID, PACKAGE, sample_templates, tokenizer_templates
from converter.device.samples import TEMPLATES as ENCODERS
from converter.generate.rules import PYTHON_RULES
from converter.tflite.writing.litertlm import LITERTLM_FILE

if TYPE_CHECKING:
    from converter.device.writing.facts import WriterFacts

TEMPLATES = Path(__file__).parent / "templates"
TOKENIZER = Path(__file__).parents[1]
PYTHON_MODULES = (
    "tokenize",
    *(
        f"tokenizer/{n}"
        for n in (
            "characters",
            "charsmap",
            "choosing",
            "decoding",
            "form",
            "matching",
            "normalizer",
            "reading",
            "splitter",
        )
    ),
)
"""The tokenizer in Python, which the gate has proven: shipped as it is."""
PYTHON_TOKENIZER = "python/device_tokenizer"
SHARED = ("cpp/litert_api.hpp", "cpp/CMakeLists.txt")
"""Files of the encoders' samples, besides the tokenizer, that these have too."""
RENAMED = {"java/TextWriter.java.j2": "java/{}.java", "swift/TextWriter.swift.j2": "swift/{}.swift"}
"""Files that carry the name of the class they hold."""


def write_samples(facts: "WriterFacts", folder: Path, n_hard: int = 0) -> list[str]:
    """Write every sample below `folder`, which lies in the package; returns their names.

    `n_hard`: texts in the table of the tokenizer's proof.

    Raises:
        StageFailed: a sample in Python does not compile.

    """
    environment = sample_templates(folder.parent, TEMPLATES, ENCODERS, PYTHON_RULES)
    environment.globals["litertlm"] = LITERTLM_FILE if (folder.parent / LITERTLM_FILE).is_file() else ""
    given = {"facts": facts, "package": PACKAGE, "n_hard": n_hard, "settings": facts.settings, "words": facts.words}
    made = {}
    for path in sorted(p for p in TEMPLATES.rglob("*") if p.is_file()):
        name = path.relative_to(TEMPLATES).as_posix()
        made[RENAMED.get(name, name).format(facts.class_name).removesuffix(".j2")] = name
    android = sorted(p.relative_to(ENCODERS).as_posix() for p in (ENCODERS / ANDROID).rglob("*.j2"))
    shared = (*tokenizer_templates(), *android) if facts.own_tokenizer else ()
    made |= {name.removesuffix(".j2"): name for name in (*shared, *SHARED)}
    texts = {name: environment.get_template(template).render(**given) for name, template in made.items()}
    if facts.own_tokenizer:
        texts |= python_tokenizer()
    for name, text in texts.items():
        if name.endswith(".py"):
            check_compiles(text, name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return sorted(texts)


def python_tokenizer() -> dict[str, str]:
    """Return the tokenizer's modules by the names under which the samples have them: they import each other alone."""
    made = {f"{PYTHON_TOKENIZER}/__init__.py": '"""The model\'s tokenizer, by the tables in samples/assets."""\n'}
    for name in PYTHON_MODULES:
        text = (TOKENIZER / f"{name}.py").read_text(encoding="utf-8")
        made[f"{PYTHON_TOKENIZER}/{Path(name).name}.py"] = text.replace("from converter.device.tokenizer.", "from .")
    return made
