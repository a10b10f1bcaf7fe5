"""Models that write text in int8 and int4: each family's graphs, sizes, packages, and what the gate must see."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from converter.api import convert, verify
from converter.generate.forcing import forced_logits
from converter.generate.graphs import DECODER
from converter.graphs import GraphSpec
from converter.onnx.model import OnnxModel
from converter.onnx.runner import OnnxRunner
from converter.quantize.dynamic import DynamicInt8
from converter.quantize.int4 import Int4Blocks
from converter.quantize.int8 import Int8Blocks
from converter.stage import Context
from converter.validate.checks import Status
from tests.tiny_text import make_text_model, pad_of, save_causal, save_marian

FAMILIES = ("gpt2", "llama", "marian", "t5")
WIDE = "-wide"
SHAPES: dict[str, dict[str, int]] = {"t5": {"d_kv": 8}, f"gpt2{WIDE}": {"n_embd": 128, "n_layer": 1}}
"""Of a wide one blocks are as large as those of real models."""
LOOSE = {"agreement": 0.2, "stability": 0.2, "sequences": 0.0, "perplexity": 99.0}
"""Of a model of 32 channels that was taught nothing: how good rounding is, is measured on models that were."""


@dataclass
class Floats:
    """The float graphs of a tiny model."""

    source: Any
    specs: dict[str, GraphSpec]
    files: dict[str, Path]

    def model(self) -> OnnxModel:
        source: Any = SimpleNamespace(cache=True, specs=self.specs)
        return OnnxModel(self.files, source)

    def logits(self, files: dict[str, Path], steps: tuple[int, ...] = ()) -> np.ndarray:
        """Return what graphs say at each token of eight texts."""
        random = np.random.default_rng(1)
        ids = random.integers(5, 118, (8, 12))
        answer = random.integers(5, 118, (8, 12)) if DECODER in self.specs else None
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return forced_logits(OnnxRunner(files).run, self.specs, feed, answer, steps)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Floats]:
    known: dict[str, Floats] = {}

    def make(family: str) -> Floats:
        from converter.generate.modules import graph_specs
        from converter.onnx.text_export import export_text_graphs

        if family not in known:
            model = make_text_model(family.removesuffix(WIDE), **SHAPES.get(family, {}))
            specs = graph_specs(model, pad_id=pad_of(model))
            known[family] = Floats(model, specs, export_text_graphs(model, specs, tmp_path_factory.mktemp(family)))
        return known[family]

    return make


def error(wanted: np.ndarray, found: np.ndarray) -> float:
    """Return the mean error over the range."""
    return float(np.abs(wanted - found).mean() / np.ptp(wanted))


def operators(path: Path) -> list[str]:
    import onnx

    return [n.op_type for n in onnx.load(path).graph.node]


@pytest.mark.parametrize(("family", "layers"), [("gpt2", 2), ("llama", 0), ("marian", 4), ("t5", 4)])
def test_attention_in_one_operator_says_what_pytorch_says(
    family: str, layers: int, floats: Callable[[str], Floats], tmp_path: Path
) -> None:
    """Alone, cached, in a padded batch; heads that share keys (Llama) are left as they are."""
    from converter.onnx.quantize.written import read_for_rounding
    from converter.onnx.text_equality import check_text_graphs
    from converter.onnx.write import write_onnx

    given, files = floats(family), {}
    for name, path in given.files.items():
        files[name] = tmp_path / f"{name}.onnx"
        write_onnx(read_for_rounding(path), files[name])
    assert check_text_graphs(given.source, given.specs, OnnxRunner(files).run, 64)["max_relative_error"] < 1e-4
    assert operators(files[DECODER if DECODER in files else "model"]).count("MultiHeadAttention") == layers


def test_what_a_translator_reads_at_every_token_is_in_few_nodes(floats: Callable[[str], Floats]) -> None:
    """The masks of what it wrote and of the source, the bias of its words, and heads that are split together."""
    from converter.onnx.quantize.written import read_for_rounding

    graph = read_for_rounding(floats("marian").files[DECODER]).graph
    assert len({str(node.name).rpartition(".short_")[0] for node in graph if ".short_" in str(node.name)}) == 2
    assert any(name is not None and name.endswith(".vector") for name in graph.initializers)


@pytest.mark.parametrize(
    ("family", "bits", "block"), [*((f, b, 32) for f in FAMILIES for b in (8, 4)), (f"gpt2{WIDE}", 8, 128)]
)
def test_weights_in_blocks_answer_as_the_same_graph_with_those_weights_in_float(
    family: str, bits: int, block: int, floats: Callable[[str], Floats], tmp_path: Path
) -> None:
    """What the operator computes is what was rounded: only activations, in 8 bits, may tell them apart."""
    from converter.onnx.quantize.block_fit import BlockRules, fit_graph
    from converter.onnx.quantize.written import read_for_rounding
    from converter.onnx.write import write_onnx

    given, rules = floats(family), BlockRules(bits, block, "rtn", bits)  # type: ignore[arg-type]
    files, wide = {}, {}
    for name, path in given.files.items():
        (tmp_path / "wide").mkdir(exist_ok=True)
        fitted = fit_graph(given.model(), name, rules, [], tmp_path, Context(work=tmp_path))
        model = read_for_rounding(path)
        put_in_float(model, fitted.rounded)
        wide[name] = tmp_path / "wide" / f"{name}.onnx"
        write_onnx(model, wide[name])
        files[name] = tmp_path / f"{name}.onnx"
        fitted.write(files[name])
        assert {w.shape[2] for w in fitted.rounded.values()} == {block}
    wanted, found, source = (given.logits(f) for f in (wide, files, given.files))
    assert error(wanted, found) < 0.03
    assert error(source, found) < (0.04 if bits == 8 else 0.15)


def put_in_float(model: Any, rounded: Any) -> None:
    """Put the weights that `rounded` stands for in the place of those they were made from."""
    import onnx_ir as ir

    from converter.onnx.rewrites.products import products_of, tables_of

    stored = {p.weight_name: (p.stored, p.turned) for p in products_of(model)}
    for table in tables_of(model):
        stored[str(table.name)] = (table, True)
    for name, made in rounded.items():
        value, turned = stored[name]
        array = made.wide() if turned else np.ascontiguousarray(made.wide().T)
        value.const_value = ir.tensor(array, name=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_blocks_the_cached_path_is_the_uncached_one(
    family: str, floats: Callable[[str], Floats], tmp_path: Path
) -> None:

    given = floats(family)
    files = Int8Blocks().run(given.model(), Context(work=tmp_path)).made.files
    # A value at the edge of two steps may fall on either side of it.
    assert error(given.logits(dict(files)), given.logits(dict(files), (1,) * 12)) < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_dynamic_int8_says_nearly_what_float_says(family: str, floats: Callable[[str], Floats], tmp_path: Path) -> None:

    given = floats(family)
    files = DynamicInt8().run(given.model(), Context(work=tmp_path)).made.files
    assert error(given.logits(given.files), given.logits(dict(files))) < 0.05
    kinds = operators(files[DECODER] if DECODER in given.specs else files["model"])
    assert "MatMulIntegerToFloat" in kinds
    assert "Gemm" not in kinds


@pytest.mark.parametrize("precision", ["dynamic", "int8", "int4"])
def test_no_table_is_twice_in_the_file(precision: str, floats: Callable[[str], Floats], tmp_path: Path) -> None:
    """The GPT-2's table is its output layer too: one byte (half a byte) a parameter, and 5 % for the rest."""
    import onnx

    from converter.registry import quantizers

    given = floats("gpt2")
    options = {"method": "rtn"} if precision == "int4" else {}
    stage = quantizers("cpu-int8")[precision](**options)
    path = stage.run(given.model(), Context(work=tmp_path)).made.files["model"]
    stored = onnx.load(path).graph.initializer
    large = [t for t in stored if np.prod(t.dims) > 1000]
    n_weights = sum(int(np.prod(t.dims)) for t in onnx.load(given.files["model"]).graph.initializer)
    n_bytes = sum(len(t.raw_data) for t in large)
    assert all(t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for t in large)
    assert n_bytes <= n_weights * (0.55 if precision == "int4" else 1.05)


