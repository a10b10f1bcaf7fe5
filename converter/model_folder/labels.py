"""Names of classes: one for each output, each its own, and one a line where they are written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from converter.model_folder.causes import refusal

ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\x0b": "\\v", "\x0c": "\\f", "\x85": "\\x85"} | {
    "\u2028": "\\u2028",
    "\u2029": "\\u2029",
}
"""What would end a line for some reader, and what says so."""


def check_labels(raw: Mapping[str, Any], where: Path) -> None:
    """Refuse an `id2label` that leaves a class without a name of its own, or that `label2id` contradicts.

    Raises:
        SourceError: names the fault.

    """
    given = raw.get("id2label")
    if not isinstance(given, Mapping) or not given:
        return
    keys = sorted(str(k) for k in given)
    if sorted(int(k) if k.isdecimal() else -1 for k in keys) != list(range(len(keys))):
        raise refusal("labels-not-counted", where, {"keys": ", ".join(keys[:20]), "last": len(keys) - 1})
    names = {int(k): str(name) for k, name in given.items()}
    for name in names.values():
        same = [i for i, other in names.items() if other == name]
        if len(same) > 1:
            raise refusal("labels-of-one-name", where, {"name": name, "keys": ", ".join(map(str, sorted(same)))})
    back = raw.get("label2id")
    # Many set id2label alone, and leave what transformers had put there.
    if not isinstance(back, Mapping) or all(str(k) == f"LABEL_{v}" for k, v in back.items()):
        return
    for index, name in sorted(names.items()):
        if back.get(name) not in {index, str(index)}:
            other = f"class {back[name]}" if name in back else "nothing of it"
            raise refusal("labels-disagree", where, {"name": name, "index": index, "other": other})


def label_line(name: str) -> str:
    r"""Return a name on one line; backslash escapes stand for what would end it, and for the backslash itself.

    >>> print(label_line("bad,\nvery bad"))
    bad,\nvery bad
    """
    return "".join(ESCAPES.get(c, c) for c in name)


def label_of_line(line: str) -> str:
    r"""Return the name that `label_line` wrote.

    >>> label_of_line(label_line("a\\b\n")) == "a\\b\n"
    True
    """
    made, rest = [], line
    names = sorted(((text, c) for c, text in ESCAPES.items()), key=lambda pair: -len(pair[0]))
    while rest:
        text, c = next(((t, c) for t, c in names if rest.startswith(t)), (rest[0], rest[0]))
        made.append(c)
        rest = rest[len(text) :]
    return "".join(made)
