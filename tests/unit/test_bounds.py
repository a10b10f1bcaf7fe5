"""What comes from outside is bounded before it is read, and shown as printable text; runs are held to their limits."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from converter.bounds.documents import MAX_DEPTH, parse_json
from converter.bounds.exhausted import exhausted
from converter.bounds.files import UnfitFileError, read_bounded
from converter.bounds.printable import one_line, printable, printable_json
from converter.bounds.sizes import parse_seconds, parse_size, shown_size
from converter.bounds.watch import (
    STATM,
    Doing,
    LimitReached,
    Limits,
    check_address_space,
    check_estimate,
    disk_bytes,
    memory_bytes,
    watched,
)
from converter.errors import ResourceLimit, StageFailed, UsageError
from converter.stage import SILENT


def test_a_regular_file_within_its_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(UnfitFileError, match="at most"):
        read_bounded(tmp_path / "a", 4)


def test_what_never_ends_or_waits_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("zero", "a device"), (".", "a folder")):
        with pytest.raises(UnfitFileError, match=kind):
            read_bounded(tmp_path / name, 100)
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "absent", 100)


def test_a_file_that_does_not_say_its_size_is_bounded_too() -> None:
    with pytest.raises(UnfitFileError, match="at most"):
        read_bounded(Path("/proc/self/maps"), 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[Infinity]",
        "9" * 5000,
        "[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2),
        "[" * 100_000,
        '"\\ud800"',
        '{"\\udc00": 1}',
        '{"a": [{"b": ["\\uDbff"]}]}',
        '{"a": "\ud800"}',
        b"\xff",
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_is_no_json_is_unfit(text: str | bytes) -> None:
    with pytest.raises(UnfitFileError):
        parse_json(text)


def test_values_are_counted_before_they_are_made() -> None:
    content = b"[" + b"[]," * 100 + b"[]]"
    assert len(parse_json(content, max_values=250)) == 101
    with pytest.raises(UnfitFileError, match="values"):
        parse_json(content, max_values=200)


def test_real_json_is_read_as_it_is() -> None:
    value = {"a": [1, 2.5, None, True, "größe 🙂 \t"], "b": {"c": "\x1b"}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False)) == value
    assert parse_json(b"\xef\xbb\xbf[1]", byte_order_mark=True) == [1]


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x9b31m", "a\rb", "\u202eabc", "\x07", "\ud800", "\u2028", "\x7f"])
def test_what_a_terminal_obeys_is_shown_as_an_escape(text: str) -> None:
    assert printable(text) != text
    assert printable(text).isprintable()
    shown = printable_json(json.dumps(text, ensure_ascii=False))
    assert shown.isprintable()
    assert json.loads(shown) == text


def test_words_of_any_script_stay_as_they_are() -> None:
    text = "größe, 東京都, Привет, नमस्ते, مرحبا, 👩\u200d🔧\tb\n"
    assert printable(text) == text
    assert one_line("a\nPASS  other") == "a\\nPASS  other"


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4 * 10**9), ("512MiB", 2**29), ("1.5 gb", 1_500_000_000), ("10kB", 10_000), ("7B", 7)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text, "--max-memory") == size


@pytest.mark.parametrize("text", ["4", "GB", "-1GB", "0MB", "4XB", "1e9B", "9" * 40 + "GB", "", "4GB4GB"])
def test_a_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-memory"):
        parse_size(text, "--max-memory")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2 min", 120), ("0.5s", 0.5)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["90", "s", "-1s", "0s", "10 apples", "", "s10"])
def test_a_time_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        parse_seconds(text, "--timeout")


def test_sizes_are_shown_in_three_digits() -> None:
    assert [shown_size(n) for n in (5, 1500, 2_340_000, 12e9)] == ["5 B", "1.5 kB", "2.34 MB", "12 GB"]


def test_a_run_that_takes_too_long_is_stopped_with_stage_and_figure() -> None:
    doing = Doing(SILENT)
    limits = Limits(seconds=0.2)
    with pytest.raises(LimitReached) as raised, watched(limits, stage=lambda: doing.stage), doing.task("Exporting"):
        time.sleep(30)
    assert isinstance(raised.value.error, ResourceLimit)
    assert "'Exporting': 0.2 s are over" in str(raised.value.error)
    assert "--timeout" in raised.value.error.hint


def test_a_run_that_takes_too_much_memory_is_stopped() -> None:
    held = []
    with pytest.raises(LimitReached, match="of memory are in use"), watched(Limits(memory=memory_bytes() + 50_000_000)):
        for _ in range(400):
            held.append(bytearray(os.urandom(1 << 20)))
            time.sleep(0.005)
    assert len(held) < 400


def test_a_run_that_writes_too_much_is_stopped(tmp_path: Path) -> None:
    limits = Limits(disk=3_000_000)
    with pytest.raises(LimitReached, match="are written"), watched(limits, folders=lambda: [tmp_path]):
        for i in range(1000):
            (tmp_path / str(i)).write_bytes(b"x" * 100_000)
            time.sleep(0.02)
    assert disk_bytes([tmp_path]) < 50_000_000


def test_within_its_limits_a_run_is_left_alone() -> None:
    with watched(Limits(memory=10**13, disk=10**13, seconds=100), folders=lambda: [Path(__file__).parent]):
        time.sleep(0.2)
    assert all(thread.name != "limits" for thread in threading.enumerate())


def test_an_error_that_stopping_brought_about_is_told_as_the_limit() -> None:
    def run() -> None:
        try:
            time.sleep(30)
        except KeyboardInterrupt:
            raise StageFailed("the runtime says: terminated") from None

    with pytest.raises(LimitReached, match="are over"), watched(Limits(seconds=0.1)):
        run()


def test_a_library_that_does_not_come_back_is_cut_off_with_the_exit_code_of_a_limit() -> None:
    code = (
        "import ctypes, converter.bounds.watch as w\n"
        "w.SECONDS_TO_STOP = 0.2\n"
        "with w.watched(w.Limits(seconds=0.2), give_up=lambda e: print('gave up:', e, flush=True)):\n"
        "    while True:\n"
        "        try: ctypes.CDLL(None).sleep(5)\n"
        "        except KeyboardInterrupt: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ResourceLimit.exit_code, done.stderr
    assert "gave up: the limit of time was reached" in done.stdout


def test_an_estimate_beyond_a_limit_ends_a_run_before_it_starts() -> None:
    check_estimate(Limits(memory=10, disk=10), memory=10, disk=10)
    check_estimate(Limits(), memory=10**15, disk=10**15)
    with pytest.raises(ResourceLimit, match=r"2 GB of memory, 1 GB are allowed"):
        check_estimate(Limits(memory=10**9), memory=2 * 10**9)
    with pytest.raises(ResourceLimit, match=r"5 MB of disk space, 1 MB are allowed"):
        check_estimate(Limits(disk=10**6), disk=5 * 10**6)


def _wrapped(inner: BaseException) -> StageFailed:
    error = StageFailed("cannot export this", hint="export it to TFLite instead")
    error.__cause__ = inner
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 93763584 bytes."),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        ImportError("libtorch.so: failed to map segment from shared object"),
        _wrapped(MemoryError()),
        _wrapped(RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer")),
    ],
)
def test_memory_that_ran_out_is_a_resource_limit_however_it_is_said(error: BaseException) -> None:
    found = exhausted(error, "Exporting to ONNX")
    assert found is not None
    assert "memory ran out at the stage 'Exporting to ONNX'" in str(found)
    assert "TFLite" not in found.hint


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/data/model.onnx"),
        RuntimeError("Error while serializing: No space left on device (os error 28)"),
        _wrapped(OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_a_resource_limit_with_its_path(error: BaseException, tmp_path: Path) -> None:
    found = exhausted(error, "Quantizing", tmp_path / "absent" / "out")
    assert found is not None
    assert "MB left" in str(found)
    assert "at the stage 'Quantizing'" in str(found)
    assert found.where in {"/data/model.onnx", str(tmp_path / "absent" / "out")}


def test_a_file_that_became_too_large_is_a_resource_limit_and_no_full_disk(tmp_path: Path) -> None:
    """As the system says it, from Python and from a library: `ulimit -f`, or a disk that holds files of up to 4 GB."""
    code = (
        "import resource, signal, sys, torch; from safetensors.torch import save_file\n"
        "from converter.bounds.exhausted import exhausted\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for write in (lambda: open('a', 'wb').write(b'x' * 9999), lambda: save_file({'a': torch.ones(9999)}, 'b')):\n"
        "    try: write()\n"
        "    except Exception as error: print(exhausted(error, 'Exporting').args[0])\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=120
    )
    said = done.stdout.splitlines()
    assert len(said) == 2
    assert all("larger than the system allows at the stage 'Exporting'" in line for line in said), said


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        StageFailed("the text says: out of memory"),
        StageFailed("the text says: no space left on device"),
        KeyError("x"),
        _wrapped(TypeError()),
    ],
)
def test_other_errors_are_none(error: BaseException) -> None:
    assert exhausted(error) is None


def in_little_space(code: str, left: int) -> "subprocess.CompletedProcess[str]":
    """Run code in a process of its own; `starve()` leaves it so many bytes of address space."""
    head = (
        "import resource, sys, time, converter.bounds.watch as w\n"
        "from pathlib import Path\n"
        "def starve():\n"
        "    mapped = int(w.STATM.read_text().split()[0]) * resource.getpagesize()\n"
        f"    resource.setrlimit(resource.RLIMIT_AS, (mapped + {left}, resource.RLIM_INFINITY))\n"
    )
    command = [sys.executable, "-c", head + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.skipif(not STATM.is_file(), reason="Linux tells a process what it has mapped")
def test_a_run_that_goes_on_without_address_space_is_stopped() -> None:
    code = (
        "w.SECONDS_STARVED = 0.2\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    with w.watched(w.Limits(), stage=lambda: 'Exporting'):\n"
        "        starve()\n"
        "        time.sleep(30)\n"
        "except w.LimitReached as reached:\n"
        "    print(reached)\n"
    )
    assert "address space was reached at the stage 'Exporting'" in in_little_space(code, 1 << 20).stdout
    code = code.replace("time.sleep(30)", "time.sleep(0.6); print('left alone')")
    assert "left alone" in in_little_space(code, 1 << 25).stdout


@pytest.mark.skipif(not STATM.is_file(), reason="Linux tells a process what it has mapped")
def test_address_space_that_cannot_suffice_is_told_before_anything_is_made() -> None:
    check_address_space(10**15)
    code = "starve()\nw.check_address_space(10**6)\nw.check_address_space(10**8)\n"
    done = in_little_space(code, 10**7)
    assert "needs at least 100 MB more of address space, and the system leaves" in done.stderr
