"""`tflite`: one file for LiteRT on phones, int32 ids in, one signature per length over shared weights."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from converter.artifact import Artifact, Bundle, TorchModel
from converter.binding import bind, option
from converter.device.beside import Beside
from converter.device.gpu_forecast import forecast
from converter.device.second_opinion import second_opinion
from converter.errors import RecipeError, RuntimeMissing, StageFailed
from converter.examples import PadIds
from converter.layout import write_model_files
from converter.lowering.any_length import write_any_length
from converter.lowering.batch import add_batches
from converter.lowering.flat import in_blocks, signature_names
from converter.lowering.lower import LowerTflite
from converter.lowering.mediapipe import MEDIAPIPE_FILE, Inexpressible, write_mediapipe
from converter.lowering.mediapipe_check import check_variant, why_left_out
from converter.lowering.model import FINE_LENGTHS, SHORTEST, TfliteModel, lengths_of, mobile_outputs, signature_lengths
from converter.lowering.shared import has_shared_graph, write_shared
from converter.lowering.stamp import NotAlike
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.quantize.litert_fp16 import LitertFp16
from converter.quantize.litert_int4 import LitertInt4
from converter.quantize.litert_mixed import LitertMixed
from converter.quantize.litert_static import LitertStaticInt8
from converter.quantize.litert_weights import LitertWeights
from converter.stage import Context, Stage
from converter.target import Runner, Target
from converter.validate.limits import Limits

if TYPE_CHECKING:
    from converter.golden import Golden
    from converter.validate.checks import Check, Evaluation
    from converter.validate.reference import Reference

MODEL_FILE = "model.tflite"
QUANTIZERS: Mapping[str, type[Stage[TfliteModel, TfliteModel]]] = {
    "dynamic": LitertDynamicInt8,
    "static": LitertStaticInt8,
    "weights": LitertWeights,
    "mixed": LitertMixed,
    "int4": LitertInt4,
    "fp16": LitertFp16,
}
LIMITS = {
    # float32: 3e-6 was measured on MiniLM; deeper models sum more.
    "none": Limits(max_error=1e-4, agreement=1.0, stability=1.0),
    "fp16": Limits(max_error=0.02, agreement=0.995, stability=1.0),
    "dynamic": Limits(agreement=0.985, stability=0.99, max_drop=0.01),
    "weights": Limits(agreement=0.985, stability=1.0, max_drop=0.01),
    "mixed": Limits(agreement=0.97, stability=0.99, max_drop=0.02),
    "int4": Limits(agreement=0.96, stability=0.99, max_drop=0.03),
    "static": Limits(agreement=0.97, stability=0.99, max_drop=0.02),
}

SEPARATE = frozenset({"float32", "fp16", "static"})
"""Precisions that GPUs and NPUs take: with `graphs=auto` their lengths have a graph each."""


@dataclass(frozen=True)
class Tflite(Target):
    """TFLite file for LiteRT (Android, iOS, desktop)."""

    seq_len: tuple[int, ...] = option(
        (),
        "lengths in tokens, one signature each; none: 8 to 128 in 21 steps over one graph, else 16, 32, 64, 128",
        low=1,
    )
    graphs: Literal["auto", "shared", "separate"] = option(
        "auto",
        "shared: one graph behind all lengths, packed in memory once, for CPUs; separate: a graph a length, which GPU "
        "and NPU delegates take, too; auto: separate for none, fp16 and static",
    )
    any_length: bool = option(
        False, "one signature that takes any length up to the longest: least memory, no padding; for CPUs"
    )
    batch: int = option(1, "texts a call: above 1, a second signature per length, serving_16_batch_8", low=1, high=64)
    mediapipe: bool = option(True, "a second file that MediaPipe Tasks opens, where it has a form for the model")

    name = "tflite"
    summary = "TFLite for LiteRT on phones"
    extra = "mobile"
    precisions = ("dynamic", "static", "weights", "mixed", "int4", "fp16", "none")
    auto = ("dynamic", "static", "fp16")
    input_dtype = "int32"

    def check_runtime(self) -> None:
        for module in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
            if importlib.util.find_spec(module) is None:
                raise RuntimeMissing(
                    f"the tflite target needs {module.replace('_', '-')}, which is not installed",
                    hint="pip install 'plm-export[mobile]'",
                )

    def stages(self, precision: str, options: Mapping[str, Any], model: TorchModel) -> Sequence[Stage[Any, Any]]:
        lengths = signature_lengths(self.seq_len, model.max_length)
        if self.batch > 1 and (self.any_length or self.graphs == "shared"):
            raise RecipeError(
                "a graph that takes any length takes one text a call",
                where="tflite.batch",
                hint=f"leave out {'any_length' if self.any_length else 'graphs=shared'}, or batch",
            )
        if self.any_length and self.graphs != "auto":
            raise RecipeError(
                "a file that takes any length has one graph and one signature",
                where="tflite.graphs",
                hint="leave out any_length, or graphs",
            )
        if self.any_length:
            # Two are the pattern that `emit` makes one of.
            lengths = (max(SHORTEST, lengths[-1] // 2), lengths[-1])
        lower = LowerTflite(lengths)
        where = "quantize.tflite"
        if precision == "none":
            if options:
                raise RecipeError(
                    f"precision none has no option {next(iter(options))!r}",
                    where=where,
                    hint="lengths are an option of the target: --seq-len 16,32",
                )
            return (lower,)
        return (lower, bind(QUANTIZERS[precision], options, where))

    def emit(self, given: Artifact, source: TorchModel, folder: Path, ctx: Context) -> Bundle:
        assert isinstance(given, TfliteModel)
        path = folder / MODEL_FILE
        if self.any_length:
            write_any_length(given.path, path, given.lengths[-1])
        elif not self._shares(given, source, path):
            # A second name where the disk allows: the float file may serve another precision of this run.
            try:
                os.link(given.path, path)
            except OSError:
                path.write_bytes(given.path.read_bytes())
        if self.batch > 1:
            add_batches(path, self.batch)
        if self.mediapipe:
            with suppress(Inexpressible):
                write_mediapipe(given.path, source, folder / MEDIAPIPE_FILE)
        write_model_files(source, folder, {}, max_length=given.lengths[-1])
        Beside(folder).write_tokenizer(source)
        return Bundle(folder, MODEL_FILE, source)

    def _shares(self, given: TfliteModel, source: TorchModel, path: Path) -> bool:
        """Write the file with one graph behind all lengths, where that is wanted and this architecture allows it."""
        unwanted = self.graphs == "separate" or self.batch > 1 or given.precision in SEPARATE
        if len(given.lengths) < 2 or (self.graphs != "shared" and unwanted):
            return False
        try:
            write_shared(given.path, path, signature_lengths(self.seq_len, source.max_length, FINE_LENGTHS))
        except NotAlike as error:
            if self.graphs == "shared":
                raise StageFailed(
                    f"one graph does not take all lengths of this model ({error})",
                    where="tflite.graphs",
                    hint="leave graphs=shared out: a graph a length always works",
                ) from None
            return False
        return True

    def open(self, folder: Path, pad: PadIds, threads: int = 1) -> Runner:
        from converter.lowering.runner import TfliteRunner

        return TfliteRunner(folder / MODEL_FILE, pad, threads)

    def own_checks(
        self, bundle: Bundle, source: TorchModel, reference: "Reference", runner: Runner, ctx: Context
    ) -> tuple[list["Check"], dict[str, Any]]:
        longest = min(source.max_length, runner.max_length or source.max_length)
        model = bundle.folder / bundle.model_file
        tokenizer, facts = Beside(bundle.folder).check(source, reference, longest)
        checks, found = check_variant(bundle.folder, source, reference, runner, ctx)
        # Weights in blocks run in XNNPACK alone: other kernels make zeros of them.
        if runner.lengths and not in_blocks(model):
            opinion, heard = second_opinion(model, source, reference, runner, ctx.work)
            checks, found = [opinion, *checks], {**heard, **found}
        graphs = "one behind all lengths" if has_shared_graph(model) else "one a signature"
        return [tokenizer, *checks], {"graphs": graphs, **facts, **found, **forecast(model).facts()}

    def accompany(
        self, bundle: Bundle, golden: "Golden", runner: Runner, evaluation: "Evaluation", tolerance: float
    ) -> dict[str, Any]:
        return Beside(bundle.folder).complete(bundle.source, golden, runner, evaluation.facts, tolerance)

    def limits(self, precision: str) -> Limits:
        return LIMITS[precision]

    def usage(self, bundle: Bundle) -> str:
        path = bundle.folder / MODEL_FILE
        lengths, up_to = lengths_of(signature_names(path))
        output = mobile_outputs(bundle.source)[0]
        mediapipe = MEDIAPIPE_NONE.format(why=why_left_out(bundle.source)) if self.mediapipe else ""
        if (bundle.folder / MEDIAPIPE_FILE).is_file():
            task, call = MEDIAPIPE_EMBEDS if bundle.source.head is not None else MEDIAPIPE_CLASSIFIES
            mediapipe = MEDIAPIPE_USAGE.format(task=task, call=call, longest=up_to or lengths[-1])
        if up_to is not None:
            return USAGE_ANY.format(longest=up_to, output=output) + mediapipe
        batch = USAGE_BATCH.format(batch=self.batch, first=lengths[0]) if self.batch > 1 else ""
        named = {"lengths": ", ".join(map(str, lengths)), "first": lengths[0], "longest": lengths[-1]}
        graphs = USAGE_SHARED if has_shared_graph(path) else ""
        return USAGE.format(**named, output=output) + graphs + batch + mediapipe


MEDIAPIPE_NONE = """
There is no file for MediaPipe Tasks: {why}.
"""
MEDIAPIPE_CLASSIFIES = "TextClassifier", 'classify("Your text").classifications[0].categories'
MEDIAPIPE_EMBEDS = "TextEmbedder", 'embed("Your text").embeddings[0].embedding'
MEDIAPIPE_USAGE = """
`model-mediapipe.tflite` is the same model for MediaPipe Tasks (`{task}`): text in, answer out, with the tokenizer
inside. MediaPipe splits some text otherwise (accents, non-ASCII capitals, Hangul, control characters): normalize text
with the tokenizer's own normalizer first, `tokenizer.backend_tokenizer.normalizer.normalize_str(text)`. It feeds every
token that there is: beyond {longest} the model has no positions left and still answers, otherwise than the package.
Shorten such text before.

