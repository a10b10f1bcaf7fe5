"""Faults in packages of models that write text: caches, stops, settings, templates; and what such a package writes."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _mutants import NoPlace, Plant, edit, table_of, write
from _mutants_onnx import Arrays, changed, put
from onnx import helper, numpy_helper

from converter.graphs import Run

MOST_TOKENS = 24
"""Tokens that are written after a held-out text, at most: the models are drawn, and few of them stop."""
SETTINGS = "generation_config.json"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""What the tiny chat model was taught to read."""


def written(folder: Path, texts: Sequence[str], run: Run | None = None) -> Iterator[str]:
    """Yield what a package writes after each text as its user gets it: its tokenizer, its settings, its template.

    Every fourth text is a message of a conversation, where the package has a template. `run`: what is asked instead of
    the package.
    """
    from converter.generate.chat import chat_ids, has_chat
    from converter.generate.loop import generate
    from converter.package.answer import open_runner, read_specs
    from converter.package.verify import task_of
    from converter.validate.interface import load_tokenizer

    manifest = table_of(folder / "manifest.json")
    specs, task, tokenizer = read_specs(folder, manifest), task_of(folder, manifest), load_tokenizer(folder)
    limit = min(int(tokenizer.model_max_length), int(manifest["max_length"]))
    task.read_folder(folder, tokenizer, int(manifest["max_length"]))
    run, own = run or open_runner(folder, manifest, specs, 1).run, task.settings  # type: ignore[attr-defined]
    most = min(own.max_new_tokens or MOST_TOKENS, MOST_TOKENS)
    for i, text in enumerate(texts):
        ids = tokenizer(task.prompt + text, truncation=True, max_length=limit, verbose=False)["input_ids"]
        if i % 4 == 0 and has_chat(tokenizer):
            ids = chat_ids(tokenizer, text)
        fed = np.array([ids[: int(manifest["max_length"]) - MOST_TOKENS]], np.int64)
        prompt = {"input_ids": fed, "attention_mask": np.ones_like(fed)}
        settings = replace(own, max_new_tokens=most)
        (tokens,) = generate(run, specs, prompt, settings).texts(settings)
        yield str(tokenizer.decode(list(tokens), skip_special_tokens=False))


def genai_of(folder: Path) -> Any:
    """Return what another client (onnxruntime-genai) is told: it reads a file of its own."""
    path = folder / "genai_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _setting(folder: Path, random: np.random.Generator, *, name: str, value: Any) -> str:
    given = value(folder, random) if callable(value) else value
    edit(folder, SETTINGS, lambda t: t.update({name: given}))
    return f"{name} {given}"


def _token(folder: Path, random: np.random.Generator) -> int:
    return int(random.integers(5, int(table_of(folder / "config.json")["vocab_size"]) - 2))


def stop_dropped(folder: Path, _random: np.random.Generator) -> str:
    """Nothing says any more where an answer ends."""
    config = table_of(folder / "config.json")
    if "eos_token_id" not in table_of(folder / SETTINGS) and "eos_token_id" not in config:
        raise NoPlace("a stop token")
    edit(folder, SETTINGS, lambda t: t.pop("eos_token_id", None))
    write(folder / "config.json", config | {"eos_token_id": None})
    return "no eos_token_id"


def forced_end_dropped(folder: Path, _random: np.random.Generator) -> str:
    return _setting_dropped(folder, "forced_eos_token_id", "a forced end")


def bad_words_dropped(folder: Path, _random: np.random.Generator) -> str:
    return _setting_dropped(folder, "bad_words_ids", "forbidden words")


def _setting_dropped(folder: Path, name: str, called: str) -> str:
    if name not in table_of(folder / SETTINGS):
        raise NoPlace(called)
    edit(folder, SETTINGS, lambda t: t.pop(name))
    edit(folder, "config.json", lambda t: t.pop(name, None))
    return f"no {name}"


def start_changed(folder: Path, random: np.random.Generator) -> str:
    token = _token(folder, random)
    if "decoder_start_token_id" not in table_of(folder / SETTINGS):
        raise NoPlace("a start token")
    for name in (SETTINGS, "config.json"):
        edit(folder, name, lambda t: t.update(decoder_start_token_id=token))
    return f"answers start with {token}"


