"""`model.litertlm`: the file of a causal model with its tokenizer, as LiteRT-LM opens it on phones and computers."""

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from converter.artifact import TorchModel
from converter.bounds.files import sha256_file
from converter.tflite.quiet import quiet

LITERTLM_FILE = "model.litertlm"
AUTHOR = "plm-export"
NO_DATE = "1970-01-01T00:00:00+00:00"
KNOWN_TYPES = {"qwen3": "qwen3", "qwen2": "qwen2p5", "gemma3_text": "gemma3"}
"""Model types whose chats LiteRT-LM reads in its own way; the rest are generic."""


def why_not_litertlm(source: TorchModel) -> str:
    """Return why LiteRT-LM cannot run a model; empty where it can."""
    if source.task.kind != "decoder":
        return "LiteRT-LM runs causal models alone"
    task: Any = source.task
    if not task.settings.eos_ids:
        return "the model has no token that ends a text, which LiteRT-LM demands"
    try:
        import litert_lm_builder  # noqa: F401 - only whether it is there
    except ImportError:
        return "litert-lm-builder is not installed"
    return ""


def write_litertlm(model: Path, tokenizer: Path, source: TorchModel, cache: int, path: Path) -> None:
    """Write the bundle of a TFLite file and a `tokenizer.json`, of a model that `why_not_litertlm` does not refuse."""
    from litert_lm_builder import litertlm_builder

    with _same_bytes(litertlm_builder, model), quiet(), TemporaryDirectory(dir=path.parent) as work:
        described = Path(work) / "metadata.pb"
        described.write_bytes(_metadata(source, cache))
        builder = litertlm_builder.LitertLmFileBuilder()
        author = litertlm_builder.Metadata(key="Authors", value=AUTHOR, dtype=litertlm_builder.DType.STRING)
        builder.add_system_metadata(author)
        builder.add_tflite_model(str(model), litertlm_builder.TfLiteModelType.PREFILL_DECODE)
        builder.add_hf_tokenizer(str(tokenizer))
        builder.add_llm_metadata(str(described))
        with path.open("wb") as file:
            builder.build(file)


@contextmanager
def _same_bytes(builder: Any, model: Path) -> Iterator[None]:
    """Name a bundle after its model, and give it no date: the same model must give the same bytes."""
    before = builder.populate_system_metadata
    name = uuid5(NAMESPACE_URL, sha256_file(model))

    def named(given: list[Any]) -> list[Any]:
        facts = {"uuid": str(name), "creation_timestamp": NO_DATE}
        return [*given, *(builder.Metadata(key=k, value=v, dtype=builder.DType.STRING) for k, v in facts.items())]

    builder.populate_system_metadata = named
    try:
        yield
    finally:
        builder.populate_system_metadata = before


def holds_model(bundle: Path, model: Path) -> bool:
    """Tell whether a bundle has this very TFLite file in it."""
    wanted = model.read_bytes()
    with bundle.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(wanted) >= 0


def _metadata(source: TorchModel, cache: int) -> bytes:
    """Return what the runtime must know: which token begins and ends a text, how long it may be, what a chat is."""
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    made: Any = llm_metadata_pb2.LlmMetadata()
    task: Any = source.task
    first = first_token(source.tokenizer)
    if first is not None:
        made.start_token.token_ids.ids.append(first)
    for token in task.settings.eos_ids:
        made.stop_tokens.add().token_ids.ids.append(int(token))
    made.max_num_tokens = cache
    kind = "generic_model"
    template = getattr(source.tokenizer, "chat_template", None)
    if isinstance(template, str):
        made.jinja_prompt_template = template
        kind = KNOWN_TYPES.get(str(getattr(source.config, "model_type", "")), "generic_model")
    getattr(made.llm_model_type, kind).SetInParent()
    return bytes(made.SerializeToString(deterministic=True))


def first_token(tokenizer: Any) -> int | None:
    """Return the token that the tokenizer puts before every text; None where it puts none."""
    begin = tokenizer.bos_token_id
    if begin is None:
        return None
    ids = list(tokenizer("a", verbose=False)["input_ids"])
    return int(begin) if ids[:1] == [begin] else None
