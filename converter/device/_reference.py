"""Runs a TFLite file in TensorFlow's own interpreter with reference kernels: a process of its own, started by its path.

Two copies of the runtime do not live in one process, and what TensorFlow writes to the terminal stays here. It reads
`job.json` and `feeds.npz` of the folder that it is given, and writes `made.npz` and `forecast.txt` there.
"""

import importlib
import importlib.util
import json
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

REFERENCE_KERNELS = 2
"""`OpResolverType.BUILTIN_REF`."""


def main(folder: Path) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with np.load(folder / "feeds.npz") as opened:
        feeds = dict(opened)
    try:
        run, analyze = _bare(job["model"])
    except (ImportError, AttributeError, TypeError):
        run, analyze = _whole(job["model"])
    (folder / "forecast.txt").write_text(analyze(), encoding="utf-8")
    made: dict[str, Any] = {}
    for text, signature in job["texts"].items():
        head = f"{text}."
        feed = {k.removeprefix(head): v for k, v in feeds.items() if k.startswith(head)}
        made |= {f"{head}{name}": value for name, value in run(signature, feed).items()}
    np.savez(folder / "made.npz", **made)


def _bare(model: str) -> tuple[Any, Any]:
    """Load the two small extension modules alone: all of TensorFlow would take 4 seconds and 700 MB."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("TensorFlow is not installed")
    root = Path(spec.submodule_search_locations[0])
    for name in ("tensorflow", "tensorflow.lite", "tensorflow.lite.python"):
        module = types.ModuleType(name)
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = module
    try:
        analyzer = importlib.import_module("tensorflow.lite.python._pywrap_analyzer_wrapper")
        wrapper = importlib.import_module("tensorflow.lite.python._pywrap_tensorflow_interpreter_wrapper")
        interpreter = wrapper.CreateWrapperFromFile(model, REFERENCE_KERNELS, [], [], False, False, 1, False)
    except BaseException:
        for name in [n for n in sys.modules if n == "tensorflow" or n.startswith("tensorflow.")]:
            del sys.modules[name]
        raise

    def run(signature: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        table = interpreter.GetSignatureDefs()[signature]
        graph = interpreter.GetSubgraphIndexFromSignature(signature)
        interpreter.AllocateTensors(graph)
        for name, value in feed.items():
            interpreter.SetTensor(table["inputs"][name], value, graph)
        interpreter.Invoke(graph)
        return {name: interpreter.GetTensor(index, graph) for name, index in table["outputs"].items()}

    return run, lambda: str(analyzer.ModelAnalyzer(model, True, True))


def _whole(model: str) -> tuple[Any, Any]:
    """Do the same through the public interface."""
    import contextlib
    import io

    import tensorflow as tf

    interpreter = tf.lite.Interpreter(
        model, num_threads=1, experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_REF
    )

    def run(signature: str, feed: Mapping[str, Any]) -> dict[str, Any]:
        return dict(interpreter.get_signature_runner(signature)(**feed))

    def analyze() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            tf.lite.experimental.Analyzer.analyze(model_path=model, gpu_compatibility=True)
        return said.getvalue()

    return run, analyze


if __name__ == "__main__":
    main(Path(sys.argv[1]))
