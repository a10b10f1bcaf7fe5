"""The jobs of a batch are read in full, and refused by name, before anything runs."""

import dataclasses
import re
from pathlib import Path

import pytest

from converter.errors import RecipeError, StageFailed
from converter.fleet.jobs import jobs_of_folder, read_jobs
from converter.fleet.outcome import Outcome, batch_table, worst
from converter.fleet.reports import batch_junit, batch_page
from converter.fleet.transport import local_paths, pack, path_digest, unpack, with_paths
from converter.model_folder.recipe_files import FILE_OPTIONS, KEPT_OPTIONS
from converter.registry import stage_class, stage_names


def job_file(folder: Path, text: str) -> Path:
    path = folder / "jobs.toml"
    path.write_text(text, encoding="utf-8")
    return path


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    return folder


def test_paths_of_a_job_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    model(tmp_path / "m")
    (job,) = read_jobs(job_file(tmp_path, '[[job]]\nmodel = "m"\neval = "dev.tsv"'))
    assert (job.name, job.recipe) == ("m", {"model": str(tmp_path / "m"), "eval": str(tmp_path / "dev.tsv")})


def test_every_file_that_a_job_defaults_or_a_stage_name_is_relative_to_the_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a relative job file names absolute paths too: a job runs from a recipe elsewhere
    (tmp_path / "r.toml").write_text('calibration = "train.tsv"', encoding="utf-8")
    stage = 'compress = [{stage = "trim.vocabulary", corpus = ["kept.txt"]}]'
    text = f'[defaults]\neval = "dev.tsv"\n[[job]]\nname = "x"\nmodel = "org/m"\nrecipe = "r.toml"\n{stage}'
    job_file(tmp_path, text)
    (job,) = read_jobs(Path("jobs.toml"))
    assert job.recipe["eval"] == str(tmp_path / "dev.tsv")
    assert job.recipe["calibration"] == str(tmp_path / "train.tsv")
    assert job.recipe["compress"][0]["corpus"] == [str(tmp_path / "kept.txt")]


def test_a_job_overrules_its_recipe_and_a_recipe_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('targets = ["tflite"]\nseed = 2\n', encoding="utf-8")
    job_table = '[[job]]\nname = "x"\nmodel = "org/m"\nrecipe = "r.toml"\ntargets = ["cpu-int8"]'
    text = f"[defaults]\nseed = 1\nprobes = 9\n{job_table}"
    (job,) = read_jobs(job_file(tmp_path, text))
    assert job.recipe == {"seed": 2, "probes": 9, "targets": ["cpu-int8"], "model": "org/m"}


def test_a_matrix_is_every_model_with_every_recipe(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text("seed = 1", encoding="utf-8")
    text = '[matrix]\nmodels = ["org/a", "org/b"]\nrecipes = ["one.toml", "two.toml"]\ntargets = ["tflite"]'
    jobs = read_jobs(job_file(tmp_path, text))
    assert [j.name for j in jobs] == ["a-one", "a-two", "b-one", "b-two"]
    assert {str(j.recipe["targets"]) for j in jobs} == {"['tflite']"}


def test_a_folder_of_models_is_a_job_a_model(tmp_path: Path) -> None:
    model(tmp_path / "b"), model(tmp_path / "a"), (tmp_path / "notes").mkdir()
    assert [j.name for j in jobs_of_folder(tmp_path, [], ["tflite"])] == ["a", "b"]


def test_models_that_would_have_one_name_or_one_of_the_batch_are_numbered(tmp_path: Path) -> None:
    """Whoever names a folder of models cannot give its jobs names."""
    folders = ["a b", "a-b", "logs", "模型", "型号", "x" * 120, "x" * 119]
    for name in folders:
        model(tmp_path / "models" / name)
    jobs = jobs_of_folder(tmp_path / "models", [], [])
    wanted = ["a-b", "a-b-2", "logs-2", "x" * 100, f"{'x' * 92}-2", "model", "model-2"]
    assert [job.name for job in jobs] == wanted
    text = '[[job]]\nname = "m"\nmodel = "org/x"\n[matrix]\nmodels = ["org/m", "other/m"]'
    assert [job.name for job in read_jobs(job_file(tmp_path, text))] == ["m", "m-2", "m-3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[jobs]]\nmodel = 'm'", "jobs"),
        ("[[job]]\nmodel = 'm'\n[[job]]\nmodel = 'M'", "two jobs are named"),
        ("[[job]]\nname = '../x'\nmodel = 'm'", "names a folder"),
        ("[[job]]\nname = 'Logs'\nmodel = 'm'", "files of its own of that name"),
        ("[[job]]\nname = 'batch.json'\nmodel = 'm'", "files of its own of that name"),
        ("[matrix]\nmodels = ['m', 'm']", "two jobs are named 'm'"),
        ("[[job]]\nname = 3\nmodel = 'm'", "name is text"),
        ("[matrix]\nmodels = 'm'", "array"),
        ("", "there is no job"),
        ("[[job]\n", "not a TOML file"),
    ],
)
def test_a_wrong_job_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_jobs(job_file(tmp_path, text))


