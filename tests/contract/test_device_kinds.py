"""The C++ and Python samples of every kind of model run its file as the package did."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from converter.device.package_files import PackageFiles
from converter.errors import StageFailed
from converter.examples import Example
from converter.model_folder.load import load_source
from converter.stage import Context, run_stage
from converter.tflite.lower.lower import LowerTflite
from targets.tflite import Tflite
from tests.contract.device_packages import (
    LENGTHS,
    MASKED,
    MODELS,
    build_demo,
    lines_of,
    lstrip_tagger,
    make_package_files,
    open_source,
    run,
)
from tests.tiny import SENTENCES

pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*(k for k in MODELS if k != "classes"), "embedding"])
def test_samples_of_every_kind_run_the_file(
    kind: str, tiny: Callable[..., Path], tiny_sentence_transformer: Path, tmp_path: Path
) -> None:
    if kind == "embedding":
        source = load_source(str(tiny_sentence_transformer))
    elif kind == "tags":
        source = lstrip_tagger(tiny("mpnet", "token-classification", num_labels=7, layers=1))
    else:
        family, task, options = MODELS[kind]
        source = open_source(kind, tiny(family, task, layers=1, **options))
    ctx = Context(work=tmp_path, calibration=tuple(Example(s) for s in SENTENCES))
    target, folder = Tflite(seq_len=LENGTHS, graphs="separate", mediapipe=False), tmp_path / "package"
    folder.mkdir()
    target.emit(run_stage(LowerTflite(LENGTHS), source, ctx)[0], source, folder, ctx)
    texts = (*SENTENCES[:6], *MASKED, "") if kind == "tags" else (*SENTENCES[:11], "")
    made = make_package_files(folder, source, target.open(folder, source.specs), texts=texts)
    n = (made.samples / "assets" / "golden.tsv").read_text("utf-8").count("\ntext\t")
    assert n == len(texts)

    python = (sys.executable, made.samples / "python" / "text_model.py")
    done = run(*python, folder, "--selftest")
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert f"{n} of {n} texts as recorded; {n} of {n} answers the same" in done.stdout
    demo, assets = build_demo(made.samples, tmp_path), made.samples / "assets"
    done = run(demo, "--selftest", folder / "model.tflite", assets)
    assert done.returncode == 0, done.stdout + done.stderr[-1000:]
    assert f"{n} of {n} texts as recorded" in done.stdout
    assert f"{n} of {n} answers the same" in done.stdout
    assert kind == "library" or f"tokenizer: {lines_of(assets / 'parity.tsv')} of" in done.stdout

    PackageFiles(folder).try_python()
    assert not list(made.samples.rglob("__pycache__"))

    # All can fail: one number is another.
    shutil.copytree(assets, tmp_path / "assets")
    table = assets / "golden.tsv"
    rows = table.read_text("utf-8").split("\n")
    at = next(i for i, row in enumerate(rows) if row.startswith("text\t"))
    rows[at] = f"{rows[at].rpartition(' ' if ' ' in rows[at].rpartition(chr(9))[2] else chr(9))[0]} 99"
    table.write_text("\n".join(rows), "utf-8")
    with pytest.raises(StageFailed, match=rf"text_model.py .* does not answer .*: model: {n - 1} of {n} texts"):
        PackageFiles(folder).try_python()
    assert run(*python, folder, "--selftest").returncode == 1
    assert run(demo, "--selftest", folder / "model.tflite", assets).returncode == 1
    python[1].write_text("import no_such_library\n", "utf-8")
    with pytest.raises(StageFailed, match=r"ends in ModuleNotFoundError: .*no_such_library"):
        PackageFiles(folder).try_python()
