"""The command line as a table: what is typed, the exit code, what is said."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import converter.api
from converter import errors
from converter.commands import cli
from converter.commands.terminal import Terminal
from converter.errors import SourceError
from converter.model_folder.locate import locate

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plm_export(capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command line in this process: exit code, stdout, stderr."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = cli.run(argv)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Return a function that makes the export end with an error."""

    def install(error: BaseException) -> None:
        def convert(*_given: Any, **_options: Any) -> None:
            raise error

        monkeypatch.setattr(converter.api, "convert", convert)

    return install


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["m", "--target", "cpu-in8"], 2, "did you mean 'cpu-int8'"),
        (["m", "--target", "cpu_in8"], 2, "did you mean 'cpu-int8'"),
        (["m", "--tragte", "tflite"], 2, "--target"),
        (["m", "--target"], 2, "requires an argument"),
        (["m", "n"], 2, "unexpected extra argument"),
        (["verfy"], 2, "did you mean `plm-export verify`"),
        (["verfy", "out", "--junit", "x"], 2, "did you mean `plm-export verify`"),
        (["m", "--max_drop", "much"], 2, "wanted a drop"),
        (["m", "--max-drop", "0.5"], 2, "0.5pt, or 0.005"),
        (["m", "--probes", "0"], 2, "at least 1"),
        (["m", "--seed", "-1"], 2, "at least 0"),
        (["m", "--limit", "agreement"], 2, "not NAME=VALUE"),
        (["m", "--limit", "agrement=0.9"], 2, "did you mean 'agreement'"),
        (["m", "--limit", "agreement=1.5"], 2, "between 0.0 and 1.0"),
        (["m", "--limit", "agreement=most"], 2, "wanted a number"),
        (["m", "--quantize", "dinamic"], 2, "did you mean 'dynamic'"),
        (["m", "--quantize", "tflite=int8"], 2, "'tflite' is not a target of this run"),
        (["m", "--seq_len", "16"], 2, "no target of this run has fixed lengths"),
        (["m", "--distill", "sofd"], 2, "did you mean 'soft'"),
        (["m", "--distill", "soft:tempratur=2"], 2, "did you mean 'temperature'"),
        (["m", "--distill", "soft:temperature"], 2, "not key=value"),
        (["m", "--recipe", "nowhere.toml"], 2, "no such recipe"),
        (["./nowhere", "--target", "cpu-int8"], 4, "nowhere"),
        (["verify"], 2, "Missing argument"),
        (["inspect", "nowhere"], 6, "there is no such folder"),
        (["diff", "nowhere", "either"], 6, "not a sealed package"),
        (["bench", "nowhere"], 6, "there is no such folder"),
        (["bench", ".", "--threads", "0"], 2, "whole numbers above 0"),
        (["list", "target"], 2, "did you mean 'targets'"),
        (["describe", "dinamic"], 2, "did you mean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input_ends_with_its_code_and_the_nearest_that_exists(
    argv: list[str], code: int, said: str, plm_export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found, out, err = plm_export(*argv)
    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        error
        for error in (*errors.ExportError.__subclasses__(), *errors.UsageError.__subclasses__())
        if error is not errors.EndedElsewhere  # its code is that of another process
    ],
)
def test_every_deliberate_error_has_its_code_one_line_and_its_hint(
    error: type[errors.ExportError], plm_export: Run, fails: Callable[[BaseException], None]
) -> None:
    fails(error("it broke\nin two lines", where="here", hint="mend it"))
    code, out, err = plm_export("m", "--target", "cpu-int8")
    assert code == error.exit_code
    assert 2 <= code <= 7
    assert err.splitlines()[-2:] == [f"error: here: it broke in two lines [{error.code}]", "hint: mend it"]
    assert out == ""


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 7, "memory ran out"),
        (OSError(errno.ENOMEM, "no"), 7, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 7, "memory ran out"),
        (OSError(errno.ENOSPC, "full"), 7, "the disk is full"),
        (OSError(errno.EDQUOT, "full"), 7, "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), 7, "a file became larger than the system allows"),
        (PermissionError(errno.EACCES, "no", "/root/x"), 2, "/root/x: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was left behind"),
        (ZeroDivisionError("division by zero"), 1, "internal error (bug): ZeroDivisionError: division by zero"),
        (RuntimeError("something else"), 1, "internal error (bug)"),
    ],
)
def test_every_other_end_is_a_line_and_a_code(
    error: BaseException, code: int, said: str, plm_export: Run, fails: Callable[[BaseException], None]
) -> None:
    fails(error)
    found, _, err = plm_export("m", "--target", "cpu-int8")
    assert found == code
    assert said in err
    assert "Traceback" not in err


