"""`plm-export run PACKAGE [TEXT]`: what a package says."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converter.commands.foreign import MEMORY, SECONDS, held, usual_memory
from converter.commands.session import Session, json_option, limit_options, quiet_options
from converter.commands.verify import packages_in
from converter.errors import UsageError
from converter.generate.chat import chat_ids, has_chat

if TYPE_CHECKING:
    from converter.package.answer import Opened

OF_SAMPLING = ("temperature", "top_k", "top_p", "seed")
OF_WRITERS = ("max_new_tokens", "beams", *OF_SAMPLING)
ABOVE_0, SHARE = click.FloatRange(0, min_open=True), click.FloatRange(0, 1, min_open=True)


@click.command("run", short_help="Ask a package: continue or translate a text, or show its answer.")
@click.argument("package", type=click.Path(path_type=Path))
@click.argument("text", required=False)
@click.option("--file", type=click.Path(path_type=Path), help="Read the texts from a file, one on each line.")
@click.option("--pair", metavar="TEXT", help="The second text: the context of a question, the other of two sentences.")
@click.option("--max-new-tokens", type=click.IntRange(1), metavar="N", help="Write at most N tokens.")
@click.option(
    "--beams", type=click.IntRange(1), metavar="N", help="Search with N beams; 1 takes the likeliest token each time."
)
@click.option("--sample", is_flag=True, help="Draw tokens at random instead of taking the likeliest.")
@click.option("--temperature", type=ABOVE_0, metavar="T", help="With --sample: above 1 more varied, below 1 less.")
@click.option(
    "--top-k", type=click.IntRange(0), metavar="N", help="With --sample: draw from the N likeliest tokens; 0: from all."
)
@click.option("--top-p", type=SHARE, metavar="P", help="With --sample: draw from the likeliest that hold this share.")
@click.option("--seed", type=int, metavar="N", help="With --sample: the same seed writes the same text.")
@click.option("--language", metavar="CODE", help="What a translator of several languages answers in: de, deu_Latn, …")
@click.option("--chat", is_flag=True, help="The text is a message: put it into the model's chat template.")
@click.option("--system", metavar="TEXT", help="With --chat: the system message before it.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of threads.")
@limit_options(seconds=SECONDS, memory=MEMORY)
@json_option
@quiet_options
@click.pass_obj
def run(
    session: Session,
    package: Path,
    text: str | None,
    file: Path | None,
    pair: str | None,
    sample: bool,  # noqa: FBT001 - click's signature
    language: str | None,
    chat: bool,  # noqa: FBT001
    system: str | None,
    threads: int,
    max_new_tokens: int | None,
    beams: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    max_memory: int | None,
    timeout: float,
) -> int:
    """Ask PACKAGE about TEXT, through the files that it ships. Without TEXT, each line of stdin is a text.

    A model that writes text prints it as it comes; others print their label, tags, span, words or vector.
    """
    from converter.package.answer import open_for_answers, text_to_ask

    values = (max_new_tokens, beams, temperature, top_k, top_p, seed)
    given: dict[str, Any] = {n: v for n, v in zip(OF_WRITERS, values, strict=True) if v is not None}
    if sample and (beams or 1) > 1:
        raise UsageError("it searches or it samples", where="--beams", hint="leave --beams or --sample out")
    # Beams search where the model's own folder would sample, and the other way round.
    given |= {"sample": True, "beams": 1} if sample else {"sample": False} if beams else {}
    if system is not None and not chat:
        raise UsageError("it is part of a chat", where="--system", hint="add --chat")
    pair = None if pair is None else text_to_ask(pair, "--pair")
    system = None if system is None else text_to_ask(system, "--system")
    texts = _texts(text, file)
    folder = _only_package(package)
    terminal = session.terminal
    memory = max_memory or usual_memory(folder)
    with terminal.hushed():
        with held(session, folder, memory, timeout):
            opened = open_for_answers(folder, threads=threads)
        if language is not None:
            opened.answer_in(language)
        _refuse_unused(opened, given | ({"chat": True} if chat else {}), pair)
        if opened.writes and not chat and has_chat(opened.tokenizer):
            terminal.say("the model has a chat template: --chat puts the text into it")
        asked = _Asked(pair, chat, system, given)
        rows = []
        for n, one in enumerate(texts, 1):
            if terminal.reader_has_gone:
                break
            with held(session, folder, memory, timeout), _naming(n, len(texts), file):
                rows.append(_ask(session, opened, one, asked))
        if terminal.json:
            session.print_json(rows[0] if len(rows) == 1 else rows)
    return 0


@dataclass(frozen=True)
class _Asked:
    """What is asked beside the text."""

    pair: str | None
    chat: bool
    system: str | None
    given: dict[str, Any]


def _ask(session: Session, opened: "Opened", text: str, asked: _Asked) -> dict[str, Any]:
    terminal, pair = session.terminal, asked.pair
    if opened.writes:
        show = (lambda _: None) if terminal.json else terminal.stream
        prompt = chat_ids(opened.tokenizer, text, asked.system) if asked.chat else text
        written = opened.write(prompt, opened.settings(asked.given), show)
        if not terminal.json:
            terminal.stream("\n")
        return {"text": text, "written": written}
    found = opened.answer(text, pair)
    if not terminal.json:
        terminal.result(str(found["answer"]))
    return {"text": text, **({"pair": pair} if pair is not None else {}), **found}


@contextlib.contextmanager
def _naming(number: int, count: int, file: Path | None) -> Iterator[None]:
    """Say of several texts which one cannot be answered, blank lines not counted."""
    try:
        yield
    except UsageError as error:
        if count == 1 or error.where:
            raise
        raise UsageError(str(error), where=f"{file or 'stdin'}, text {number} of {count}", hint=error.hint) from error


def _texts(text: str | None, file: Path | None) -> list[str]:
    from converter.package.answer import read_texts_to_ask, text_to_ask, texts_to_ask

    if text is not None and file is not None:
        raise UsageError("give a text or --file, not both", where="--file")
    if text is not None:
        return [text_to_ask(text, "TEXT")]
    if file is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("there is no text", hint='plm-export run PACKAGE "Good morning", or --file FILE')
        try:
            return texts_to_ask(sys.stdin.read(), "stdin")
        except UnicodeDecodeError:
            raise UsageError("it is not text in UTF-8", where="stdin") from None
    return read_texts_to_ask(file)


def _only_package(package: Path) -> Path:
    found = packages_in(package)
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise UsageError(f"there are several packages in it: {names}", where=str(package), hint="name one of them")
    return found[0]


def _refuse_unused(opened: "Opened", given: dict[str, Any], pair: str | None) -> None:
    if opened.writes and pair is not None:
        raise UsageError(f"a model for {opened.task.name} reads one text", where="--pair", hint="leave it out")
    drawn = [name for name in OF_SAMPLING if name in given]
    if opened.writes and drawn and not given.get("sample", opened.settings({}).sample):
        flag = "--" + drawn[0].replace("_", "-")
        raise UsageError("the likeliest token is taken each time, nothing is drawn", where=flag, hint="add --sample")
    if not opened.writes and given:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise UsageError(f"a model for {opened.task.name} writes no text", where=flag, hint="leave it out")
