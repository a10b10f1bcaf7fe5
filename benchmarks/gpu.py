"""What `ort-gpu` packages do on an NVIDIA GPU, beside PyTorch: answers, milliseconds, and distillation in bf16.

    python benchmarks/gpu.py [--encoder MODEL] [--translator MODEL] [--gpt MODEL] [--seconds 440]

An encoder, a translator and a GPT are exported with `--require-device`, so that the gate and the device check run on
CUDA. Each package is then timed at batch 1, 8 and 64 and several lengths beside its source in PyTorch float32, fp16
and fp16 through `torch.compile`; a distillation runs in float32 and in bf16. What the time does not allow is
`NOT_RUN`; so is everything where there is no GPU, and why. Results, piece by piece:
`benchmarks/results/gpu.json`.

Samples are trained at first use, for some minutes, before the time begins: `--prepare` does that alone, without a GPU.

`--dry-run` goes through everything on the CPU with models of a few thousand weights, and keeps nothing.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _measure import commit, machine, plm_export, save

SECONDS = 440.0
BATCHES = (1, 8, 64)
LENGTHS = {"encoder": (16, 64, 128), "translator": (32,), "gpt": (32, 128)}
TOKENS = 32
"""That a writer writes after its prompt."""
REPEATS, WARM = 20, 3
MODELS = {"encoder": "sample:default", "translator": "sample:translator", "gpt": "sample:storyteller"}
MODES = ("ort-gpu fp16", "torch float32", "torch fp16", "torch fp16 compiled")
STEPS = 60
"""Of distillation."""
NEEDED = {"export": 60.0, "timing": 15.0, "compile": 60.0, "distillation": 40.0}
"""Seconds that have to be left for a piece to begin."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for kind, model in MODELS.items():
        parser.add_argument(f"--{kind}", default=model)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--prepare", action="store_true")
    given = parser.parse_args()
    if given.prepare:
        prepare({kind: getattr(given, kind) for kind in MODELS})
        return 0
    missing = None if given.dry_run else no_gpu()
    table: dict[str, Any] = {"machine": machine(), "commit": commit()}
    if missing is not None:
        save("gpu", table | {"status": "NOT_RUN", "reason": missing})
        print(f"NOT_RUN: {missing}")
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        models = tiny_models(Path(name)) if given.dry_run else {kind: getattr(given, kind) for kind in MODELS}
        prepare(models)
        run = Run(Path(name), time.monotonic() + given.seconds, dry=given.dry_run)
        table |= {"status": "RUN", "device": run.device_name(), "models": models}
        pieces = {kind: partial(run.model, kind, model) for kind, model in models.items()}
        for piece, make in (pieces | {"distillation": partial(run.distillation, models["encoder"])}).items():
            table[piece] = tried(make)
            if not given.dry_run:  # what comes next may be killed
                save("gpu", table)
    if given.dry_run:
        print(json.dumps(table, indent=2))
    return 0


def prepare(models: Mapping[str, str]) -> None:
    """Train the samples among the models that were never used here."""
    from converter.model_folder.samples import resolve_model
    from converter.stage import SILENT

    for model in models.values():
        resolve_model(model, SILENT)