def test_a_bug_shows_where_only_when_asked(plm_export: Run, fails: Callable[[BaseException], None]) -> None:
    fails(ZeroDivisionError("oops"))
    assert "run again with -v" in plm_export("m")[2]
    assert "Traceback" in plm_export("m", "-v")[2]


def test_with_json_an_error_is_one_document(plm_export: Run, fails: Callable[[BaseException], None]) -> None:
    fails(errors.SourceError("no weights", hint="look"))
    code, out, _ = plm_export("m", "--json")
    assert json.loads(out) == {
        "error": {"code": "PLM400", "message": "no weights", "hint": "look"},
        "exit_code": 4,
    }
    assert code == 4


def test_checkpoints_that_are_kept_are_named(
    plm_export: Run, fails: Callable[[BaseException], None], tmp_path: Path
) -> None:
    kept = tmp_path / ".out.resume"
    kept.mkdir()
    fails(KeyboardInterrupt())
    assert f"checkpoints kept for resume in {kept}" in plm_export("m", "-o", str(tmp_path / "out"))[2]


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from converter.commands import cli; cli.run(['--help']); cli.run(['export', '--help']);"
        "heavy = {'torch', 'numpy', 'transformers', 'onnx', 'onnxruntime', 'tensorflow', 'litert_torch', 'rich'};"
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--target" in done.stdout