def _template(folder: Path, _random: np.random.Generator, *, change: Callable[[str], str]) -> str:
    """The template is a file of its own, or stands in the tokenizer's table."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
        return path.name
    config = table_of(folder / "tokenizer_config.json")
    if not config.get("chat_template"):
        raise NoPlace("a chat template")
    write(folder / "tokenizer_config.json", config | {"chat_template": change(config["chat_template"])})
    return "tokenizer_config.json"


def _genai(folder: Path, _random: np.random.Generator, *, part: str, values: dict[str, Any]) -> str:
    edit(folder, "genai_config.json", lambda t: t[part].update(values))
    return f"{part}: {values}"


def _caches(model: Any) -> list[str]:
    found = [o.name for o in model.graph.output if o.name.startswith("present.")]
    if not found:
        raise NoPlace("a cache")
    return found


def _exchanged(model: Any, pairs: dict[str, str]) -> None:
    """Let outputs have each other's values."""
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            node.output[i] = pairs.get(name, name)
        for i, name in enumerate(node.input):
            node.input[i] = pairs.get(name, name)


def cache_exchanged(model: Any, _arrays: Arrays, random: np.random.Generator, *, how: str) -> str:
    """Keys come where values belong, or one layer's where another's belong."""
    names = _caches(model)
    if how == "keys":
        pairs = [(n, n.replace(".key", ".value")) for n in names if n.endswith(".key")]
    elif how == "cross":
        pairs = [(n, n.replace(".key", ".value")) for n in names if n.endswith("encoder.key")]
    else:
        pairs = [(n, n.replace("present.0.", "present.1.")) for n in names if n.startswith("present.0.")]
    pairs = [p for p in pairs if p[1] in names and p[0] != p[1]]
    if not pairs:
        raise NoPlace(how)
    a, b = pairs[int(random.integers(len(pairs)))]
    _exchanged(model, {a: b, b: a})
    return f"{a} and {b}"


def _between(model: Any, output: str, nodes: Callable[[str], list[Any]], constants: dict[str, np.ndarray]) -> None:
    """Put nodes before an output; what else reads it gets the value as it was."""
    for node in model.graph.node:
        for names in (node.output, node.input):
            for i, name in enumerate(names):
                if name == output:
                    names[i] = "m_before"
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    model.graph.node.extend(nodes("m_before"))


def cache_scaled(model: Any, _arrays: Arrays, random: np.random.Generator) -> str:
    names = _caches(model)
    name = names[int(random.integers(len(names)))]
    by = {"m_by": np.array(1.5, np.float32)}
    _between(model, name, lambda before: [helper.make_node("Mul", [before, "m_by"], [name])], by)
    return f"{name} x 1.5"


def token_favoured(model: Any, arrays: Arrays, random: np.random.Generator) -> str:
    """One token gets more than it should."""
    if "logits" not in [o.name for o in model.graph.output]:
        raise NoPlace("logits")
    width = max(len(v) for v in arrays.values() if v.ndim == 2)
    token = int(random.integers(5, width - 2))
    add = {"m_add": (np.arange(width) == token).astype(np.float32) * 0.5}
    _between(model, "logits", lambda before: [helper.make_node("Add", [before, "m_add"], ["logits"])], add)
    return f"token {token}"


def table_doubled(model: Any, arrays: Arrays, _random: np.random.Generator) -> str:
    """The table that reads words and writes them is twice as large (its scales, where it is of integers)."""
    names = [n.input[0] for n in model.graph.node if n.op_type in {"Gather", "GatherBlockQuantized"}]
    sizes = {n: arrays[n].size for n in names if n in arrays and arrays[n].ndim == 2}
    if not sizes:
        raise NoPlace("a table")
    name = max(sizes, key=lambda n: sizes[n])
    if arrays[name].dtype != np.float32:
        (node,) = (n for n in model.graph.node if n.op_type == "GatherBlockQuantized" and n.input[0] == name)
        name = _scales(model, node)
    if name not in arrays:
        raise NoPlace("scales")
    put(model, name, arrays[name] * arrays[name].dtype.type(2))
    return name


def _scales(model: Any, node: Any) -> str:
    """Return where the scales of a node in blocks are stored: in 16 bits, behind a cast, or as they are read."""
    given: str = node.input[2]
    return next((str(n.input[0]) for n in model.graph.node if n.op_type == "Cast" and given in n.output), given)


