"""Models as nobody should send them are refused by name: at once, in bounded memory, never as an internal error."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from converter.errors import ExportError, ResourceLimit, SourceError
from converter.model_folder.load import load_source
from converter.model_folder.plausible import refuse_without_memory
from tests.hostile import REFUSED, edit
from tests.tiny import make_tiny, make_tiny_sentence_transformer

SECONDS = 20
MEGABYTES = 500


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny(tmp_path_factory.mktemp("hostile") / "model")
    load_source(str(folder))  # the libraries' own memory is not counted
    return folder


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    def late(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_time_and_memory(name: str, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    REFUSED[name](folder)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is counted from here
    before = peak_megabytes()
    with pytest.raises(ExportError) as raised:
        load_source(str(folder))
    assert raised.value.exit_code in {SourceError.exit_code, ResourceLimit.exit_code}
    assert "not foreseen" not in raised.value.hint, raised.value
    assert raised.value.hint
    assert peak_megabytes() - before < MEGABYTES


def test_the_model_without_a_fault_is_read(model: Path) -> None:
    assert load_source(str(model)).task.labels == ("class 0", "class 1", "class 2")


def test_what_nobody_reads_may_lie_beside_a_model(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "notes.md").write_text("x")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.log")).touch()
    (folder / "gone.log").symlink_to("nothing")
    assert load_source(str(folder)).max_length


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("sentence_bert_config.json", {"tokenizer_args": 7}),
        ("sentence_bert_config.json", {"tokenizer_args": {"model_max_length": "x"}}),
        ("sentence_bert_config.json", {"max_seq_length": -1}),
        ("config_sentence_transformers.json", {"default_prompt_name": []}),
        ("config_sentence_transformers.json", {"model_type": {"a": 1}}),
        ("config_sentence_transformers.json", {"prompts": [1]}),
        ("1_Pooling/config.json", {"pooling_mode": [[]]}),
    ],
)
def test_a_wrong_type_beside_the_encoder_is_named(file: str, values: dict[str, object], tmp_path: Path) -> None:
    folder = make_tiny_sentence_transformer(tmp_path / "model", layers=1)
    edit(folder, file, **values)
    with pytest.raises(SourceError) as raised:
        load_source(str(folder))
    assert "not foreseen" not in raised.value.hint, raised.value


def test_weights_larger_than_the_machine_are_a_resource_limit() -> None:
    with pytest.raises(ResourceLimit, match=r"5\.0 GB"):
        refuse_without_memory(5 * 10**9, 4 * 10**9, Path("model"))
    refuse_without_memory(3 * 10**9, 4 * 10**9, Path("model"))
