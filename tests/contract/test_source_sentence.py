"""Sentence-transformers folders: every vector is that of the library itself, and every prompt reaches the package."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converter.artifact import TorchModel
from converter.errors import UsageError
from converter.examples import Example, pad_batch
from converter.graphs import MODEL
from converter.model_folder.load import load_source
from converter.model_folder.save import save_model
from converter.model_folder.sentence_head import SENTENCE, TOKENS, Pool
from converter.model_folder.sentence_steps import READERS

st = pytest.importorskip("sentence_transformers")
from sentence_transformers.sentence_transformer import modules as M  # noqa: E402

TEXTS = ("the movie was wonderful", "a dull and lifeless story that never finds its way", "Über", "")
WIDTH = 32
Tiny = Callable[..., Path]
Make = Callable[..., Path]


@pytest.fixture
def make(tiny: Tiny, tmp_path: Path) -> Make:
    """Return `make(modules, **options)`: a folder that sentence-transformers itself saved."""

    def folder(modules: Sequence[Any], family: str = "bert", **options: Any) -> Path:
        encoder = Path(shutil.copytree(tiny(family, "feature-extraction", layers=1), tmp_path / "encoder"))
        change(encoder / "tokenizer_config.json", padding_side=options.pop("side", "right"))
        first = M.Transformer(str(encoder), **options.pop("transformer", {}))
        model = st.SentenceTransformer(modules=[first, *modules], device="cpu", **options)
        model.save(str(tmp_path / "model"), create_model_card=False)
        return tmp_path / "model"

    return folder


def change(file: Path, **values: Any) -> None:
    table = json.loads(file.read_text())
    file.write_text(json.dumps(table | values))


def dense(out: int = WIDTH, activation: torch.nn.Module | None = None, width: int = WIDTH, **options: Any) -> Any:
    torch.manual_seed(1)
    return M.Dense(width, out, activation_function=activation or torch.nn.Tanh(), **options)


def layer_norm(width: int) -> Any:
    made = M.LayerNorm(width)
    torch.nn.init.normal_(made.norm.weight, 1, 0.3)
    torch.nn.init.normal_(made.norm.bias, 0, 0.3)
    return made


def ours(model: TorchModel, texts: Sequence[str]) -> np.ndarray:
    """Our graph's vectors: each text alone, and all in one batch, which must agree."""
    encoded = [model.task.encode(model.tokenizer, Example(t), model.max_length) for t in texts]
    with torch.inference_mode():
        run = model.graphs()[MODEL]
        alone = [run(**_feed(pad_batch([e], model.specs[MODEL])))["sentence_embedding"][0].numpy() for e in encoded]
        batch = model.tokenizer(
            [model.task.prompt + t for t in texts],
            padding=True,
            truncation=True,
            max_length=model.max_length,
            return_tensors="pt",
        )
        together = run(**{n: batch[n] for n in model.input_names})["sentence_embedding"].numpy()
    if model.tokenizer.padding_side == "right":
        np.testing.assert_allclose(together, np.stack(alone), atol=2e-5)
    return together


def _feed(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(v) for n, v in batch.items()}


def cosines(folder: Path, *, prompt: str | None = None) -> np.ndarray:
    """Cosine to `SentenceTransformer.encode`; the norms must agree as well."""
    wanted = st.SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS), prompt_name=prompt)
    found = ours(load_source(str(folder), prompt=prompt), TEXTS)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1), rtol=1e-3)
    return (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)