def tried(make: Callable[[], Any]) -> Any:
    """Return what a piece gives, or how it failed: the others run."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - that it fails is a result too
        return {"status": "FAIL", "reason": f"{type(error).__name__}: {str(error)[:200]}"}


def no_gpu() -> str | None:
    """Return why nothing can be measured here; None where it can."""
    import onnxruntime
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees no CUDA device"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return f"ONNX Runtime {onnxruntime.__version__} has no CUDA provider: pip install 'plm-export[gpu]'"
    return None


def tiny_models(work: Path) -> dict[str, str]:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.tiny import make_tiny
    from tests.tiny_text import save_causal, save_marian

    made = {"encoder": make_tiny(work / "e"), "translator": save_marian(work / "t"), "gpt": save_causal(work / "g")}
    return {kind: str(folder) for kind, folder in made.items()}


class Run:
    """One pass over everything, until the time is up."""

    def __init__(self, work: Path, end: float, *, dry: bool) -> None:
        self.work, self.end, self.dry = work, end, dry
        self.device = "cpu" if dry else "cuda"

    def device_name(self) -> str:
        import torch

        return "CPU (dry run)" if self.dry else torch.cuda.get_device_name()

    def late(self, piece: str) -> dict[str, Any] | None:
        """Return the row of a piece that the time does not allow any more."""
        left = self.end - time.monotonic()
        return {"status": "NOT_RUN", "reason": f"{left:.0f} s are left"} if left < NEEDED[piece] else None

    def limit(self) -> tuple[str, str]:
        """Return the flag that ends a run when the time is up."""
        return "--timeout", f"{max(1, round(self.end - time.monotonic()))}s"

    def model(self, kind: str, model: str) -> dict[str, Any]:
        """Export one model and time its package beside its source."""
        found = self.late("export")
        if found is not None:
            return found
        out = self.work / f"{kind}-out"
        device = () if self.dry else ("--require-device",)
        run = plm_export(model, "-t", "ort-gpu", "--quantize", "fp16", *device, "-o", str(out), "-q", *self.limit())
        if not (out / "report.json").is_file():
            return {"status": "FAIL", "exit_code": run.exit_code}
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        target = report["targets"][0]
        checks = (target["evaluation"] or {}).get("checks", [])
        table = {
            "status": "RUN",
            "exit_code": run.exit_code,
            "export_seconds": run.seconds,
            "answers": {c["name"]: {k: c.get(k) for k in ("status", "value", "limit", "detail")} for c in checks},
        }
        if target["folder"] is None:  # no device, say: nothing was made
            return table | {"status": "FAIL", "reason": target["error"]}
        return table | {"milliseconds": self.timed(kind, model, out / target["folder"])}

    def timed(self, kind: str, model: str, package: Path) -> list[dict[str, Any]]:
        """Return the milliseconds a text of each mode, batch and length; of writers, a prompt and `TOKENS` tokens."""
        from converter.model_folder.load import load_source
        from converter.model_folder.samples import resolve_model
        from converter.onnx.package import find_models
        from converter.stage import SILENT

        source = load_source(resolve_model(model, SILENT))
        providers = ("CPUExecutionProvider",) if self.dry else ("CUDAExecutionProvider", "CPUExecutionProvider")
        rows = []
        for mode in MODES:
            late = self.late("compile" if "compiled" in mode else "timing")
            if late is not None or (self.dry and "compiled" in mode):
                rows.append({"mode": mode, **(late or {"status": "NOT_RUN", "reason": "dry run"})})
                continue
            if mode == MODES[0]:
                open_call = partial(package_call, find_models(package, source.specs), providers)
            else:
                open_call = partial(torch_call, source, self.device, half="fp16" in mode, compiled="compiled" in mode)
            call = tried(open_call)
            if isinstance(call, dict):
                rows.append({"mode": mode, **call})
            else:
                rows += list(self.rows(kind, mode, source.specs, call, source.max_length))
        return rows

    def rows(
        self, kind: str, mode: str, specs: Mapping[str, Any], call: Callable[..., Any], longest: int
    ) -> Iterator[dict[str, Any]]:
        for length in LENGTHS[kind]:
            for batch in BATCHES:
                row: dict[str, Any] = {"mode": mode, "batch": batch, "length": length}
                late = self.late("timing")
                if late is not None or length + (TOKENS if kind == "gpt" else 0) > longest:
                    yield row | (late or {"status": "NOT_RUN", "reason": f"the model takes {longest} tokens"})
                    continue
                try:
                    yield row | per_text(specs, call, batch, length)
                except Exception as error:  # noqa: BLE001 - one shape that fails is a result too
                    yield row | {"status": "FAIL", "reason": f"{type(error).__name__}: {str(error)[:200]}"}

    def distillation(self, model: str) -> dict[str, Any]:
        """Train the same student in float32 and in bf16; returns seconds and losses."""
        made: dict[str, Any] = {}
        for name, precision in (("float32", "no"), ("bf16", "bf16")):
            late = self.late("distillation")
            if late is not None:
                made[name] = late
                continue
            out = self.work / f"distilled-{name}"
            steps = f"soft:steps={4 if self.dry else STEPS},cache_mb=0"
            flags = ("--prune", "structured:heads=0.25,ffn=0.25,steps=1", "--distill", steps, "--limit", "agreement=0")
            with environment("ACCELERATE_MIXED_PRECISION", precision):
                run = plm_export(model, *flags, "-t", "ort-gpu", "-o", str(out), "-q", *self.limit())
            if not (out / "report.json").is_file():
                made[name] = {"status": "FAIL", "exit_code": run.exit_code}
                continue
            records = json.loads((out / "report.json").read_text(encoding="utf-8"))["compress_records"]
            if not records:
                made[name] = {"status": "FAIL", "exit_code": run.exit_code}
                continue
            facts = records[-1]["facts"]
            kept = ("steps", "seconds_training", "first_loss", "last_loss", "device")
            made[name] = {"status": "RUN", **{k: facts[k] for k in kept}}
        return made


def package_call(files: Mapping[str, Path], providers: Sequence[str]) -> Callable[..., Any]:
    """Return the package as it is called; ONNX Runtime goes on without a provider that does not start."""
    from converter.onnx.runner import OnnxRunner

    runner = OnnxRunner(files, providers=providers)
    if providers[0] not in runner.runtime:
        raise RuntimeError(f"{providers[0]} did not start; {runner.runtime} ran instead")
    return runner.run


def torch_call(source: Any, device: str, *, half: bool, compiled: bool) -> Callable[..., Any]:
    """Return the source in PyTorch as something that is called as a package is: numpy in, numpy out."""
    import copy

    import torch

    dtype = torch.float16 if half and device != "cpu" else torch.float32
    graphs = {name: copy.deepcopy(g).eval().to(device, dtype) for name, g in source.graphs().items()}
    if compiled:
        graphs = {name: torch.compile(g, dynamic=True) for name, g in graphs.items()}  # type: ignore[misc]

    def call(graph: str, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {n: torch.from_numpy(np.ascontiguousarray(v)).to(device) for n, v in feed.items()}
        given = {n: v.to(dtype) if v.is_floating_point() else v for n, v in given.items()}
        with torch.inference_mode():
            made = graphs[graph](given) if source.cache is not None else graphs[graph](**given)
        return {n: v.float().cpu().numpy() for n, v in made.items()}

    return call


def per_text(specs: Mapping[str, Any], call: Callable[..., Any], batch: int, length: int) -> dict[str, Any]:
    """Return milliseconds a text at the median of some repeats."""
    from converter.generate.timed import TimedText
    from converter.graphs import BATCH, MODEL, SEQUENCE
    from converter.timing.writing import writes

    written = writes(specs)
    feed = None if written else specs[MODEL].dummy({BATCH: batch, SEQUENCE: length})
    taken = []
    for i in range(WARM + REPEATS):
        began = time.perf_counter()
        if written:
            text = TimedText(call, specs, batch, length)
            for _ in range(TOKENS):
                text.step()
        else:
            call(MODEL, feed)
        taken.append(1000 * (time.perf_counter() - began) / batch)
        if written and i >= WARM + 2:
            break
    low, middle, high = np.percentile(taken[WARM:], (10, 50, 90))
    return {"status": "RUN", "ms_per_text": round(middle, 4), "p10": round(low, 4), "p90": round(high, 4)}


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


if __name__ == "__main__":
    raise SystemExit(main())
