"""The tokenizers of the samples in C++ and Java, compiled as programs that answer rows: for tests and benchmarks."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converter.device.samples import PACKAGE, TEMPLATES, tokenizer_templates
from converter.device.tables import escaped, unescaped

PROGRAMS = Path(__file__).parent / "contract" / "programs"


@dataclass(frozen=True)
class Answers:
    """What a program says of texts and of ids."""

    ids: list[list[int]]
    decoded: list[str]
    streamed: list[list[str]]
    """What a stream gave for each token, and at the end."""
    load_s: float = 0.0
    encode_s: float = 0.0
    """Seconds to open the tables, and to encode all texts once."""


def lay_sources(language: str, folder: Path) -> None:
    """Write the tokenizer's files of a language, and the program, to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in tokenizer_templates():
        if name.startswith(f"{language}/"):
            text = (TEMPLATES / name).read_text("utf-8").replace("{{ package }}", PACKAGE)
            (folder / Path(name).name).write_text(text, "utf-8")
    for path in PROGRAMS.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def compiled(language: str, folder: Path, *flags: str) -> list[str]:
    """Compile the program; returns the command that runs it.

    Raises:
        RuntimeError: it does not compile; the text is what the compiler says.

    """
    lay_sources(language, folder)
    if language == "cpp":
        strict = ("-std=c++17", "-Wall", "-Wextra", "-Werror")
        build = ["g++", *strict, *flags, str(folder / "tokenize.cpp"), "-o", str(folder / "tokenize")]
        command = [str(folder / "tokenize")]
    else:
        sources = [str(p) for p in sorted(folder.glob("*.java"))]
        strict = ("-Xlint:all", "-Werror", "--release", "8", "-Xlint:-options")
        build = ["javac", *strict, *flags, "-d", str(folder / "out"), *sources]
        command = ["java", "-cp", str(folder / "out"), f"{PACKAGE}.Tokenize"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return command


def ask(
    command: Sequence[str], tables: Path, texts: Sequence[str], ids: Sequence[Sequence[int]], runs: int = 0
) -> Answers:
    """Run a program on texts and on ids; with `runs`, encode all texts so often once more for the time.

    Raises:
        RuntimeError: it ended with an error.

    """
    rows = [f"text\t{escaped(t)}" for t in texts] + [f"ids\t{' '.join(map(str, i))}" for i in ids]
    timed = ["--time", str(runs)] if runs else []
    done = subprocess.run(
        [*command, str(tables), *timed], input=("\n".join(rows) + "\n").encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-3000:])
    lines = done.stdout.decode().split("\n")[:-1]
    cells = [line.split("\t") for line in lines[len(texts) :]]
    times = [float(x) for x in done.stderr.split()] if runs else [0.0, 0.0]
    return Answers(
        [[int(x) for x in line.split("\t")[0].split()] for line in lines[: len(texts)]],
        [unescaped(row[0]) for row in cells],
        [[unescaped(cell) for cell in row[1:]] for row in cells],
        times[0],
        times[1] / max(1, runs),
    )
