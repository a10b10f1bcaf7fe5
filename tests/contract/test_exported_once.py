"""What tests share is what the exporters made, and never of another module."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from converter.examples import Example
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.onnx.export import ExportOnnx
from converter.stage import Context, run_stage
from tests.asked_once import AskedOnce, _Spelled, typed
from tests.exported_once import Shared
from tests.tiny import SENTENCES


def test_a_shared_export_is_the_exporters_own(tiny: Callable[..., Path], exporters: Shared, tmp_path: Path) -> None:
    made = []
    for name, shared in (("once", True), ("again", True), ("anew", False)):
        exporters.on, read = shared, exporters.read
        work = tmp_path / name
        work.mkdir()
        ctx = Context(work=work, calibration=tuple(Example(s) for s in SENTENCES))
        made.append(
            onnx.load(str(run_stage(ExportOnnx(), load_source(str(tiny("bert", layers=1))), ctx)[0].files[MODEL])).graph
        )
    assert exporters.read == read
    assert exporters.read > 0
    for graph in made[:2]:
        assert graph.node == made[2].node
        for found, wanted in zip(graph.initializer, made[2].initializer, strict=True):
            a, b = onnx.numpy_helper.to_array(found), onnx.numpy_helper.to_array(wanted)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=found.name)


def test_the_same_model_in_another_folder_is_exported_once(
    tiny: Callable[..., Path], exporters: Shared, tmp_path: Path
) -> None:
    folder = tiny("bert", layers=1)
    source, copy = load_source(str(folder)), load_source(str(shutil.copytree(folder, tmp_path / "copy")))
    key = exporters.path_of("onnx", source.module, ())
    save_model(source, tmp_path / "saved")
    again = load_source(str(tmp_path / "saved"))
    assert key is not None
    assert {exporters.path_of("onnx", m.module, ()) for m in (source, copy, again)} == {key}


def _weight(module: Any) -> None:
    with torch.no_grad():
        module.bert.pooler.dense.bias[0] += 1e-6


def _configuration(module: Any) -> None:
    module.config.layer_norm_eps = 1e-9


def _attribute(module: Any) -> None:
    module.bert.encoder.layer[0].attention.self.scaling *= 2


def _mode(module: Any) -> None:
    module.train()


@pytest.mark.parametrize("change", [_weight, _configuration, _attribute, _mode])
def test_another_module_is_exported_for_itself(
    change: Callable[[Any], None], tiny: Callable[..., Path], exporters: Shared
) -> None:
    keys = [exporters.path_of("onnx", load_source(str(tiny("bert", layers=1))).module, ()) for _ in range(2)]
    module = load_source(str(tiny("bert", layers=1))).module
    change(module)
    assert keys[0] == keys[1]
    assert keys[0] not in {None, exporters.path_of("onnx", module, ())}
    assert keys[0] != exporters.path_of("onnx", module, ("another option",))


def test_a_module_with_a_hook_of_a_test_is_not_shared(tiny: Callable[..., Path], exporters: Shared) -> None:
    module = load_source(str(tiny("bert", layers=1))).module
    module.register_forward_hook(lambda _module, _given, made: made)
    assert exporters.path_of("onnx", module, ()) is None


def test_what_jax_wrote_once_makes_the_file_that_it_makes(exporters: Shared) -> None:
    litert_torch = pytest.importorskip("litert_torch", reason="the extra 'mobile' is not installed")
    asked, made, n_written = exporters.asked, [], set()
    before = len(asked.written)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 11), torch.nn.GELU(), torch.nn.LayerNorm(11)).eval()
    for once in (True, True, False):
        exporters.on, asked.on = False, once
        converter = litert_torch.Converter().signature("serving", module, (torch.ones(1, 5),))
        made.append(converter.convert().model_content())
        n_written.add(len(asked.written))
    assert len(n_written) == 1
    assert min(n_written) > before
    assert made[0] == made[1] == made[2]


@pytest.mark.usefixtures("exported_anew")
def test_nothing_is_kept_while_a_test_exports_twice(exporters: Shared) -> None:
    from onnxscript._internal.values import TracedOnnxFunction
    from onnxscript.function_libs.torch_lib.ops import core

    assert not exporters.asked.on

    asked, calls = AskedOnce(), list[Any]()
    operators = asked._found(lambda: calls.append("operators"))

    def answer(given: Any) -> object:
        calls.append(given)
        return object()

    text = asked.once(answer)
    spelled = _Spelled(asked)
    with pytest.MonkeyPatch.context() as patch:
        asked.patch(patch)
        function = next(f for f in vars(core).values() if isinstance(f, TracedOnnxFunction))
        for on, n_calls in ((False, 4), (True, 2), (False, 4)):
            asked.on = on
            calls.clear()
            answers = [(operators(), text("a"), function.function_ir, spelled[[int], str]) for _ in range(2)]
            assert len(calls) == n_calls
            assert (answers[0][1] is answers[1][1], answers[0][2] is answers[1][2]) == (on, on)
            assert answers[0][3] == answers[1][3] == Callable[[int], str]


@pytest.mark.usefixtures("exported_anew")
def test_a_template_is_translated_once_for_equal_options_and_filters() -> None:
    import jinja2

    asked, source = AskedOnce(), "{{ 'a'|told }}\n"
    with pytest.MonkeyPatch.context() as patch:
        asked.patch(patch)

        def translated(told: Callable[[str], str], **options: bool) -> tuple[Any, str]:
            environment = jinja2.Environment(**options)
            environment.filters["told"] = told
            return environment.compile(source), environment.from_string(source).render()

        first, again = (translated(str.upper) for _ in range(2))
        assert first[0] is again[0]
        assert again[1] == "A"
        assert translated(str.title, keep_trailing_newline=True)[1] == "A\n"
        assert translated(str.swapcase)[0] is not first[0]
        asked.on = False
        assert translated(str.upper)[0] is not first[0]


def test_equal_numbers_of_other_types_are_other_questions() -> None:
    assert len({typed((x,)) for x in (1, 1.0, True, 0.0, -0.0)}) == 5
    assert typed(((1, "a"), None)) == typed(((1, "a"), None))
