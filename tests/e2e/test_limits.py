"""Runs and packages are held to limits: exit code 7 with stage and figure, and nothing is left behind."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from converter.bounds.watch import STATM
from converter.commands.cli import run
from tests.hostile import edit
from tests.manifests import forge

LOOP = "endless"


@pytest.fixture(scope="module")
def model(tiny: Callable[..., Path]) -> Path:
    return tiny()


@pytest.fixture
def package(plain_package: Path) -> Path:
    return plain_package


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-memory", "50MB"), "of memory"),
        (("--max-disk", "10kB"), "the run needs about"),
        (("--timeout", "0.3s"), "0.3 s are over"),
    ],
)
def test_an_export_is_held_to_its_limits(
    flags: tuple[str, ...], said: str, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([str(model), "--target", "cpu-int8", "-o", str(tmp_path / "out"), "-q", *flags]) == 7
    heard = capfd.readouterr().err
    assert said in heard
    assert flags[0] in heard
    assert left_in(tmp_path) == []


@pytest.mark.skipif(not STATM.is_file(), reason="Linux tells a process what it has mapped")
def test_an_export_without_address_space_ends_before_it_starts(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import resource

    import transformers.models.bert.modeling_bert as loaded

    assert loaded, "libraries are not part of what the run may take"
    before = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 140_000_000, before[1]))
    try:
        assert run([str(model), "--target", "cpu-int8", "-o", str(tmp_path / "out"), "-q"]) == 7
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "ulimit -v" in capfd.readouterr().err
    assert left_in(tmp_path) == []


def test_a_limit_is_told_to_machines_too(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flags = ("--max-disk", "10kB", "--json")
    assert run([str(model), "--target", "cpu-int8", "-o", str(tmp_path / "out"), "-q", *flags]) == 7
    found = json.loads(capfd.readouterr().out)
    assert found["exit_code"] == 7
    assert "10 kB are allowed" in found["error"]["message"]


@pytest.mark.parametrize("flag", ["--max-memory", "--max-disk", "--timeout"])
def test_a_limit_without_a_unit_is_refused(flag: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--target", "cpu-int8", "-o", str(tmp_path / "out"), flag, "7"]) == 2
    assert "with its unit" in capfd.readouterr().err


def loop_forever(path: Path) -> None:
    """Put a loop before a graph that never ends: its condition stays true, and nothing counts."""
    made = onnx.load(path)
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still_on"]),
            helper.make_node("Identity", ["held"], ["still_held"]),
        ],
        LOOP,
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", TensorProto.INT64, None),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("still_held", TensorProto.INT64, None),
        ],
    )
    first = made.graph.input[0].name
    for node in made.graph.node:
        for i, name in enumerate(node.input):
            if name == first:
                node.input[i] = f"{first}.{LOOP}"
    on = helper.make_tensor("loop_on", TensorProto.BOOL, [], [True])
    made.graph.initializer.append(on)
    made.graph.node.insert(
        0, helper.make_node("Loop", ["", "loop_on", first], [f"{first}.{LOOP}"], name=LOOP, body=body)
    )
    onnx.save(made, path)


def test_a_graph_that_never_ends_is_stopped(package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    endless = shutil.copytree(package, tmp_path / "endless")
    file = next(endless.rglob("*.onnx"))
    loop_forever(file)
    forge(endless)
    assert run(["verify", str(endless), str(package), "--timeout", "4s", "--max-memory", "20GB", "-q"]) == 7
    heard = capfd.readouterr()
    assert "the limit of time was reached at the stage 'endless'" in heard.err
    assert f"PASS  {package}" in heard.out
    assert run(["run", str(endless), "a text", "--timeout", "4s", "--max-memory", "20GB", "-q"]) == 7


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_is_told_with_its_path_and_what_is_needed(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        assert run([str(model), "--target", "cpu-int8", "-o", str(disk / "out"), "-q"]) == 7
        heard = capfd.readouterr().err
        assert str(disk) in heard
        assert "MB are needed" in heard
        assert left_in(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_escape_sequences_of_a_manifest_do_not_reach_the_terminal(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    forged = shutil.copytree(package, tmp_path / "forged")
    forge(forged, lambda table: table["source"].update(id="\x1b[2J\x9b31m\u202eevil\nPASS  everything"))
    assert run(["inspect", str(forged)]) == 0
    assert run(["inspect", str(forged), "--json"]) == 0
    assert run(["diff", str(package), str(forged)]) == 0
    heard = capfd.readouterr()
    assert not set(heard.out + heard.err) & set("\x1b\x9b\u202e")
    assert "\nPASS" not in heard.out


@pytest.mark.parametrize("values", [{"num_labels": 10**9}, {"num_hidden_layers": 10**9}, {"id2label": []}])
def test_a_package_whose_sizes_cannot_be_is_damaged(
    values: dict[str, object], package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = shutil.copytree(package, tmp_path / "hostile")
    edit(hostile, **values)
    forge(hostile)
    assert run(["verify", str(hostile), "-q"]) == 6
    assert "config.json" in capfd.readouterr().err
