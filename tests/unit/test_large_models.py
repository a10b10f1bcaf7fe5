"""Models that fill the memory: mapped instead of held, rounded one matrix at a time, refused before they are loaded."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from converter.bounds.watch import STATM, available_memory, check_available
from converter.commands.cli import run
from converter.errors import ResourceLimit
from converter.forecast import memory_of_export
from converter.model_folder.load import load_source
from converter.model_folder.mapped import map_weights
from converter.onnx.quantize.block_fit import BlockRules, fit_graph
from converter.onnx.quantize.block_rounding import round_to_nearest
from converter.onnx.rewrites.block_products import BlockFile
from converter.planning import plan_recipe
from converter.recipe import bind_recipe
from converter.resources import made_beside, made_in_threads, mapped_weights, release_memory
from converter.stage import Context
from tests.tiny_text import save_causal

RANDOM = np.random.default_rng(3)
WIDTH, OUTPUTS = 128, 1024
linux = pytest.mark.skipif(not STATM.is_file(), reason="Linux tells what of a process is a file")


def tied_module() -> Any:
    import torch

    module = torch.nn.ModuleDict(
        {"table": torch.nn.Embedding(4000, 512), "layer": torch.nn.Linear(512, 512), "head": torch.nn.Linear(512, 4000)}
    )
    module["head"].weight = module["table"].weight
    return module


@linux
def test_mapped_weights_keep_their_values_and_are_in_the_file_once(tmp_path: Path) -> None:
    import torch

    module = tied_module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    moved = map_weights(module, tmp_path / "w.safetensors", least=1)
    assert moved == sum(p.nbytes for p in module.parameters() if p.nbytes >= 4096)
    assert (tmp_path / "w.safetensors").stat().st_size < moved + 1000
    assert module["head"].weight is module["table"].weight
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert map_weights(module, tmp_path / "again.safetensors", least=1) == 0, "they are in a file already"


@linux
def test_pages_of_mapped_weights_are_given_back(tmp_path: Path) -> None:
    module = tied_module()
    map_weights(module, tmp_path / "w.safetensors", least=1)
    module["table"].weight.sum().item()
    read = resident_of(tmp_path / "w.safetensors")
    release_memory()
    assert read > 7_000_000
    assert resident_of(tmp_path / "w.safetensors") < 1_000_000
    assert any(length > 9_000_000 for _, length in mapped_weights())


@linux
def test_mapped_weights_that_a_stage_changes_stay_changed_and_the_file_as_it_was(tmp_path: Path) -> None:
    import torch

    module = tied_module()
    map_weights(module, tmp_path / "w.safetensors", least=1)
    content, before = (tmp_path / "w.safetensors").read_bytes(), module["layer"].weight.detach().clone()
    with torch.no_grad():
        module["layer"].weight.add_(1)
    release_memory()
    assert torch.equal(module["layer"].weight, before + 1)
    assert (tmp_path / "w.safetensors").read_bytes() == content


def test_few_weights_stay_in_memory(tmp_path: Path) -> None:
    assert map_weights(tied_module(), tmp_path / "w.safetensors") == 0
    assert not any(tmp_path.iterdir())


def resident_of(path: Path) -> int:
    """Return the bytes of a mapped file that are in memory."""
    lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(str(path)))
    return 1000 * int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1])


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_on_disk_are_those_that_were_rounded(bits: int, tmp_path: Path) -> None:
    made = round_to_nearest(RANDOM.standard_normal((40, 70), dtype=np.float32), bits, 32)
    kept = BlockFile.of(made, tmp_path / "one.bin")
    assert np.array_equal(kept.packed(), made.packed())
    assert np.array_equal(kept.wide(), made.wide())


@pytest.mark.parametrize("bits", [4, 8])
def test_int4_of_a_mapped_model_holds_one_matrix_at_a_time(bits: int, tmp_path: Path) -> None:
    """Sixteen times as many matrices take no more memory, and the file that comes of them is as much larger."""
    few, many = (peak_of_rounding(count, bits, tmp_path / str(count)) for count in (5, 80))
    # Two are rounded beside each other, or one after the other.
    two = 6_000_000
    assert 75 * WIDTH * OUTPUTS * (1 + bits / 8) > 2 * two, "all of them held would be seen"
    assert many[0] < few[0] + two
    assert many[1] > 12 * few[1]


def peak_of_rounding(count: int, bits: Any, folder: Path) -> tuple[int, int]:
    """Return the most bytes that numpy held at a time while `count` matrices were rounded and written, and the file's.

    Everything that is loaded once was loaded before.
    """
    folder.mkdir()
    given: Any = type("Given", (), {"files": {"model": folder / "float.onnx"}})
    write_products(count, folder / "float.onnx")
    rules, ctx = BlockRules(bits, 32, "rtn", bits), Context(work=folder)
    fit_graph(given, "model", rules, [], folder, ctx).write(folder / "warm.onnx")
    tracemalloc.start()
    try:
        fit_graph(given, "model", rules, [], folder, ctx).write(folder / "made.onnx")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not [p for p in folder.iterdir() if p.is_dir()], "what was kept on disk is gone"
    return peak, (folder / "made.onnx").stat().st_size


def write_products(count: int, path: Path) -> None:
    """Write a graph in which `count` matrices multiply one input."""
    import onnx_ir as ir

    from converter.onnx.rewrites.projections import new_weight
    from converter.onnx.write import write_onnx

    given = ir.Value(name="given", shape=ir.Shape(["batch", "sequence", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([given], [], nodes=[], opset_imports={"": 18}, name="products")
    for i in range(count):
        weight = new_weight(graph, RANDOM.standard_normal((WIDTH, OUTPUTS), dtype=np.float32), f"weight{i}")
        node = ir.node("MatMul", [given, weight], name=f"product{i}")
        made = node.outputs[0]
        made.name, made.type = f"made{i}", ir.TensorType(ir.DataType.FLOAT)
        made.shape = ir.Shape(["batch", "sequence", OUTPUTS])
        graph.append(node)
        graph.outputs.append(made)
    write_onnx(ir.Model(graph, ir_version=10), path)


def test_what_threads_make_comes_in_order_and_their_errors_come_too() -> None:
    assert list(made_in_threads(lambda n: n * n, range(7))) == [0, 1, 4, 9, 16, 25, 36]

    def fails(n: int) -> int:
        if n == 3:
            raise ValueError("the third")
        return n

    made = made_in_threads(fails, range(9))
    assert [next(made) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(made)


def test_what_is_made_beside_other_work_is_waited_for_and_its_error_comes_where_it_is_asked_for() -> None:
    began, go_on = Event(), Event()

    def waits() -> int:
        began.set()
        assert go_on.wait(60)
        return 3

    with made_beside(waits) as made:
        assert began.wait(60), "it is made while the context does something else"
        go_on.set()
        assert made() == 3
    with made_beside(lambda: 1 // 0) as made, pytest.raises(ZeroDivisionError):
        made()
    with made_beside(lambda: 1 // 0, later=True):
        pass  # was not asked for


def hollow_llama(folder: Path, layers: int = 22) -> Path:
    """Return a folder with the shape of TinyLlama whose weights are a hole in a file: they take no room on the disk."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    matrix, end, header = 2048 * 5632, 0, {}
    for i in range(layers * 4):
        header[f"model.weight.{i}"] = {"dtype": "BF16", "shape": [2048, 5632], "data_offsets": [end, end + 2 * matrix]}
        end += 2 * matrix
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as opened:
        opened.write(len(head).to_bytes(8, "little") + head)
        opened.truncate(8 + len(head) + end)
    return folder


