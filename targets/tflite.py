"""`tflite`: one file for LiteRT on phones, int32 ids in, one signature per length over shared weights."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import Artifact, Bundle, TorchModel
from converter.binding import bind, option
from converter.device.gpu_forecast import forecast_gpu
from converter.device.package_files import PackageFiles
from converter.device.second_opinion import second_opinion
from converter.device.shipped_files import check_device_files
from converter.device.writing.files import WriterFiles, check_writer_files
from converter.errors import RecipeError, RuntimeMissing, StageFailed, UsageError
from converter.generate.graphs import has_cache
from converter.graphs import MODEL, GraphSpec
from converter.model_folder.files import write_model_files
from converter.precision import Limits, unquantized
from converter.registry import quantizers
from converter.resources import link_or_copy
from converter.stage import Context, Stage
from converter.surgery.tokens import dropping_of
from converter.target import Runner, Target
from converter.tflite.lengths.any_length import write_any_length
from converter.tflite.lengths.batch import add_batches
from converter.tflite.lengths.shared import SHARED, has_shared_graph, write_shared
from converter.tflite.lengths.stamp import LengthDependent
from converter.tflite.lengths.trial import try_lengths
from converter.tflite.lower.lower import LowerTflite, refuse_dropping_layers
from converter.tflite.mediapipe.check import check_shipped_variant, check_variant, try_variant
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE, NotForMediaPipe, write_mediapipe
from converter.tflite.model import FINE_LENGTHS, SHORTEST, TfliteModel, signature_lengths
from converter.tflite.usage import usage_of
from converter.tflite.writing.checks import check_shipped_bundle, writer_checks
from converter.tflite.writing.lower import layout_of
from converter.tflite.writing.model import TfliteWriter
from converter.tflite.writing.package import emit_writer, writer_stages, writer_usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from converter.package.golden import Golden
    from converter.package.shipped import Shipped
    from converter.reference import Reference
    from converter.validate.checks import Check, Evaluation
    from converter.validate.proof import ProofContext
    from converter.validate.stored import Stored

MODEL_FILE = "model.tflite"
SEPARATE = frozenset({"float32", "fp16", "static"})
"""Precisions that GPUs and NPUs take: with `graphs=auto` their lengths have a graph each."""


@dataclass(frozen=True)
class Tflite(Target):
    """TFLite file for LiteRT (Android, iOS, desktop)."""

    seq_len: tuple[int, ...] = option(
        (),
        "sequence lengths in tokens, one signature each; none: 21 lengths from 8 to 128 (16, 32, 64, 128 with "
        "graphs=separate)",
        low=1,
    )
    graphs: Literal["auto", "shared", "separate"] = option(
        "auto",
        "shared: one graph for all sequence lengths, weights in memory once, for CPUs; separate: one graph per length, "
        "which GPU and NPU delegates need; auto: separate for the precisions none, fp16 and static",
    )
    any_length: bool = option(
        False, "one signature that takes any length up to the longest: least memory, no padding; for CPUs"
    )
    cache: int = option(
        0,
        "positions of the cache of a model that writes text, prompt and answer together; 0: 1024, or 128 for the "
        "answer of an encoder-decoder; at most the model's",
        low=0,
    )
    batch: int = option(
        1, "texts per call; above 1, each length has a second signature such as serving_16_batch_8", low=1, high=64
    )
    mediapipe: bool = option(
        True, "also write model-mediapipe.tflite for MediaPipe Tasks, if the model is supported there"
    )

    litertlm: bool = option(
        True, "also write model.litertlm for LiteRT-LM, if the model writes text and is supported there"
    )

    name = "tflite"
    summary = "TFLite for LiteRT on Android, iOS and desktop"
    extra = "mobile"
    runtime_module = "ai_edge_litert.interpreter"
    # 3e-6 was measured on MiniLM; deeper models sum more.
    own = (unquantized(Limits(max_error=1e-4, agreement=1.0, stability=1.0)),)
    precisions = ("dynamic", "static", "weights", "mixed", "int4", "fp16", "none")
    auto = ("dynamic", "static", "fp16")
    writes = ("dynamic", "fp16", "weights", "int4", "none")
    input_dtype = "int32"

    def check_runtime(self) -> None:
        for module in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
            if importlib.util.find_spec(module) is None:
                raise RuntimeMissing(
                    f"the tflite target needs {module.replace('_', '-')}, which is not installed",
                    hint="pip install 'plm-export[mobile]'",
                )

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> Sequence[Stage[Any, Any]]:
        if model.cache is not None:
            self.refuse_writer(precision, model.task.name)
            self._check_writer()
            return writer_stages(self.name, precision, options, model, self.cache, self.seq_len)
        if self.cache:
            raise RecipeError(
                f"a model for {model.task.name} keeps nothing between calls",
                where="tflite.cache",
                hint="leave cache out",
            )
        self._check_adaptive(model)
        lower = LowerTflite(self._lengths(model))
        where = "quantize.tflite"
        if precision == "none":
            if options:
                raise RecipeError(
                    f"precision none has no option {next(iter(options))!r}",
                    where=where,
                    hint="lengths are an option of the target: --seq-len 16,32",
                )
            return (lower,)
        return (lower, bind(quantizers(self.name)[precision], options, where))

    def _lengths(self, model: TorchModel) -> tuple[int, ...]:
        """Return the lengths that an encoder is lowered at, ascending.

        Raises:
            UsageError: a length exceeds what the model takes, or options contradict each other.

        """
        lengths = signature_lengths(self.seq_len, model.max_length)
        if self.batch > 1 and (self.any_length or self.graphs == "shared"):
            raise RecipeError(
                "one graph for all lengths takes one text per call",
                where="tflite.batch",
                hint=f"leave out {'any_length' if self.any_length else 'graphs=shared'}, or batch",
            )
        if self.any_length and self.graphs != "auto":
            raise RecipeError(
                "any_length makes one graph with one signature, so graphs cannot be chosen",
                where="tflite.graphs",
                hint="leave out any_length, or graphs",
            )
        if self.any_length:
            # Two are the pattern that `emit` makes one of.
            if lengths[-1] <= SHORTEST:
                raise RecipeError(
                    f"any_length needs a longest length above {SHORTEST} tokens, found {lengths[-1]}",
                    where="tflite.any_length",
                    hint="leave any_length out, or give a longer --seq-len",
                )
            lengths = (max(SHORTEST, lengths[-1] // 2), lengths[-1])
        if self.graphs == "shared" and len(lengths) < 2:
            raise RecipeError(
                "there is only one sequence length, so there is no graph to share",
                where="tflite.graphs",
                hint="give more lengths, or leave graphs=shared out",
            )
        return lengths

    def _check_adaptive(self, model: TorchModel) -> None:
        """Raise for what texts do apart in a model that is adaptive, where this file does it to all alike."""
        if model.leaves_early:
            raise UsageError(
                "a TFLite file runs its whole graph, so that leaving early would save nothing",
                where="adapt.exit",
                hint="leave adapt.exit out for this target; prune.tokens and prune.layers make it faster",
            )
        if self.batch > 1 and dropping_of(model) is not None:
            raise RecipeError(
                "layers of this model drop tokens, each text its own, and their graph takes one text per call",
                where="tflite.batch",
                hint="leave batch out, or prune.tokens",
            )

    def _check_writer(self) -> None:
        """Raise where an option is for encoders alone."""
        asked = {"graphs": self.graphs != "auto", "any_length": self.any_length, "batch": self.batch > 1}
        wrong = next((name for name, given in asked.items() if given), None)
        if wrong is not None:
            raise RecipeError(
                f"a file that writes text has no option {wrong}",
                where=f"tflite.{wrong}",
                hint=f"leave {wrong} out; its options are seq_len and cache",
            )

    def emit(self, given: Artifact, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        if isinstance(given, TfliteWriter):
            bundle = emit_writer(given, source, folder, litertlm=self.litertlm)
            WriterFiles(folder).write_tokenizer(source)
            return bundle
        assert isinstance(given, TfliteModel)
        path = folder / MODEL_FILE
        left_out: dict[str, str] = {}
        if self._shared(given):
            try:
                self._write_shared(given, source, path, ctx)
            except LengthDependent as error:
                if self.any_length or self.graphs == "shared":
                    raise self._not_shared(error) from None
                left_out[SHARED] = str(error)
        if SHARED in left_out or not self._shared(given):
            path.unlink(missing_ok=True)
            link_or_copy(given.path, path)  # the float file may serve another precision of this run
        if self.batch > 1:
            add_batches(path, self.batch)
        if why := self._without_mediapipe(given, source, folder / MEDIAPIPE_FILE, ctx):
            left_out[MEDIAPIPE_FILE] = why
        write_model_files(source, folder, {}, max_length=given.lengths[-1])
        PackageFiles(folder).write_tokenizer(source)
        return Bundle(folder, {MODEL: MODEL_FILE}, source, left_out)

    def _shared(self, given: TfliteModel) -> bool:
        """Whether one graph is wanted behind all lengths."""
        if self.any_length or self.graphs == "shared":
            return True
        return self.graphs == "auto" and self.batch == 1 and given.precision not in SEPARATE and len(given.lengths) > 1

    def _write_shared(self, given: TfliteModel, source: TorchModel, path: Path, ctx: Context) -> None:
        """Write the file of one graph, and try it.

        Raises:
            LengthDependent: this architecture, or the runtime, does not allow it.

        """
        refuse_dropping_layers(given.source)
        if self.any_length:
            write_any_length(given.path, path, given.lengths[-1])
        else:
            write_shared(given.path, path, signature_lengths(self.seq_len, source.max_length, FINE_LENGTHS))
        try_lengths(given, self.open(path.parent, source.specs).run, ctx)

    def _not_shared(self, why: LengthDependent) -> StageFailed:
        option = "any_length" if self.any_length else "graphs=shared"
        return StageFailed(
            f"this model cannot share one graph between all sequence lengths ({why})",
            where=f"tflite.{option}",
            hint=f"leave {option} out: separate graphs work for every model",
        )

    def _without_mediapipe(self, given: TfliteModel, source: TorchModel, path: Path, ctx: Context) -> str:
        """Write the file for MediaPipe, and try it; returns why there is none, empty where there is one."""
        if not self.mediapipe:
            return "disabled: mediapipe=false"
        try:
            write_mediapipe(given.path, source, path)
            try_variant(given, path, ctx)
        except NotForMediaPipe as error:
            return str(error)
        except LengthDependent as error:
            path.unlink()
            return f"its graph cannot take every sequence length ({error})"
        return ""

    def model_files(self, folder: Path, specs: Mapping[str, GraphSpec]) -> Mapping[str, Path]:
        return dict.fromkeys(specs, folder / MODEL_FILE)

    def open(self, folder: Path, specs: Mapping[str, GraphSpec], threads: int = 1) -> Runner:
        if has_cache(specs):
            from converter.tflite.writing.runner import WriterRunner

            return WriterRunner(folder / MODEL_FILE, specs, threads)
        from converter.tflite.runner import TfliteRunner

        return TfliteRunner(folder / MODEL_FILE, specs, threads)

    def check_shipped(self, shipped: "Shipped") -> tuple[str, ...]:
        if has_cache(shipped.specs):
            return (*check_shipped_bundle(shipped, shipped.folder / MODEL_FILE), *check_writer_files(shipped))
        return (*check_shipped_variant(shipped), *check_device_files(shipped))

    def own_checks(
        self, bundle: Bundle, source: TorchModel, reference: "Reference", runner: Runner, proof: "ProofContext"
    ) -> tuple[list["Check"], dict[str, Any]]:
        longest = min(source.max_length, runner.max_length or source.max_length)
        if source.cache is not None:
            checks, found = writer_checks(bundle, reference, runner)
            tokenizer, facts = WriterFiles(bundle.folder).check(source, reference, longest)
            return [tokenizer, *checks], {**found, **facts}
        model = bundle.folder / bundle.files[MODEL]
        tokenizer, facts = PackageFiles(bundle.folder).check(source, reference, longest)
        checks, found = check_variant(bundle, source, reference, runner, proof.progress)
        opinion, opinion_facts = second_opinion(model, source, reference, runner, proof.work)
        graphs = {"graphs": "one for all lengths" if has_shared_graph(model) else "one per signature"}
        if SHARED in bundle.left_out:
            graphs["not_shared"] = bundle.left_out[SHARED]
        return [tokenizer, opinion, *checks], {
            **graphs,
            **facts,
            **opinion_facts,
            **found,
            **forecast_gpu(model).facts(),
        }

    def accompany(
        self, bundle: Bundle, golden: "Golden", runner: Runner, evaluation: "Evaluation", tolerance: float
    ) -> dict[str, Any]:
        if bundle.source.cache is not None:
            opened: Any = runner
            writer = WriterFiles(bundle.folder)
            made = writer.complete(bundle.source, golden, opened, evaluation.facts)
            writer.try_python(made)
            return made
        files = PackageFiles(bundle.folder)
        made = files.complete(bundle.source, golden, runner, evaluation.facts, tolerance)
        files.try_python()
        return made

    def parameters(self, path: Path, *, vectors_only: bool = False) -> "Iterator[Stored]":
        from converter.tflite.parameters import stored_parameters

        return stored_parameters(path, vectors_only=vectors_only)

    def models_beside(self, bundle: Bundle) -> tuple[Path, ...]:
        path = bundle.folder / MEDIAPIPE_FILE
        return (path,) if path.is_file() else ()

    def product_weights(self, bundle: Bundle) -> "Iterator[NDArray[Any]]":
        from converter.tflite.weights import product_weights

        return chain.from_iterable(product_weights(bundle.folder / f) for f in dict.fromkeys(bundle.files.values()))

    def usage(self, bundle: Bundle) -> str:
        if bundle.source.cache is not None:
            usage = writer_usage(bundle, layout_of(bundle.source, self.cache, self.seq_len))
            return usage + WriterFiles(bundle.folder).usage(bundle.source)
        return usage_of(bundle, self.batch)