def test_weights_that_lose_most_get_eight_bits_as_far_as_a_size_allows(
    floats: Callable[[str], Floats], tmp_path: Path
) -> None:

    given, sizes, errors = floats("gpt2"), [], []
    for most in (0.0, 0.038, 1.0):
        (work := tmp_path / str(most)).mkdir()
        outcome = Int4Blocks(method="rtn", size_mb=most).run(given.model(), Context(work=work))
        files = dict(outcome.made.files)
        sizes.append(files["model"].stat().st_size)
        errors.append(error(given.logits(given.files), given.logits(files)))
    assert sizes[0] < sizes[1] <= 38_000 < sizes[2]
    assert errors[0] > errors[1] > errors[2]


MAKERS = {"gpt2": save_causal, "marian": save_marian}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    known: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in known:
            known[kind] = MAKERS[kind](tmp_path_factory.mktemp(kind) / "model")
        return known[kind]

    return make


def axes_of(path: Path) -> dict[str, list[str | int]]:
    """Return the axes of every input and output of an ONNX file, by name."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    values = [*graph.input, *graph.output]
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


@pytest.mark.parametrize("stage", [DynamicInt8(), Int8Blocks(), Int4Blocks(method="rtn")], ids=["dynamic", "8", "4"])
def test_axes_keep_the_names_that_clients_look_for(stage: Any, floats: Callable[[str], Floats], tmp_path: Path) -> None:
    given = floats("gpt2")
    made = stage.run(given.model(), Context(work=tmp_path)).made
    for graph, path in made.files.items():
        wanted = axes_of(given.files[graph])
        for name, axes in wanted.items():
            if name.startswith("past_key_values"):
                # Attention in one operator takes no empty cache of another size: transformers.js reads it here.
                axes[1], axes[3] = given.specs[graph].inputs[given.specs[graph].input_names.index(name)].axes[1::2]
        assert axes_of(path) == wanted


@pytest.mark.parametrize(
    ("kind", "precision", "suffix"),
    [
        ("gpt2", "int4", "_q4"),
        ("gpt2", "dynamic", "_quantized"),
        ("marian", "static", "_quantized"),
        ("marian", "int4", "_q4"),
    ],
)
def test_a_package_is_proven_verified_and_writes(
    kind: str,
    precision: str,
    suffix: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from converter.commands.cli import run

    recipe = {"model": str(folders(kind)), "targets": ["cpu-int8"], "quantize": {"cpu-int8": precision}}
    (made,) = convert({**recipe, "limits": LOOSE}, tmp_path / "out").targets
    assert made.status is Status.PASS, made.error
    assert made.evaluation is not None
    wanted = {"weights", "embedding tables", *(["noise", "own weights"] if precision == "int4" else [])}
    compared = {c.name: c.status for c in made.evaluation.checks if c.name in wanted}
    assert compared == dict.fromkeys(wanted, Status.PASS)
    package = tmp_path / "out" / "cpu-int8"
    stems = sorted(p.stem for p in (package / "onnx").iterdir())
    graphs = ["model"] if kind == "gpt2" else ["decoder_model_merged", "encoder_model"]
    # Clients look for every graph under the same suffix.
    assert stems == [f"{graph}{suffix}" for graph in graphs]
    for path in (package / "onnx").iterdir():
        # transformers.js makes the first cache by the name of this axis.
        assert {axes[0] for axes in axes_of(path).values()} == {"batch_size"}, path
    found = verify(package)
    assert found["golden_texts"] >= 8
    capfd.readouterr()
    assert run(["run", str(package), "the old town", "--max-new-tokens", "6"]) == 0
    assert capfd.readouterr().out.strip()


@pytest.mark.parametrize(("method", "most"), [("awq", 1.0), ("gptq", 0.97), ("awq-gptq", 0.97)])
def test_rounding_fitted_to_text_loses_less_of_it_than_rounding_to_nearest(
    method: str, most: float, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from converter.data.probes import builtin_examples
    from converter.model_folder.load import load_source
    from converter.onnx.text_export import export_text_graphs

    source = load_source(str(folders("gpt2")))
    given = OnnxModel(export_text_graphs(source.module, source.specs, tmp_path / "float"), source)
    texts = [e for e in builtin_examples(source) if len(e.text) > 10]
    middle = len(texts) * 2 // 3
    ids = [source.task.encode(source.tokenizer, e, 64).inputs["input_ids"][None] for e in texts[middle:]]

    def logits(model: OnnxModel) -> np.ndarray:
        run = OnnxRunner(model.files).run
        feeds = [{"input_ids": i, "attention_mask": np.ones_like(i)} for i in ids]
        return np.concatenate([forced_logits(run, source.specs, feed)[0] for feed in feeds])

    losses = []
    for name in ("rtn", method):
        (work := tmp_path / name).mkdir()
        ctx = Context(work=work, calibration=tuple(texts[:middle]))
        stage = Int4Blocks(method=name, table=8)  # type: ignore[arg-type]
        losses.append(error(logits(given), logits(stage.run(given, ctx).made)))
    assert losses[1] < most * losses[0]


def test_a_scale_that_is_wrong_fails_the_gate(folders: Callable[[str], Path], tmp_path: Path) -> None:
    import onnx

    from converter.data.probes import builtin_examples, choose_probes
    from converter.model_folder.load import load_source
    from converter.onnx.export import ExportOnnx
    from converter.precision import Limits
    from converter.reference import capture_reference
    from converter.stage import SILENT, run_stages
    from converter.validate.checks import Check
    from converter.validate.owner import OwnerVerdict
    from converter.validate.package_check import evaluate_package
    from converter.validate.proof import ProofContext
    from targets.cpu_int8 import CpuInt8

    source, target = load_source(str(folders("gpt2"))), CpuInt8()
    ctx = Context(work=tmp_path)
    reference = capture_reference(source, choose_probes((), builtin_examples(source), 16), SILENT)
    proof = ProofContext(tmp_path, reference, OwnerVerdict(Check("owner's library", Status.PASS)))
    artifact, _ = run_stages([ExportOnnx(), Int8Blocks()], source, ctx)
    (folder := tmp_path / "package").mkdir()
    bundle = target.emit(artifact, source, folder, ctx)
    limits = replace(target.limits("int8"), agreement=0.9, sequences=0.5, perplexity=1.1)
    assert isinstance(limits, Limits)

    def failed() -> set[str]:
        made = evaluate_package(target, bundle, source, limits, proof, require_device=False)
        return {c.name for c in made.checks if c.status is Status.FAIL}

    assert not failed()
    path = folder / bundle.files["model"]
    model = onnx.load(path)
    scales = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16)
    wrong = onnx.numpy_helper.to_array(scales).copy()
    wrong[: len(wrong) // 4] *= 2
    scales.CopyFrom(onnx.numpy_helper.from_array(wrong, scales.name))
    onnx.save(model, path)
    assert {"agreement", "generation"} <= failed()
