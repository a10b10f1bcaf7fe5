"""What a package says to a text, through the files that it ships: a continuation, a label, tags, a span, a vector."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.bounds.files import MEGABYTE, UnfitFileError, read_bounded
from converter.data.encode import tidies_text
from converter.errors import PackageDamaged, UsageError
from converter.examples import Example
from converter.generate.loop import generate
from converter.generate.settings import with_usual_length
from converter.package.manifest import check_files, read_manifest
from converter.package.verify import open_runner, read_specs, task_of
from converter.task import Judged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.generate.settings import GenerationSettings
    from converter.target import Runner
    from converter.task import Task

LARGEST = 64 * MEGABYTE
"""Of a file of texts to ask."""
HEAD = 8
"""Numbers of a vector that are shown."""
MASKED, EMBEDS = "fill-mask", "feature-extraction"


@dataclass(frozen=True)
class Opened:
    """A sealed package, its files checked, ready to be asked."""

    task: "Task"
    tokenizer: Any
    specs: Any
    runner: "Runner"
    max_length: int

    @property
    def writes(self) -> bool:
        return self.task.kind != "encoder"

    def answer_in(self, language: str) -> None:
        """Let a translator of several languages answer in this one.

        Raises:
            UsageError: it has no such language.

        """
        if not self.writes:
            raise UsageError(f"a model for {self.task.name} writes no text", where="--language", hint="leave it out")
        task: Any = self.task
        task.answer_in(language, self.tokenizer)

    def settings(self, given: Mapping[str, Any]) -> "GenerationSettings":
        """Return how the package generates by itself, overruled by what is `given`."""
        task: Any = self.task
        return replace(with_usual_length(task.settings), **given)

    def write(self, text: "str | Sequence[int]", settings: "GenerationSettings", show: Callable[[str], None]) -> str:
        """Let the package write after (or about) `text`; `show` is given each piece as soon as it is sure.

        A conversation is given as its tokens.

        Raises:
            UsageError: the text leaves no room for an answer.

        """
        prompt = self._prompt(text)
        tokens: list[int] = []
        shown, tidies = "", tidies_text(self.tokenizer)

        def decoded() -> str:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

        def take(step: "NDArray[np.int64]") -> None:
            nonlocal shown
            tokens.append(int(step[0]))
            said = decoded()
            # A character may be spelled by several tokens, and what follows may still change the last one.
            if said.endswith("\ufffd"):
                return
            # So may a space be taken out again that punctuation follows.
            sure = said[: max(0, said.rfind(" "))] if tidies else said
            if sure.startswith(shown):
                show(sure[len(shown) :])
                shown = sure

        made = generate(self.runner.run, self.specs, prompt, settings, take)
        tokens = made.texts(settings)[0]
        whole = decoded()
        # Should it not go on from what is shown, all of it is shown once more.
        show(whole[len(shown) :] if whole.startswith(shown) else f"\n{whole}")
        return whole

    def _prompt(self, text: "str | Sequence[int]") -> "dict[str, NDArray[np.int64]]":
        if not isinstance(text, str):
            ids = np.array([text], dtype=np.int64)
            return {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        task: Any = self.task
        # All of it is read, so that a text that is too long is refused and not cut in silence.
        made: dict[str, NDArray[np.int64]] = task.prompt_of(task.encode(self.tokenizer, Example(text), 10**6))
        return made

    def answer(self, text: str, pair: str | None = None) -> dict[str, Any]:
        """Return what an encoder's package answers: `answer` in words, and the numbers behind it.

        Raises:
            UsageError: a question needs a context, which is missing.

        """
        if self.task.windowed and pair is None:
            raise UsageError("a question needs the text that answers it", where="--pair", hint='--pair "the context"')
        words = tuple(text.split()) if self.task.label_kind == "tags" else None
        example = Example(text, pair, words)
        judged = [self._judged(one) for one in self.task.windows(self.tokenizer, example, self.max_length)]
        if self.task.name == EMBEDS:
            return _vector(judged[0])
        decision = self.task.decisions(judged)[0]
        if self.task.name == MASKED:
            return {"answer": ", ".join(str(self.tokenizer.decode([i])).strip() for i in decision)}
        made: dict[str, Any] = {"answer": self.task.describe(decision, example)}
        if words is not None:
            made["tags"] = list(zip(words, decision, strict=False))
        elif self.task.labels and self.task.has_labels:
            logits = judged[0].outputs["logits"].astype(np.float64)
            made["logits"] = dict(zip(self.task.labels, logits.tolist(), strict=True))
        return made

    def _judged(self, example: Example) -> Judged:
        from converter.reference import own_outputs

        encoding = self.task.encode(self.tokenizer, example, self.max_length)
        made = self.task.answer(self.specs, self.runner.run, self.task.feed(self.specs, [encoding]))
        return Judged(example, encoding, own_outputs(made, 0, encoding, self.task, self.specs))


def _vector(judged: Judged) -> dict[str, Any]:
    name = "sentence_embedding" if "sentence_embedding" in judged.outputs else next(iter(judged.outputs))
    values = judged.outputs[name]
    first = values if values.ndim == 1 else values[0]
    shape = " × ".join(map(str, values.shape))
    return {"answer": f"{name} [{shape}]: {_numbers(first[:HEAD])}", name: values.tolist()}


def _numbers(values: "NDArray[np.float32]") -> str:
    return " ".join(f"{float(v):.4f}" for v in values) + " …"


def read_texts_to_ask(path: Path) -> list[str]:
    """Read texts to ask packages, one on each line.

    Raises:
        UsageError: there are none, or it is no text.

    """
    try:
        read = read_bounded(path, LARGEST).decode()
    except FileNotFoundError:
        raise UsageError("there is no such file", where=str(path)) from None
    except UnicodeDecodeError:
        raise UsageError("it is not text in UTF-8", where=str(path)) from None
    except (UnfitFileError, OSError) as error:
        raise UsageError(f"it cannot be read ({error})", where=str(path)) from None
    return texts_to_ask(read, str(path))


def text_to_ask(text: str, where: str) -> str:
    """Return a text without the mark that some editors begin files with.

    Raises:
        UsageError: it holds bytes that are no text in UTF-8, as Python takes them from a terminal.

    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("it is not text in UTF-8", where=where) from None
    return text.removeprefix("\ufeff")


def texts_to_ask(read: str, where: str) -> list[str]:
    """Return the lines that are not blank; `UsageError` where there are none."""
    # Not `splitlines`: a text may hold a line separator of Unicode, or a form feed.
    lines = [line for line in re.split("\r\n|\r|\n", text_to_ask(read, where)) if line.strip()]
    if not lines:
        raise UsageError("there is no text in it", where=where)
    return lines


def open_for_answers(folder: Path, *, threads: int = 1) -> Opened:
    """Open a sealed package to ask it.

    Raises:
        PackageDamaged: names what is wrong.
        RuntimeMissing: the package's runtime is not installed.

    """
    from converter.validate.interface import load_tokenizer

    manifest = read_manifest(folder)
    check_files(folder, manifest)
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise PackageDamaged(f"the tokenizer does not load ({error})", where=str(folder)) from None
    specs, task, longest = read_specs(folder, manifest), task_of(folder, manifest), int(manifest["max_length"])
    task.read_folder(folder, tokenizer, longest)
    return Opened(task, tokenizer, specs, open_runner(folder, manifest, specs, threads), longest)