def block_scale(model: Any, arrays: Arrays, random: np.random.Generator, *, part: bool) -> str:
    names = sorted({_scales(model, n) for n in model.graph.node if n.op_type == "MatMulNBits"} & arrays.keys())
    if not names:
        raise NoPlace("blocks")
    name = names[int(random.integers(len(names)))]
    values = arrays[name]
    flat = values.reshape(-1)
    flat[: max(1, len(flat) // 8) if part else None] *= values.dtype.type(1.5)
    put(model, name, values)
    return f"{name} x 1.5{', an eighth' if part else ''}"


def blocks_turned(model: Any, arrays: Arrays, random: np.random.Generator) -> str:
    names = sorted({n.input[1] for n in model.graph.node if n.op_type == "MatMulNBits" and n.input[1] in arrays})
    if not names:
        raise NoPlace("blocks")
    name = names[int(random.integers(len(names)))]
    put(model, name, np.roll(arrays[name], 1, axis=0))
    return name


def input_frozen(model: Any, _arrays: Arrays, _random: np.random.Generator, *, name: str) -> str:
    """Positions are all 0, or all of what stands before is attended to."""
    readers = [(n, i) for n in model.graph.node for i, x in enumerate(n.input) if x == name]
    if not readers:
        raise NoPlace(name)
    made = helper.make_node("Mul", [name, "m_zero"], ["m_frozen"])
    if name.endswith("mask"):
        made = helper.make_node("Max", [name, "m_zero"], ["m_frozen"])
    one = np.array(1 if name.endswith("mask") else 0, np.int64)
    model.graph.initializer.append(numpy_helper.from_array(one, "m_zero"))
    for node, i in readers:
        node.input[i] = "m_frozen"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([made, *kept])
    return name


def future_seen(model: Any, _arrays: Arrays, _random: np.random.Generator) -> str:
    """A token of the text sees those behind it."""
    found = [n for n in model.graph.node if n.op_type in {"LessOrEqual", "GreaterOrEqual"}]
    if not found or not any(o.name.startswith("present") for o in model.graph.output):
        raise NoPlace("a causal mask")
    for k, node in enumerate(found):
        out = node.output[0]
        node.output[0] = f"m_seen_{k}"
        at = list(model.graph.node).index(node) + 1
        turned = helper.make_node("Not", [f"m_seen_{k}"], [f"m_not_{k}"])
        model.graph.node.insert(at, turned)
        model.graph.node.insert(at + 1, helper.make_node("Or", [f"m_seen_{k}", f"m_not_{k}"], [out]))
    return f"{len(found)} masks"


def any_graph(change: Callable[[Any, Arrays, np.random.Generator], str]) -> Plant:
    """Return a fault in one of the package's graphs: the first, in an order from the seed, that has a place."""

    def plant(folder: Path, random: np.random.Generator) -> str:
        paths = sorted((folder / "onnx").glob("*.onnx"))
        for i in random.permutation(len(paths)):
            try:
                return f"{paths[i].stem}: {changed(change, paths[i].name)(folder, random)}"
            except NoPlace:
                continue
        raise NoPlace("all graphs")

    return plant


SETTING_KINDS: dict[str, Plant] = {
    "stop dropped": stop_dropped,
    "forced end dropped": forced_end_dropped,
    "forbidden words dropped": bad_words_dropped,
    "start changed": start_changed,
    "template without role": partial(_template, change=lambda t: t.replace("{{ m['role'] }}: ", "")),
    "template without answer": partial(_template, change=lambda t: t.replace("assistant:", "")),
    "template emptied": partial(_template, change=lambda _: ""),
    "other client: end": partial(_genai, part="model", values={"eos_token_id": 7}),
    "other client: draws": partial(_genai, part="search", values={"do_sample": True, "temperature": 2.0}),
    "other client: layers": partial(_genai, part="model", values={"context_length": 8}),
    **{
        f"setting: {name}": partial(_setting, name=key, value=value)
        for name, key, value in (
            ("other stop", "eos_token_id", _token),
            ("forced first token", "forced_bos_token_id", _token),
            ("short", "max_new_tokens", 4),
            ("never short", "min_new_tokens", 20),
            ("beams", "num_beams", 4),
            ("penalty", "repetition_penalty", 1.8),
            ("no repeats", "no_repeat_ngram_size", 2),
            ("draws", "do_sample", True),
            ("forbidden words", "bad_words_ids", lambda f, r: [[_token(f, r)] for _ in range(60)]),
        )
    },
}
"""Faults beside the graphs, whatever the target."""
TEXT_KINDS: dict[str, Plant] = SETTING_KINDS | {
    **{
        name: any_graph(function)
        for name, function in (
            ("cache: keys for values", partial(cache_exchanged, how="keys")),
            ("cache: cross attention", partial(cache_exchanged, how="cross")),
            ("cache: layers", partial(cache_exchanged, how="layers")),
            ("cache: scaled", cache_scaled),
            ("token favoured", token_favoured),
            ("table doubled", table_doubled),
            ("block scale x1.5", partial(block_scale, part=False)),
            ("block scale in part", partial(block_scale, part=True)),
            ("blocks turned", blocks_turned),
            ("positions frozen", partial(input_frozen, name="position_ids")),
            ("padding seen", partial(input_frozen, name="attention_mask")),
            ("future seen", future_seen),
        )
    },
}