CHAINS: dict[str, Callable[[], list[Any]]] = {
    "dense after normalize": lambda: [M.Pooling(WIDTH), M.Normalize(), dense(16)],
    "dense, normalize, dense, normalize": lambda: [M.Pooling(WIDTH), dense(), M.Normalize(), dense(8), M.Normalize()],
    "residual": lambda: [M.Pooling(WIDTH), dense(use_residual=True, activation=torch.nn.Identity())],
    "projected residual": lambda: [M.Pooling(WIDTH), dense(20, use_residual=True), M.Normalize()],
    "no bias": lambda: [M.Pooling(WIDTH), dense(20, bias=False)],
    "layer norm and dropout": lambda: [M.Pooling(WIDTH), M.Dropout(0.5), layer_norm(WIDTH), M.Normalize()],
    "dense on tokens": lambda: [dense(20, module_input_name="token_embeddings"), M.Pooling(20)],
    "activation with a weight": lambda: [M.Pooling(WIDTH), dense(20, torch.nn.PReLU())],
    "two poolings, the last one wins": lambda: [M.Pooling(WIDTH, "max"), M.Pooling(WIDTH, "cls")],
}


@pytest.mark.parametrize("chain", CHAINS)
def test_modules_are_applied_in_their_listed_order(chain: str, make: Make) -> None:
    assert cosines(make(CHAINS[chain]())).min() >= 0.9999


ACTIVATIONS = ("ELU", "GELU", "Hardswish", "LeakyReLU", "LogSigmoid", "Mish", "ReLU6", "SiLU", "Softplus", "Softmax")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_dense_module_takes_the_activations_of_torch(name: str, tmp_path: Path) -> None:
    vectors = torch.randn(3, WIDTH)
    theirs = dense(20, getattr(torch.nn, name)())
    theirs.save(str(tmp_path))
    mine = READERS["Dense"](json.loads((tmp_path / "config.json").read_text()), tmp_path)
    made = mine({SENTENCE: vectors}, torch.ones(3, 1))[SENTENCE]
    torch.testing.assert_close(made, theirs({SENTENCE: vectors})[SENTENCE])


MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "cls"))


@pytest.mark.parametrize("prompt", [0, 2])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_pooling_is_that_of_the_library_on_either_side_of_padding(mode: Any, side: str, prompt: int) -> None:
    hidden, mask = torch.randn(3, 7, WIDTH), torch.ones(3, 7, dtype=torch.long)
    for row, padded in enumerate((0, 2, 4)):
        mask[row, slice(7 - padded, 7) if side == "right" else slice(0, padded)] = 0
    features = {TOKENS: hidden, "attention_mask": mask, **({"prompt_length": prompt} if prompt else {})}
    wanted = M.Pooling(WIDTH, mode, include_prompt=False)(features)[SENTENCE]
    modes = (mode,) if isinstance(mode, str) else mode
    found = Pool(modes, left_padded=side == "left", prompt_length=prompt)({TOKENS: hidden}, mask)[SENTENCE]
    torch.testing.assert_close(found, wanted)


def test_flags_of_an_old_file_are_joined_in_the_librarys_order(make: Make) -> None:
    folder = make([M.Pooling(WIDTH)])
    flags = {f"pooling_mode_{n}": True for n in ("mean_tokens", "cls_token", "lasttoken", "max_tokens")}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH} | flags))
    assert cosines(folder).min() >= 0.9999


PROMPTS = {"query": "query: ", "passage": "find the best passage for "}


@pytest.mark.parametrize(("included", "mode", "side"), [(True, "mean", "right"), (False, ["cls", "mean"], "left")])
def test_a_prompt_stands_before_every_text(included: bool, mode: Any, side: str, make: Make) -> None:
    modules = [M.Pooling(WIDTH, mode, include_prompt=included)]
    folder = make(modules, prompts=PROMPTS, default_prompt_name="query", side=side)
    for name in (None, "passage", "document"):  # the default, another, an empty one of the library's own
        assert cosines(folder, prompt=name).min() >= 0.9999


def test_a_prompt_that_the_model_has_not_is_a_usage_error(make: Make, tiny: Tiny) -> None:
    folder = make([M.Pooling(WIDTH)], prompts=PROMPTS)
    assert load_source(str(folder)).task.prompt == ""
    with pytest.raises(UsageError, match="no prompt 'qery'") as caught:
        load_source(str(folder), prompt="qery")
    assert "'query'" in caught.value.hint
    with pytest.raises(UsageError, match="no prompt"):
        load_source(str(tiny()), prompt="query")