```python
from mediapipe.tasks.python import BaseOptions, text

options = text.{task}Options(base_options=BaseOptions(model_asset_path="model-mediapipe.tflite"))
print(text.{task}.create_from_options(options).{call})
```
"""
USAGE_ANY = """\
`model.tflite` has one signature, `serving_up_to_{longest}`, that takes 1 to {longest} tokens: int32 inputs
`[1, length]`, without padding. Beyond {longest}, cut the text.

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
run = Interpreter("model.tflite").get_signature_runner("serving_up_to_{longest}")

ids = tokenizer("Your text", truncation=True, max_length={longest})
print(run(**{{name: np.array([row], dtype=np.int32) for name, row in ids.items()}})["{output}"])
```
"""
USAGE_BATCH = """
For many texts, `serving_{first}_batch_{batch}` and its like take {batch} texts a call, `[{batch}, length]`: fill what
is missing with padding. Every signature that is used has its own packed copy of the weights in memory.
"""
USAGE_SHARED = """
One graph, of any length, stands behind all signatures (`WHILE`): its weights are in memory once, whichever lengths are
used. GPU and NPU delegates want graphs of fixed shapes: `--target tflite:graphs=separate` makes them.
"""
USAGE = """\
`model.tflite` has one signature per length ({lengths} tokens), `serving_{first}` to `serving_{longest}`, over the same
weights. Inputs are int32 `[1, length]`. Take the shortest signature that the text fits, and pad to its length: ids with
the tokenizer's padding id, the mask with 0.

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
interpreter = Interpreter("model.tflite")
lengths = sorted({{int(name.split("_")[1]) for name in interpreter.get_signature_list()}})

ids = tokenizer("Your text", truncation=True, max_length=lengths[-1])
length = next(n for n in lengths if n >= len(ids["input_ids"]))
padded = tokenizer.pad(ids, padding="max_length", max_length=length)
feed = {{name: np.array([row], dtype=np.int32) for name, row in padded.items()}}
print(interpreter.get_signature_runner(f"serving_{{length}}")(**feed)["{output}"])
```

Android (Kotlin, `com.google.ai.edge.litert`) and iOS (Swift, `TensorFlowLiteSwift`) call it the same way:
`interpreter.runSignature(inputs, outputs, "serving_{longest}")` with inputs by the names above. Called without a
signature, the file runs `serving_{longest}`. On a phone, the Hugging Face tokenizers library reads `tokenizer.json`.
"""
