"""What a device printed is taken as it stands, tied to the package that it was measured with, or refused."""

import json
import shutil
from pathlib import Path

import pytest

from converter.commands import cli
from converter.device.device_results import import_results, known_results
from converter.device.measured import read_measurements
from converter.errors import DataError
from converter.package.manifest import check_files, read_manifest, seal
from converter.package.output_marker import inspect_place, write_marker
from converter.pipeline import Result, TargetResult
from converter.recipe import bind_recipe
from converter.report.write import write_reports
from converter.validate.checks import Status
from tests.manifests import complete

PRINTED = """\
INFO: STARTING!
INFO: Num threads: [{threads}]
INFO: Signature to run: [serving_{length}]
INFO: #threads used for CPU inference: [{threads}]
INFO: The input model file size (MB): {model_mb}
INFO: Initialized session in 3.337ms.
INFO: count=9 first=81913 curr=55502 min=55502 max=81913 avg=58984.7 std=8115
INFO: count=1061 first=56576 curr=56299 min=54669 max=60236 avg=56265.8 std=982
INFO: Inference timings in us: Init: 3337, First inference: 81913, Warmup (avg): 58984.7, Inference (avg): {average}
INFO: Overall peak memory footprint (MB) via periodic monitoring: {peak}
"""


def _printed(length: int = 16, threads: int = 1, average: str = "56265.8", peak: str = "93.2", mb: float = 1.0) -> str:
    return PRINTED.format(length=length, threads=threads, average=average, peak=peak, model_mb=mb)


