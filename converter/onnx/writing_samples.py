"""Samples of a package that writes text: the loop in Python, and a page that runs it in the browser."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.artifact import Bundle
from converter.bounds.source_code import check_compiles, code_templates
from converter.data.encode import first_token
from converter.generate.graphs import cache_names, decoder_of
from converter.generate.rules import PYTHON_RULES, forbidden_words
from converter.generate.settings import GenerationSettings, with_usual_length
from converter.graphs import GraphSpec
from converter.jsonfile import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Written = Sequence[tuple[str, Sequence[int] | NDArray[np.int64]]]

TEMPLATES = Path(__file__).parent / "templates"
FOLDER, ASSETS = "samples", "assets"
GOLDEN_TEXTS = "golden.json"
PYTHON = "python/write.py"
TRANSFORMERS_JS = "4.3.1"
"""The version that the page asks npm for: the one that it is tested with."""
CAUSAL_KEY, TRANSLATION_KEY = "generated_text", "translation_text"


def write_samples(bundle: Bundle, written: "Written", steps: int) -> Path:
    """Write `samples/` into the package; returns the sample in Python.

    `written`: texts, and the tokens that the package wrote, `steps` at most.

    Raises:
        StageFailed: the sample in Python does not compile.

    """
    environment, facts = code_templates(TEMPLATES, PYTHON_RULES), _facts(bundle)
    environment.filters["js"] = json.dumps
    folder = bundle.folder / FOLDER
    for path in sorted(p for p in TEMPLATES.rglob("*.j2") if p.is_file()):
        name = path.relative_to(TEMPLATES).as_posix()
        text = environment.get_template(name).render(**facts)
        made = folder / name.removesuffix(".j2")
        if made.suffix == ".py":
            check_compiles(text, made.name)
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_bytes(text.encode())
    (folder / ASSETS).mkdir()
    write_json(folder / ASSETS / GOLDEN_TEXTS, {"steps": steps, "texts": _golden(bundle, written)})
    return folder / PYTHON


def _golden(bundle: Bundle, written: "Written") -> list[dict[str, Any]]:
    """Return the recorded texts that every client reads whole: those that have a token, and were not cut."""
    tokenizer, longest = bundle.source.tokenizer, bundle.source.max_length
    prefix = bundle.source.task.prompt
    rows = []
    for text, tokens in written:
        n = len(tokenizer(prefix + text, verbose=False)["input_ids"])
        if text.strip() and 0 < n <= longest - len(tokens):
            said = tokenizer.decode(list(tokens), skip_special_tokens=True)
            rows.append({"text": text, "tokens": [int(t) for t in tokens], "written": said})
    return rows


def _facts(bundle: Bundle) -> dict[str, Any]:
    source = bundle.source
    task: Any = source.task
    settings: GenerationSettings = task.settings
    causal = task.kind == "decoder"
    decoder = decoder_of(source.specs)
    own = with_usual_length(settings)
    return {
        "model": source.provenance.id,
        "title": f"{source.provenance.id}: {task.name}",
        "task": task.name,
        "causal": causal,
        "key": TRANSLATION_KEY if task.name == "translation" else CAUSAL_KEY,
        "verb": "Translate" if task.name == "translation" else "Write on" if causal else "Write",
        "files": dict(bundle.files),
        "positions": source.max_length,
        "settings": settings,
        "words": forbidden_words(settings),
        "first": first_token(source.tokenizer),
        "most": None if own.max_new_tokens is None else min(own.max_new_tokens, source.max_length),
        "prefix": task.prompt,
        "position_ids": "position_ids" in decoder.input_names,
        **_cache_sizes(decoder),
        "chat": bool(getattr(source.tokenizer, "chat_template", None)),
        "transformers_js": TRANSFORMERS_JS,
    }


def _cache_sizes(decoder: GraphSpec) -> dict[str, Any]:
    """Return heads and head size by the part of a name behind its layer, or by layer too where layers differ.

    `cut`: how many dots of `past_key_values.0.key` lie before what is looked up.
    """
    own = {
        t.name: tuple(a for a in t.axes if isinstance(a, int)) for t in decoder.inputs if t.name in cache_names(decoder)
    }
    for cut in (2, 1):
        sizes: dict[str, set[tuple[int, ...]]] = {}
        for name, size in own.items():
            sizes.setdefault(name.split(".", cut)[cut], set()).add(size)
        if all(len(found) == 1 for found in sizes.values()):
            break
    return {"cut": cut, "sizes": {name: next(iter(found)) for name, found in sizes.items()}}