def test_a_saved_model_keeps_the_chosen_prompt(make: Make, tmp_path: Path) -> None:
    folder = make([M.Pooling(WIDTH), M.Normalize()], prompts=PROMPTS, default_prompt_name="query")
    save_model(load_source(str(folder), prompt="passage"), tmp_path / "saved")
    again = load_source(str(tmp_path / "saved"))
    assert again.task.prompt == PROMPTS["passage"]
    assert cosines(tmp_path / "saved").min() >= 0.9999


def test_embeddings_are_cut_to_the_folders_dimension(make: Make) -> None:
    folder = make([M.Pooling(WIDTH), M.Normalize()], truncate_dim=12)
    assert cosines(folder).min() >= 0.9999
    head = load_source(str(folder)).head
    assert head is not None
    assert not head.normalized  # of what is cut, the length is no longer 1


@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_text_is_lowered_where_the_folder_says_so(family: str, make: Make, tmp_path: Path) -> None:
    folder = make([M.Pooling(WIDTH)], family)
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    model = load_source(str(folder))
    np.testing.assert_allclose(ours(model, ["The MOVIE"]), ours(model, ["the movie"]), atol=1e-6)
    assert cosines(folder).min() >= 0.9999
    save_model(model, tmp_path / "saved")
    assert cosines(tmp_path / "saved").min() >= 0.9999


def test_the_longest_text_is_the_folders(make: Make) -> None:
    folder = make([M.Pooling(WIDTH)])
    for given, wanted in ((9, 9), (60, 60), (1000, 64)):  # beyond the tokenizer's 64, up to the model's positions
        change(folder / "sentence_bert_config.json", max_seq_length=given)
        change(folder / "tokenizer_config.json", model_max_length=32)
        assert load_source(str(folder)).max_length == wanted


PAIRS = (("how many people live there?", "about 4000 people"), ("the movie was wonderful", "terrible sound"))


def reranker(folder: Path, tiny: Tiny, labels: int, activation: str | None) -> Path:
    """A cross-encoder as versions before 6 save it: config.json says so, no modules.json."""
    shutil.copytree(tiny("bert", "text-classification", layers=1, num_labels=labels), folder)
    told = {"version": "5.1.0"} | ({} if activation is None else {"activation_fn": activation})
    change(folder / "config.json", sentence_transformers=told)
    return folder


@pytest.mark.parametrize("saved_anew", [False, True])
@pytest.mark.parametrize(
    ("labels", "activation"),
    [(1, None), (1, "torch.nn.modules.linear.Identity"), (3, "torch.nn.modules.linear.Identity")],
)
def test_a_cross_encoder_gives_the_scores_of_its_library(
    labels: int, activation: str | None, saved_anew: bool, tiny: Tiny, tmp_path: Path
) -> None:
    folder = reranker(tmp_path / "old", tiny, labels, activation)
    wanted = st.CrossEncoder(str(folder), device="cpu").predict([list(p) for p in PAIRS])
    if saved_anew:
        st.CrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "new"))
        folder = tmp_path / "new"
    model = load_source(str(folder))
    assert model.task.name == "text-classification"
    encoded = [model.task.encode(model.tokenizer, Example(*p), model.max_length) for p in PAIRS]
    with torch.inference_mode():
        logits = torch.cat(
            [model.graphs()[MODEL](**_feed(pad_batch([e], model.specs[MODEL])))["logits"] for e in encoded]
        )
    found = (logits.sigmoid() if activation is None else logits).squeeze(-1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    save_model(model, tmp_path / "saved")
    again = st.CrossEncoder(str(tmp_path / "saved"), device="cpu").predict([list(p) for p in PAIRS])
    np.testing.assert_allclose(again, wanted, atol=1e-5)