def test_a_model_larger_than_the_limit_of_memory_is_refused_before_it_is_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = hollow_llama(tmp_path / "model")
    flags = ("--target", "cpu-int8", "--quantize", "int4", "--max-memory", "3GB", "-q")
    assert run([str(folder), *flags, "-o", str(tmp_path / "out")]) == 7
    heard = capfd.readouterr().err
    assert "of memory, 3 GB are allowed; nothing was made" in heard
    assert not (tmp_path / "out").exists()


def test_a_run_that_needs_more_than_the_machine_has_left_is_refused() -> None:
    check_available(4 * 10**9, 5 * 10**9)
    check_available(10**6)
    with pytest.raises(ResourceLimit, match=r"about 6 GB more of memory, and this machine has 5 GB left"):
        check_available(6 * 10**9, 5 * 10**9)
    assert 10**7 < available_memory() < 10**14


def test_a_model_that_no_flatbuffer_holds_is_refused_for_tflite() -> None:
    from converter.tflite.writing.lower import MOST_BYTES, refuse_large

    refuse_large(MOST_BYTES - 1)
    with pytest.raises(ResourceLimit, match=r"4\.4 GB of weights in float32") as raised:
        refuse_large(4_400_000_000)
    assert "cpu-int8" in str(raised.value.hint)


def test_memory_is_foretold_by_part_and_the_largest_part_is_what_the_plan_says(tmp_path: Path) -> None:
    """In a file from the export on, the weights are held once: what rounds a matrix does not grow with the layers."""
    recipe = bind_recipe(
        {
            "model": str(save_causal(tmp_path / "model", "llama")),
            "targets": ["cpu-int8"],
            "quantize": {"cpu-int8": "int4"},
        }
    )
    made = plan_recipe(recipe)
    assert list(made.memory_by_part) == ["loading", "its own library", "export", "quantization", "checks"]
    assert made.memory_megabytes == max(made.memory_by_part.values())
    source = load_source(recipe.model)
    whole = [need.bytes for need in memory_of_export(source, [("int4", 0.5)], onnx=True)]
    assert all(0 <= n - source.size_bytes < 400_000_000 for n in whole[1:])
    assert memory_of_export(source, [("int4", 0.5)], onnx=False)[0].bytes == 3 * source.size_bytes
    short = replace(source, provenance=replace(source.provenance, dtype="bfloat16"))
    assert memory_of_export(short, [("int4", 0.5)], onnx=True)[0].bytes == 1.5 * source.size_bytes
