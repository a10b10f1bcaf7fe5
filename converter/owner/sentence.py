"""Folders of sentence-transformers: `SentenceTransformer.encode` and `CrossEncoder.predict`."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.examples import Example
from converter.model_folder.locate import sentence_modules
from converter.owner.contract import Outputs, OwnerLibrary, Question, array, is_real, own_tokens
from converter.owner.modules import wrong_readings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

SENTENCE = "sentence_embedding"


class _Sentence(OwnerLibrary):
    """What both classes share: prompts, and how text becomes what the model is fed."""

    model: Any

    def _open(self, cls: type[Any], folder: Path, prompt: str | None) -> None:
        import sentence_transformers
        import torch

        self.name = f"sentence-transformers {sentence_transformers.__version__}"
        self.folder = folder
        self.model = cls(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        ).eval()
        self.encoder, self.tokenizer, self.prompt_name = self.model[0].auto_model, self.model.tokenizer, prompt
        chosen = prompt if prompt is not None else self.model.default_prompt_name
        self.prompt = (self.model.prompts.get(chosen) or "") if chosen is not None else ""

    def cut_at(self, tokens: int) -> None:
        self.model.max_seq_length = min(self.model.max_seq_length or tokens, tokens)

    def _features(self, questions: Sequence[Question], prompt: str | None = None) -> "dict[str, torch.Tensor]":
        texts = [self._input(q.example) for q in questions]
        made: dict[str, torch.Tensor] = self.model.preprocess(texts, prompt=self.prompt if prompt is None else prompt)
        return made

    def _input(self, example: Example) -> Any:
        return example.text

    def fed(self, question: Question) -> "dict[str, NDArray[np.int64]]":
        return own_tokens(self._features([question]), 0)

    def fed_without_prompt(self, question: Question) -> "dict[str, NDArray[np.int64]]":
        return own_tokens(self._features([question], prompt=""), 0)


class SentenceLibrary(_Sentence):
    """An embedding model. Token vectors are told in a batch alone: the embedding is what a user gets."""

    call = "SentenceTransformer.encode"

    def __init__(self, folder: Path, prompt: str | None) -> None:
        from sentence_transformers import SentenceTransformer

        self._open(SentenceTransformer, folder, prompt)
        after = list(self.model.children())[1:]
        self._changes_tokens = any(getattr(m, "module_output_name", SENTENCE) != SENTENCE for m in after)

    def alone(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        for question in questions:
            yield {SENTENCE: self._encode([question.example.text], SENTENCE)[0]}

    def together(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        made = self._encode([q.example.text for q in questions], None)
        hidden = self._tokens(questions) if self._changes_tokens else None
        for row, found in enumerate(made):
            real = array(found["attention_mask"]).astype(bool)
            tokens = array(found["token_embeddings"])[real] if hidden is None else hidden[row]
            yield {SENTENCE: array(found[SENTENCE]), "last_hidden_state": tokens}

    def _encode(self, texts: list[str], value: str | None) -> Any:
        return self.model.encode(
            texts, batch_size=len(texts), prompt_name=self.prompt_name, output_value=value, show_progress_bar=False
        )

    def _tokens(self, questions: Sequence[Question]) -> "list[NDArray[np.float32]]":
        """Return the encoder's vectors of the tokens of each text, before any module after it."""
        import torch

        features = self._features(questions)
        real = [is_real(features, row) for row in range(len(questions))]
        with torch.inference_mode():
            hidden = array(self.model[0](features)["token_embeddings"])
        return [hidden[row][real[row]] for row in range(len(questions))]

    def variants(self, question: Question) -> Iterator[tuple[str, Outputs]]:
        import torch

        listed = [m.path or m.kind for m in sentence_modules(self.folder)]
        features = self._features([question])
        with torch.inference_mode():
            encoded = self.model[0](features)
            for said, modules in wrong_readings(list(self.model.children())[1:], listed[1:]):
                found = _applied(modules, encoded)
                if found is not None:
                    yield said, {SENTENCE: self._cut(found)}
            if self.model.truncate_dim is not None:
                found = _applied(list(self.model.children())[1:], encoded)
                if found is not None:
                    said = f"config_sentence_transformers.json: truncate_dim {self.model.truncate_dim} is not applied"
                    yield said, {SENTENCE: found}

    def _cut(self, vector: "NDArray[np.float32]") -> "NDArray[np.float32]":
        return vector if self.model.truncate_dim is None else vector[: self.model.truncate_dim]


class TokenLibrary(_Sentence):
    """A folder of sentence-transformers without pooling: it answers with a vector a token."""

    call = 'SentenceTransformer.encode(output_value="token_embeddings")'

    def __init__(self, folder: Path, prompt: str | None) -> None:
        from sentence_transformers import SentenceTransformer

        self._open(SentenceTransformer, folder, prompt)

    def alone(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        for question in questions:
            yield from self.together([question])

    def together(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        made = self.model.encode(
            [q.example.text for q in questions],
            batch_size=len(questions),
            prompt_name=self.prompt_name,
            output_value=None,
            show_progress_bar=False,
        )
        for found in made:
            real = array(found["attention_mask"]).astype(bool)
            yield {"last_hidden_state": array(found["token_embeddings"])[real]}


class CrossEncoderLibrary(_Sentence):
    """A model that scores pairs; the scores are taken before the activation, which users' code applies itself."""

    call = "CrossEncoder.predict"

    def __init__(self, folder: Path, names: tuple[str, ...], prompt: str | None) -> None:
        from sentence_transformers import CrossEncoder

        self._open(CrossEncoder, folder, prompt)
        self._names = names

    def takes(self, example: Example) -> bool:
        return example.pair is not None

    def _input(self, example: Example) -> Any:
        return (example.text, example.pair or "")

    def alone(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        for question in questions:
            yield from self._scores([question])

    def together(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        yield from self._scores(questions)

    def _scores(self, questions: Sequence[Question]) -> Iterator[Outputs]:
        import torch

        found = self.model.predict(
            [self._input(q.example) for q in questions],
            batch_size=len(questions),
            prompt_name=self.prompt_name,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        for row in found.reshape(len(questions), -1):
            yield {"logits": by_name(row, self.labels, self._names)}


def by_name(logits: "NDArray[np.float32]", labels: Sequence[str], wanted: Sequence[str]) -> "NDArray[np.float32]":
    """Return the logits in the order in which our reading names the classes; as they are where it names others."""
    places = {name: i for i, name in enumerate(labels)}
    if len(places) != len(labels) or set(places) != set(wanted) or len(labels) != logits.shape[-1]:
        return logits
    return logits[..., [places[name] for name in wanted]]


def _applied(modules: Sequence[Any], encoded: Mapping[str, Any]) -> "NDArray[np.float32] | None":
    """Return the embedding that these modules make; None where they do not go together."""
    features = {n: (v.clone() if hasattr(v, "clone") else v) for n, v in encoded.items()}
    try:
        for module in modules:
            features = module(features)
        return array(features[SENTENCE][0])
    except (RuntimeError, KeyError, ValueError, IndexError, AttributeError, TypeError):
        return None