def test_no_arguments_show_the_help(plm_export: Run) -> None:
    code, out, _ = plm_export()
    assert code == 0
    assert out.startswith("Usage: plm-export")


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "converter.commands.cli", "list"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_dry_run_prints_the_recipe_and_makes_nothing(plm_export: Run, tmp_path: Path) -> None:
    import tomllib

    code, out, _ = plm_export(
        "org/model", "--target", "cpu_int8", "--seed", "7", "--dry-run", "-o", str(tmp_path / "out")
    )
    assert code == 0
    assert tomllib.loads(out)["seed"] == 7
    assert tomllib.loads(out)["targets"] == ["cpu-int8"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        (("./absent",), 4, "no such folder"),
        (("org/model", "--eval", "absent.tsv"), 2, "absent.tsv: no such file"),
        (("org/model", "--calibration", "."), 2, "this is a folder"),
        (("org/model", "--task", "text-clasification"), 2, "did you mean 'text-classification'?"),
        (("org/model", "-o", "file"), 2, "the output is a file"),
        (("org/model", "-o", "foreign"), 2, "the output exists and is not empty"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse_at_once(
    plm_export: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("foreign").mkdir()
    Path("foreign/notes.txt").touch()
    found, out, err = plm_export(*typed, "--target", "cpu-int8", "--dry-run")
    assert (found, out) == (code, "")
    assert said in err
    assert {p.name for p in tmp_path.iterdir()} == {"file", "foreign"}


@pytest.mark.parametrize("typed", [("",), ("m", "--slices", ""), ("m", "--seq-len", " "), ("m", "--columns", "")])
def test_an_empty_value_is_refused_and_never_read_as_a_wish(plm_export: Run, typed: tuple[str, ...]) -> None:
    """A script's variable that is not set: `--slices "$KINDS"` would turn a gate off."""
    code, _, err = plm_export(*typed, "--target", "tflite", "--dry-run")
    assert code == 2
    assert "the value is empty" in err


@pytest.mark.parametrize(
    "typed",
    [("m" * 300,), (f"./{'m' * 300}",), (f"org/{'m' * 300}",), ("verify", "m" * 300), ("org/m", "-o", "m" * 300)],
    ids=["a word", "a folder", "an id", "a package", "an output"],
)
def test_a_name_that_no_file_can_have_is_refused_and_is_no_bug(plm_export: Run, typed: tuple[str, ...]) -> None:
    code, _, err = plm_export(*typed, *(() if typed[0] == "verify" else ("--target", "cpu-int8", "--dry-run")))
    assert code == 2
    assert "so long a name" in err
    assert len(err) < 250


def test_a_model_whose_name_no_folder_can_have_is_refused_by_the_library_too() -> None:
    with pytest.raises(SourceError, match="no such folder"):
        locate(f"org/{'m' * 300}", None)


def test_list_and_describe_name_every_target_and_method(plm_export: Run) -> None:
    from converter.registry import KINDS, stage_names, target_names

    listed = json.loads(plm_export("list", "--json")[1])
    assert set(listed["targets"]) == set(target_names())
    named = {name for kind in KINDS for name in listed[kind]}
    assert named == {n for n in stage_names() if not n.startswith("quantize.")} | set(listed["quantize"])
    for name in (*target_names(), *named, "limits"):
        found = json.loads(plm_export("describe", name, "--json")[1])
        assert found["name"] == name
        assert all(option["help"] for option in found["options"]), name
    assert "agreement" in plm_export("describe", "limits")[1]


@pytest.mark.parametrize("name", ["static", "dynamic", "none"])
def test_a_precision_is_described_for_each_target_that_offers_it(name: str, plm_export: Run) -> None:
    from converter.registry import target_class, target_names

    found = json.loads(plm_export("describe", name, "--json")[1])
    assert {d["name"] for d in found} == {f"{t}={name}" for t in target_names() if name in target_class(t).menu()}
    said = plm_export("describe", name)[1]
    assert all(d["name"] in said and option["name"] in said for d in found for option in d["options"])


@pytest.mark.parametrize("name", ["litert_static", "quantize.litert_static", "tflite=static", "tflite=mixed"])
def test_a_described_precision_can_be_typed(name: str, plm_export: Run, tmp_path: Path) -> None:
    """`describe` once told users to type `--quantize TARGET=litert_static`, which is no precision."""
    found = json.loads(plm_export("describe", name, "--json")[1])
    assert found["options"]
    typed = found["usage"].partition(":")[0].split()
    assert typed[0] == "--quantize"
    code, _, err = plm_export("org/m", "--target", "tflite", *typed, "--dry-run", "-o", str(tmp_path / "out"))
    assert code == 0, err


def test_a_method_and_a_precision_of_one_name_are_both_described(plm_export: Run) -> None:
    found = json.loads(plm_export("describe", "mixed", "--json")[1])
    assert [d["name"] for d in found] == ["prune.mixed", "tflite=mixed"]


def test_what_libraries_print_reaches_neither_stream(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    with terminal.hushed():
        os.write(1, b"noise from C++\n")
        os.write(2, b"more noise\n")
        terminal.result("the result")
        terminal.say("a word")
    said = capfd.readouterr()
    assert (said.out, said.err) == ("the result\n", "a word\n")
    assert "noise from C++\nmore noise\n" in terminal.replay()


LATE = """
import os, sys
import click
import converter.commands.cli as cli
from converter.commands.session import quiet_options

class Runtime:
    # Opened by a command; a library writes when it is freed.
    def __init__(self, text):
        self.text = text.encode()

    def __del__(self, write=os.write):
        write(2, self.text)
        write(1, self.text)

@cli.cli.command("ask")
@quiet_options
@click.pass_obj
def ask(session):
    with session.terminal.hushed():
        global kept
        opened, kept = Runtime("with the command;"), Runtime("with Python;")
        turning = Runtime("with rubbish;")
        turning.itself = turning
        session.terminal.result("the answer")
    with session.terminal.hushed():
        session.terminal.say("a word")
    ENDING

sys.argv = ["plm-export", "ask", *sys.argv[1:]]
cli.COMMANDS = (*cli.COMMANDS, ask)
cli.main()
"""


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("return 0", 0, ""),
        ("raise cli.UsageError('wrong', hint='mend it')", 2, "error: wrong [PLM200]\nhint: mend it\n"),
        ("raise KeyboardInterrupt", 130, "error: interrupted; nothing was left behind\n"),
        ("os.kill(os.getpid(), 2)", 130, "error: interrupted; nothing was left behind\n"),
    ],
)
@pytest.mark.parametrize("verbose", [False, True])
def test_what_libraries_say_while_they_are_freed_is_seen_with_verbose_alone(
    ending: str, code: int, said: str, verbose: bool
) -> None:
    words = [sys.executable, "-c", LATE.replace("ENDING", ending), *(["-v"] if verbose else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (code, "the answer\n")
    if verbose:
        assert "with the command;" in done.stderr
    else:
        assert done.stderr == f"a word\n{said}"


def test_verbose_shows_the_noise_but_keeps_results_apart(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.verbose = True
    with terminal.hushed():
        os.write(1, b"noise\n")
        terminal.result("the result")
    said = capfd.readouterr()
    assert said.out == "the result\n"
    assert "noise" in said.err


def test_quiet_says_nothing_but_errors(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.quiet = True
    with terminal.hushed():
        terminal.say("a word")
        terminal.error("broken", "mend it")
        with terminal.progress().task("Working", 3) as ticker:
            ticker.advance()
    assert capfd.readouterr().err == "error: broken\nhint: mend it\n"
