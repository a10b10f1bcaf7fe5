"""What becomes of a folder: right, refused, stopped by the check, wrong, or an error of ours. The judge is not ours."""

import contextlib
import json
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converter.errors import SourceError
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.reference import capture_reference
from converter.stage import SILENT
from converter.validate.checks import Status
from converter.validate.owner import check_owner
from tests.owner import PAIRS, TEXTS

LEAST_COSINE = 0.9999
QUESTIONS = tuple(Example(a.text, f"{b.text}. {a.text}!") for a, b in zip(PAIRS, PAIRS[::-1], strict=True))
MASKED = tuple(Example(" ".join(["[MASK]", *e.text.split()[1:]])) for e in TEXTS)


@dataclass(frozen=True)
class Fate:
    """How one folder came out."""

    outcome: str
    """`right`, `refused` (on loading), `stopped` (by the check), `wrong` or `internal error`."""
    said: str = ""
    cosine: float | None = None
    """The least of our reading to the owner's library over all texts; None where there is no reading."""
    check: str = ""
    error: float | None = None
    seconds: float = 0.0


def fate(folder: Path) -> Fate:
    """Load a folder as the product does, hold it to its own library, and judge it by that library called here."""
    try:
        return _fate(folder)
    except SourceError as error:
        return Fate("refused", str(error).replace(str(folder), folder.name))
    except Exception as error:  # noqa: BLE001 - that is what is counted
        return Fate("internal error", _told(error))


def _fate(folder: Path) -> Fate:
    source = load_source(str(folder))
    examples = _examples(folder, source.task.name)
    reference = capture_reference(source, examples, SILENT)
    # Of a long context every window is an example of its own.
    judged = [j.example for j in reference.judged]
    cosine = min(_cosines(folder, source.task.name, [j.outputs for j in reference.judged], judged))
    try:
        verdict = check_owner(source, reference, SILENT)
    except SourceError as error:
        return Fate("stopped", str(error).replace(str(folder), folder.name), cosine)
    right = cosine >= LEAST_COSINE and verdict.check.status is Status.PASS
    return Fate("right" if right else "wrong", "", cosine, verdict.check.status, verdict.check.value, verdict.seconds)


def _examples(folder: Path, task: str) -> Sequence[Example]:
    if task == "question-answering":
        return QUESTIONS
    if task == "fill-mask":
        return MASKED
    return (*PAIRS, *TEXTS) if task == "text-classification" and not _is_cross(folder) else _of(folder)


def _of(folder: Path) -> Sequence[Example]:
    return PAIRS if _is_cross(folder) else TEXTS


def _is_cross(folder: Path) -> bool:
    config = folder / "config_sentence_transformers.json"
    marked = (folder / "config.json").is_file() and '"sentence_transformers"' in (folder / "config.json").read_text()
    return marked or (config.is_file() and "CrossEncoder" in config.read_text())


def _cosines(folder: Path, task: str, ours: Sequence[Any], examples: Sequence[Example]) -> Iterator[float]:
    """Return the cosine of each answer of ours to what the library, called as its users call it, answers."""
    wanted = _wanted(folder, task, examples)
    for mine, theirs in zip(ours, wanted, strict=True):
        a = np.concatenate(
            [np.asarray(mine[name], dtype=np.float64).ravel() for name in theirs if name in mine] or [[]]
        )
        b = np.concatenate(
            [np.asarray(theirs[name], dtype=np.float64).ravel() for name in theirs if name in mine] or [[]]
        )
        if a.shape != b.shape or not a.size:
            yield 0.0
        elif a.size == 1:
            # Of two numbers the cosine is 1 or -1: how far apart they are says more.
            yield 1.0 - float(abs(a[0] - b[0])) / max(1.0, float(abs(b[0])))
        else:
            yield float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12))


def _wanted(folder: Path, task: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
    import torch

    if _is_cross(folder):
        from sentence_transformers import CrossEncoder

        scores = CrossEncoder(str(folder), device="cpu").predict(
            [(e.text, e.pair) for e in examples], batch_size=1, activation_fn=torch.nn.Identity()
        )
        return [{"logits": np.atleast_1d(s), "sentence_embedding": np.atleast_1d(s)} for s in scores]
    if (folder / "modules.json").is_file():
        from sentence_transformers import SentenceTransformer

        library = SentenceTransformer(str(folder), device="cpu")
        with contextlib.suppress(KeyError):
            return [{"sentence_embedding": v} for v in library.encode([e.text for e in examples], batch_size=1)]
        tokens = library.encode([e.text for e in examples], batch_size=1, output_value="token_embeddings")
        return [{"last_hidden_state": t.numpy()} for t in tokens]
    return [_plain(folder, task, e) for e in examples]


def _plain(folder: Path, task: str, example: Example) -> dict[str, Any]:
    """Ask transformers' Auto classes, one text, with the tokenizer's own defaults."""
    import torch
    import transformers

    names = {
        "text-classification": ("AutoModelForSequenceClassification", ["logits"]),
        "token-classification": ("AutoModelForTokenClassification", ["logits"]),
        "question-answering": ("AutoModelForQuestionAnswering", ["start_logits", "end_logits"]),
        "fill-mask": ("AutoModelForMaskedLM", []),
        "feature-extraction": ("AutoModel", ["last_hidden_state"]),
    }[task]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = (
        merged_by_hand(folder, names[0], folder.parent / "base") if (folder / "adapter_config.json").is_file() else None
    )
    model = model or getattr(transformers, names[0]).from_pretrained(folder, dtype=torch.float32)
    text = example.text.replace("[MASK]", tokenizer.mask_token)
    fed = tokenizer(text, example.pair, truncation=True, return_tensors="pt")
    if task == "question-answering":
        fed = _window(tokenizer, example)
    with torch.inference_mode():
        made = model.eval()(**fed)
    found = {name: made[name][0].numpy() for name in names[1]}
    masks = (fed["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten()
    return found or {"logits": made["logits"][0][masks].numpy()}


def _window(tokenizer: Any, example: Example) -> dict[str, Any]:
    """Return the window of a context as transformers' own pipeline cuts it (4.57: 384 tokens, 128 of them shared)."""
    limit = min(tokenizer.model_max_length, 384)
    asked = tokenizer(example.text, add_special_tokens=False)["input_ids"]
    room = limit - len(asked) - tokenizer.num_special_tokens_to_add(pair=True)
    stride = min(limit // 2, 128)
    made = tokenizer(
        example.text,
        example.pair,
        truncation="only_second",
        max_length=limit,
        stride=stride if stride < room * 3 // 4 else room // 2,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    real = made["attention_mask"][example.window].bool()
    return {name: made[name][example.window : example.window + 1, real] for name in tokenizer.model_input_names}


def merged_by_hand(folder: Path, auto_class: str, base: Path) -> Any:
    """Merge the adapter by hand, by the formula of its paper: W + alpha / r · B A."""
    import torch
    import transformers
    from safetensors.torch import load_file

    model = getattr(transformers, auto_class).from_pretrained(base, dtype=torch.float32)
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = load_file(folder / "adapter_model.safetensors")
    for name in (n for n in weights if n.endswith("lora_A.weight")):
        place = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        with torch.no_grad():
            scale = config["lora_alpha"] / config["r"]
            model.get_submodule(place).weight += scale * weights[name.replace("lora_A", "lora_B")] @ weights[name]
    return model


def _told(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
