"""The least runtime that a TFLite file needs, and the versions that the samples were written for."""

from pathlib import Path

from converter.tflite.versions import as_numbers

MODEL_FILE = "model.tflite"
KEY = "min_runtime_version"
SWIFT = "TensorFlowLiteSwift"
ANDROID = "LiteRT for Android (com.google.ai.edge.litert:litert)"
ANDROID_OF_4_BITS = "2.1.0"
"""1.4 does not open a file with weights of 4 bits, and 2.0 for Android has no Interpreter, which the samples call."""
SAMPLES = {
    ANDROID: "1.4.1",
    SWIFT: "2.17",
    "ai-edge-litert, and its libLiteRt for C++": "2.3",
}
"""What the samples were written for."""


def least_runtime(folder: Path) -> dict[str, str]:
    """Return the least version of TensorFlow Lite that runs the file, and what the samples were written for.

    iOS has TensorFlow Lite itself, so that what the file needs is needed there.
    """
    from converter.tflite.file import has_four_bits

    least = min_runtime_version(folder / MODEL_FILE)
    newer = as_numbers(least) > as_numbers(SAMPLES[SWIFT])
    return {MODEL_FILE: least, **written_for(four_bits=has_four_bits(folder / MODEL_FILE))} | (
        {SWIFT: least} if newer else {}
    )


def written_for(*, four_bits: bool) -> dict[str, str]:
    """Return the versions that samples are written for: those that open a file, by whether it has weights of 4 bits."""
    return SAMPLES | ({ANDROID: ANDROID_OF_4_BITS} if four_bits else {})


def inputs_in_order(folder: Path) -> tuple[str, ...]:
    """Return the names of the inputs in the order of the file's graphs, which is not that of its signatures."""
    from converter.tflite.file import shared_flat, text

    model = shared_flat(folder / MODEL_FILE)
    signature = next(s for s in model.signatureDefs if int(s.subgraphIndex) == 0)
    names = {int(e.tensorIndex): text(e.name) for e in signature.inputs}
    return tuple(names[int(number)] for number in model.subgraphs[0].inputs)


def min_runtime_version(path: Path) -> str:
    """Return the least TensorFlow Lite that computes the file, as it says itself."""
    from converter.tflite.file import shared_flat
    from converter.tflite.versions import stated_version

    return stated_version(shared_flat(path))