def _file(folder: Path, text: str, name: str = "result.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_what_powershell_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    path.write_text(_printed(), encoding="utf-16")
    assert [found.length for found in read_measurements(path)] == [16]


@pytest.mark.parametrize("n", [0, 2])
def test_a_result_is_of_one_package(package: Path, tmp_path: Path, n: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The output folder stands for its package where it holds one."""
    for i in range(n):
        shutil.copytree(package, package.with_name(f"other{i}"))
    result = str(_file(tmp_path, _printed()))
    code = cli.run(["bench", str(package.parent), "--import", result, "--device", "Pixel 9"])
    assert code == (2 if n else 0)
    assert ("holds 3 packages" in capsys.readouterr().err) is bool(n)


def test_a_terminals_text_is_read_whole(tmp_path: Path) -> None:
    [found] = read_measurements(_file(tmp_path, _printed()))
    assert (found.length, found.threads, found.runs, found.gpu) == (16, 1, 1061, False)
    assert (found.milliseconds, found.init_ms, found.first_ms) == pytest.approx((56.2658, 3.337, 81.913))
    assert (found.min_ms, found.max_ms, found.std_ms) == pytest.approx((54.669, 60.236, 0.982))
    assert (found.peak_mb, found.model_mb) == (93.2, 1.0)


def test_a_signature_of_any_length_was_measured_at_that_of_its_inputs(tmp_path: Path) -> None:
    shapes = "INFO: Input shapes: [1,24:1,24:1,24]\nINFO: Signature to run: [serving_up_to_128]"
    text = _printed().replace("INFO: Signature to run: [serving_16]", shapes)
    assert [f.length for f in read_measurements(_file(tmp_path, text))] == [24]


def test_several_runs_in_one_file_keep_their_own_memory(tmp_path: Path) -> None:
    text = _printed(16, 1, "600.5", "40.5") + _printed(32, 2, "1.2e+03", "41.5")
    found = read_measurements(_file(tmp_path, text))
    assert [(f.length, f.threads, f.milliseconds, f.peak_mb) for f in found] == [
        (16, 1, 0.6005, 40.5),
        (32, 2, 1.2, 41.5),
    ]


def test_the_prefixes_of_logcat_are_no_matter(tmp_path: Path) -> None:
    lines = _printed().replace("INFO: ", "").splitlines()
    old = "\n".join(f"07-14 13:14:52.097 22838 22838 I tflite  : {line}" for line in lines)
    new = "\n".join(f"07-08 15:33:55.768 I/tflite  ( 5395): {line}" for line in lines)
    wanted = read_measurements(_file(tmp_path, _printed()))
    assert read_measurements(_file(tmp_path, old)) == wanted
    assert read_measurements(_file(tmp_path, new)) == wanted


def test_json_and_csv_say_their_units(tmp_path: Path) -> None:
    row = {"signature": "serving_16", "num_threads": 2, "latency": {"avg_us": 1500, "init_ms": 3.5}, "peak_mem_mb": 40}
    [found] = read_measurements(_file(tmp_path, json.dumps(row)))
    assert (found.length, found.threads, found.milliseconds, found.init_ms) == (16, 2, 1.5, 3.5)
    assert found.peak_mb == 40
    rows = read_measurements(
        _file(tmp_path, "length,threads,inference_avg_us,init_us\n16,1,600,3000\n32,1,1100,3100\n")
    )
    assert [(r.length, r.milliseconds, r.init_ms) for r in rows] == [(16, 0.6, 3.0), (32, 1.1, 3.1)]


def test_a_call_of_several_texts_is_told_as_a_texts_share(tmp_path: Path) -> None:
    text = _printed().replace("serving_16", "serving_16_batch_8")
    [found] = read_measurements(_file(tmp_path, text))
    assert (found.length, found.texts_per_call, found.threads) == (16, 8, 1)
    assert (found.milliseconds, found.min_ms, found.first_ms) == pytest.approx((56.2658 / 8, 54.669 / 8, 81.913))
    row = {"signature": "serving_16_batch_8", "avg_us": 800, "std_us": 80}
    [found] = read_measurements(_file(tmp_path, json.dumps(row)))
    assert (found.length, found.texts_per_call, found.milliseconds, found.std_ms) == (16, 8, 0.1, 0.01)
    [found] = read_measurements(_file(tmp_path, "length,batch_size,avg_ms\n16,4,8\n"))
    assert (found.length, found.texts_per_call, found.milliseconds) == (16, 4, 2.0)


@pytest.mark.parametrize(
    ("row", "gpu"),
    [
        ({"gpu": True}, True),
        ({"use_gpu": "1"}, True),
        ({"delegate": "GpuDelegateV2"}, True),
        ({"gpu": "False"}, False),
        ({"gpu": None, "delegate": "xnnpack"}, False),
        ({}, False),
    ],
)
def test_json_says_what_it_ran_on(row: dict[str, object], gpu: bool, tmp_path: Path) -> None:
    [found] = read_measurements(_file(tmp_path, json.dumps({"avg_ms": 1, **row})))
    assert found.gpu is gpu


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line of inference timings"),
        ("adb: no devices/emulators found", "no devices/emulators found"),
        ("INFO: STARTING!\nERROR: Failed to load model", "Failed to load model"),
        ("{broken", "not a JSON file"),
        ("[3]", "wanted a table, found int"),
        ('{"init_ms": 3}', "no inference time"),
        ('{"avg_ms": "fast"}', "wanted a number, found 'fast'"),
        ('{"avg_ms": NaN}', "wanted a number from 0 on"),
        ("length,init_us\n16,3\n", "line 2: there is no inference time"),
    ],
)
def test_what_is_no_measurement_is_refused_with_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_measurements(_file(tmp_path, text))
    assert said in str(caught.value)
    assert "benchmark_model" in caught.value.hint


def test_a_delegate_that_may_be_either_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wanted true or false, found 'perhaps'"):
        read_measurements(_file(tmp_path, '{"avg_ms": 1, "gpu": "perhaps"}'))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A sealed folder of a model of one megabyte with two lengths: nothing of it is run here."""

    class OfTwoFiles:
        folder = tmp_path / "out" / "tflite"

    OfTwoFiles.folder.mkdir(parents=True)
    (OfTwoFiles.folder / "model.tflite").write_bytes(b"\0" * 1_000_000)
    table = complete("model.tflite", target="tflite", lengths=[16, 32], target_options={"batch": 8})
    return seal(OfTwoFiles, table).folder  # type: ignore[arg-type]


def test_results_lie_beside_the_package_which_stays_sealed(package: Path, tmp_path: Path) -> None:
    import_results(package, [_file(tmp_path, _printed(16)), _file(tmp_path, _printed(32), "b")], "Pixel 9")
    rows = import_results(package, [_file(tmp_path, _printed(16, average="50000"))], "Pixel 9")
    assert [(r["length"], round(r["milliseconds"], 4)) for r in rows] == [(16, 50.0), (32, 56.2658)]
    assert known_results(package) == rows
    assert check_files(package, read_manifest(package)) == 1
    # A package made anew is another one: what was measured before says nothing of it.
    (package / "model.tflite").write_bytes(b"\1" * 1_000_000)
    manifest = {k: v for k, v in read_manifest(package).items() if k not in {"files", "manifest_sha256"}}
    (package / "manifest.json").unlink()

    class Again:
        folder = package

    seal(Again, manifest)  # type: ignore[arg-type]
    assert known_results(package) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_printed(mb=2.5), "a model of 2.5 MB"),
        (_printed(mb=1.1), "a model of 1.1 MB"),
        (_printed(64), "at 64 tokens, the package has 16, 32"),
        (_printed().replace("serving_16", ""), "does not say at which length"),
        (_printed().replace("serving_16", "serving_16_batch_4"), "4 texts a call, the package takes one or 8 texts"),
        ('{"length": 16, "avg_ms": 1, "model_size_mb": 2.5}', "a model of 2.5 MB"),
        ('{"length": 16, "avg_ms": 1, "file_size_bytes": 2500000}', "a model of 2.5 MB"),
        ("length,avg_ms,model_mb\n16,1,2.5\n", "a model of 2.5 MB"),
    ],
)
def test_what_another_model_gave_is_refused(package: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        import_results(package, [_file(tmp_path, text)], "Pixel 9")
    assert not package.with_name("tflite.devices.json").exists()


def test_a_batch_takes_no_single_texts_place(package: Path, tmp_path: Path) -> None:
    batched = _file(tmp_path, _printed().replace("serving_16", "serving_16_batch_8"), "batched.txt")
    import_results(package, [_file(tmp_path, _printed()), batched], "Pixel 9")
    # The list of a version that knew no batches is still read.
    path = package.with_name("tflite.devices.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    for row in table["results"]:
        if row["texts_per_call"] == 1:
            del row["texts_per_call"]
    path.write_text(json.dumps(table), encoding="utf-8")
    rows = import_results(package, [_file(tmp_path, _printed(average="50000"))], "Pixel 9")
    assert sorted((r["texts_per_call"], round(r["milliseconds"], 3)) for r in rows) == [(1, 50.0), (8, 7.033)]


def test_what_bench_shows_as_json_is_read_again(package: Path, tmp_path: Path) -> None:
    batched = _printed().replace("serving_16", "serving_16_batch_8").replace("STARTING!", "STARTING!\nUse gpu: [1]")
    rows = import_results(package, [_file(tmp_path, batched)], "Pixel 9")
    assert rows[0]["gpu"]
    assert import_results(package, [_file(tmp_path, json.dumps(rows))], "Pixel 9") == rows


def test_a_report_that_cannot_be_written_loses_nothing(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_results(package, [_file(tmp_path, _printed())], "Pixel 9")
    known = known_results(package)

    def half(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text.encode(encoding)[:10])
        raise OSError(28, "No space left on device")

    result = _file(tmp_path, _printed(32), "b")
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space"):
        import_results(package, [result], "Pixel 9")
    assert known_results(package) == known
    assert sorted(path.name for path in package.parent.iterdir()) == ["tflite", "tflite.devices.json"]


def _report(folder: Path) -> None:
    recipe = bind_recipe({"model": "m", "targets": ["cpu-int8"]})
    target = TargetResult("tflite", "none", Status.PASS, folder="tflite")
    write_reports(Result(recipe, "m", "text-classification", folder, 1, (target,)), folder)


def test_a_file_of_somebody_elses_with_the_lists_name_stays(package: Path, tmp_path: Path) -> None:
    mine = package.with_name("tflite.devices.json")
    mine.write_text('["mine"]', encoding="utf-8")
    with pytest.raises(DataError, match="is not one"):
        import_results(package, [_file(tmp_path, _printed())], "Pixel 9")
    assert mine.read_text(encoding="utf-8") == '["mine"]'


def test_what_was_measured_with_an_earlier_package_is_kept(package: Path, tmp_path: Path) -> None:
    path, notes = package.with_name("tflite.devices.json"), []
    for word in ("first", "second"):
        path.write_text(json.dumps({"package": word, "results": [word]}), encoding="utf-8")
        assert import_results(package, [_file(tmp_path, _printed())], "Pixel 9", notes.append) == known_results(package)
    kept = [package.with_name(f"tflite.earlier{n}.devices.json") for n in ("", "-2")]
    assert [json.loads(p.read_text(encoding="utf-8"))["results"] for p in kept] == [["first"], ["second"]]
    assert [note.endswith(str(p)) for note, p in zip(notes, kept, strict=True)] == [True, True]


@pytest.mark.parametrize("name", ["report.html", "report.json"])
@pytest.mark.parametrize("marked", [True, False])
def test_a_report_that_somebody_changed_is_not_drawn_again(
    name: str, marked: bool, package: Path, tmp_path: Path
) -> None:
    folder, notes = package.parent, []
    _report(folder)
    if marked:
        write_marker(folder)
    (folder / name).write_text((folder / name).read_text(encoding="utf-8") + " ", encoding="utf-8")
    before = {p.name: p.read_bytes() for p in folder.glob("report.*")}
    import_results(package, [_file(tmp_path, _printed())], "Pixel 9", notes.append)
    assert {p.name: p.read_bytes() for p in folder.glob("report.*")} == before
    assert (name if marked else "report.json") in notes[0]


def test_a_report_that_was_drawn_again_is_still_ours(package: Path, tmp_path: Path) -> None:
    folder = package.parent
    _report(folder)
    write_marker(folder)
    import_results(package, [_file(tmp_path, _printed())], "Pixel 9")
    import_results(package, [_file(tmp_path, _printed(32), "b")], "Pixel 9")
    (target,) = json.loads((folder / "report.json").read_text(encoding="utf-8"))["targets"]
    assert [row["length"] for row in target["devices"]] == [16, 32]
    assert inspect_place(folder).foreign == ()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device", "x"], "add --import RESULT"),
        (["--import", "r", "--device", "x", "--cold"], "leave out --cold, or --import"),
        (["--import", "r", "--device", "x", "--source", "m"], "leave out --source, or --import"),
        (["--import", "r", "--device", "x", "--lengths", "8", "--threads", "1"], "leave out --lengths and --threads"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(
    flags: list[str], said: str, package: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", str(package), *flags]) == 2
    assert said in capfd.readouterr().err


def test_bench_says_how_many_results_name_no_size(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told, untold = _file(tmp_path, _printed()), _file(tmp_path, '{"length": 32, "avg_ms": 1}', "untold.json")
    assert cli.run(["bench", str(package), "--import", str(told), "--device", "x"]) == 0
    assert "how large" not in capfd.readouterr().err
    assert cli.run(["bench", str(package), "--import", str(untold), "--device", "x"]) == 0
    assert "1 of 2 do not state the model size" in capfd.readouterr().err


def test_bench_imports_shows_and_names_the_device(
    package: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = str(_file(tmp_path, _printed()))
    assert cli.run(["bench", str(package), "--import", result, "--device", "Pixel 9", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["device"] == "Pixel 9"
    assert cli.run(["bench", str(package), "--import", result]) == 2
    assert "--device" in capfd.readouterr().err
    assert cli.run(["bench", str(package), "--import", str(tmp_path / "absent"), "--device", "x"]) == 2