def test_the_worst_job_gives_the_exit_code() -> None:
    outcomes = [Outcome(str(code), "m", code, 0.0) for code in (0, 3, 7)]
    assert worst(outcomes) == 7
    assert worst([*outcomes, Outcome("bug", "m", 1, 0.0)]) == 1


def test_what_comes_from_outside_is_escaped_in_page_and_junit() -> None:
    table = batch_table([Outcome("x", "<script>\x1b[31m", 2, 0.5, error="<b>no</b>\x07")], Path("out"))
    assert "<script>" not in batch_page(table)
    assert "<b>" not in batch_junit(table)
    assert 'errors="1"' in batch_junit(table)


def target(status: str, **more: object) -> dict[str, object]:
    check = {"name": "agreement", "status": "PASS", "value": 1.0, "detail": ""}
    made = {"target": "cpu-int8", "precision": "int8", "status": status, "folder": "cpu-int8", "size_bytes": 1}
    return made | {"evaluation": {"checks": [check], "milliseconds": {}}, "error": None, "hint": None} | more


@pytest.mark.parametrize(
    ("report", "found"),
    [
        ({"status": "PASS", "targets": [target("PASS")]}, (0, 0)),
        ({"status": "FAIL", "targets": [target("PASS")], "budgets_missed": ["prune: 5 ms, wanted 4"]}, (1, 0)),
        ({"status": "FAIL", "targets": [target("FAIL", error="the disk is full")]}, (0, 1)),
        ({"status": "FAIL", "targets": [target("FAIL", evaluation=None, error="no runtime")]}, (0, 1)),
    ],
)
def test_a_job_that_fails_is_red_in_junit_whatever_it_failed_by(
    report: dict[str, object], found: tuple[int, int]
) -> None:
    table = batch_table([Outcome("x", "m", 3 if any(found) else 0, 0.5, report=report)], Path("out"))
    assert f'failures="{found[0]}" errors="{found[1]}"' in batch_junit(table).splitlines()[1]
    for said in table["jobs"][0]["budgets_missed"]:
        assert said in batch_page(table)


def test_a_folder_arrives_as_it_was_sent(tmp_path: Path) -> None:
    there = model(tmp_path / "m")
    (there / "deep").mkdir()
    (there / "deep" / "x.bin").write_bytes(b"\0\1")
    unpack(pack(there), tmp_path / "copy")
    assert path_digest(str(there)) == path_digest(str(tmp_path / "copy"))
    (tmp_path / "copy" / "deep" / "x.bin").write_bytes(b"\0\2")
    assert path_digest(str(there)) != path_digest(str(tmp_path / "copy"))


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    import io
    import tarfile

    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(StageFailed):
        unpack(made.getvalue(), tmp_path / "in")
    assert not (tmp_path / "outside").exists()


def test_every_local_file_of_a_recipe_travels_and_is_found_again(tmp_path: Path) -> None:
    here = model(tmp_path / "m")
    text = tmp_path / "t.txt"
    text.write_text("x", encoding="utf-8")
    (plan := tmp_path / "shape_map.json").write_text("{}", encoding="utf-8")
    stages = [{"stage": "s", "corpus": [str(text)]}, {"stage": "p", "plan": str(plan)}]
    recipe = {"model": str(here), "eval": "sample:default/dev.tsv", "compress": stages}
    assert local_paths(recipe) == (str(here), str(text), str(plan))
    moved = with_paths(recipe, {str(here): "/w/m", str(text): "/w/t.txt"})
    assert moved["model"] == "/w/m"
    assert moved["compress"][0]["corpus"] == ["/w/t.txt"]


def test_every_option_of_a_stage_that_names_a_file_is_known() -> None:
    """One that is not would be looked for in another folder, kept when it changed, and not sent to workers."""
    found = {
        field.name
        for name in stage_names()
        for field in dataclasses.fields(stage_class(name))
        if "str" in str(field.type) and re.search(r"files?\b|\.json", str(field.metadata.get("help")))
    }
    assert found == {*FILE_OPTIONS, *KEPT_OPTIONS}


def test_a_folder_behind_a_link_travels_and_is_a_part_of_what_was_read(tmp_path: Path) -> None:
    there, deep = model(tmp_path / "m"), tmp_path / "elsewhere"
    deep.mkdir()
    (deep / "x.bin").write_bytes(b"1")
    (there / "1_Pooling").symlink_to(deep)
    (deep / "back").symlink_to(there)  # walked once
    before = path_digest(str(there))
    unpack(pack(there), tmp_path / "copy")
    assert (tmp_path / "copy" / "1_Pooling" / "x.bin").read_bytes() == b"1"
    (deep / "x.bin").write_bytes(b"2")
    assert path_digest(str(there)) != before
