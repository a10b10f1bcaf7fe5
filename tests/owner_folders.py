"""Folders as owners have them: modules × pooling × prompts × padding side × tokenizers × task heads, all tiny.

`FOLDERS` maps a name to what makes the folder. Each is saved by sentence-transformers' or transformers' own classes.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.owner import change, drawn, sentence_folder, with_adapter
from tests.tiny import FAMILIES, HIDDEN, TASKS, make_tiny

Maker = Callable[[Path], Path]
"""Makes a folder at (or under) a path, and returns it."""
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def pooling(mode: Any = "mean", include_prompt: bool = True) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(HIDDEN, mode, include_prompt=include_prompt)


def dense(out: int = HIDDEN, width: int = HIDDEN, activation: Any = None, **options: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    return drawn(Dense(width, out, activation_function=activation or torch.nn.Tanh(), **options))


def module(name: str, *given: Any) -> Any:
    from sentence_transformers.sentence_transformer import modules

    return drawn(getattr(modules, name)(*given))


def sentence(
    modules: Callable[[], Sequence[Any]],
    family: str = "bert",
    side: str | None = None,
    transformer: dict[str, Any] | None = None,
    **options: Any,
) -> Maker:
    """Return what makes a folder of sentence-transformers; `side`: of the padding, as the tokenizer states it."""

    def make(path: Path) -> Path:
        encoder = make_tiny(path / "encoder", family, "feature-extraction", layers=2)
        if side:
            change(encoder / "tokenizer_config.json", padding_side=side)
        given = {"transformer": transformer} if transformer else {}
        return sentence_folder(path / "model", encoder, list(modules()), **given, **options)

    return make


def head(family: str, task: str, side: str | None = None, **options: Any) -> Maker:
    def make(path: Path) -> Path:
        folder = make_tiny(path, family, task, layers=2, **options)
        if side:
            change(folder / "tokenizer_config.json", padding_side=side)
        return folder

    return make


def cross_encoder(family: str = "bert", num_labels: int = 1, **options: Any) -> Maker:
    def make(path: Path) -> Path:
        from sentence_transformers import CrossEncoder

        base = make_tiny(path / "base", family, "text-classification", num_labels=num_labels, layers=2)
        CrossEncoder(str(base), device="cpu", **options).save_pretrained(str(path / "model"))
        return path / "model"

    return make


def changed(maker: Maker, change_it: Callable[[Path], None]) -> Maker:
    def make(path: Path) -> Path:
        folder = maker(path)
        change_it(folder)
        return folder

    return make


def _flags(*modes: str) -> Callable[[Path], None]:
    """Write the pooling as sentence-transformers before 6 did: one flag a mode."""
    names = {
        "cls": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "max": "pooling_mode_max_tokens",
        "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
        "weightedmean": "pooling_mode_weightedmean_tokens",
        "lasttoken": "pooling_mode_lasttoken",
    }

    def write(folder: Path) -> None:
        table = {"word_embedding_dimension": HIDDEN} | {flag: mode in modes for mode, flag in names.items()}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(table))

    return write


def _encoder_in_a_folder(folder: Path) -> None:
    """Move the encoder into a folder of its own, as sentence-transformers before 3 saved it."""
    room = folder / "0_Transformer"
    room.mkdir()
    for file in list(folder.iterdir()):
        own = {"modules.json", "config_sentence_transformers.json", "README.md"}
        if file.is_file() and file.name not in own:
            file.rename(room / file.name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))


def _adapter(beside: bool) -> Maker:
    def make(path: Path) -> Path:
        base = make_tiny(path / "base", "bert", "text-classification", layers=2)
        folder = with_adapter(base, path / "model", layers=2)
        if not beside:
            for name in ("config.json", "model.safetensors"):
                (folder / name).unlink()
            change(folder / "adapter_config.json", base_model_name_or_path=str(base))
        return folder

    return make


def _vocabulary_alone(folder: Path) -> None:
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").unlink()


def _old_cross_encoder(folder: Path) -> None:
    change(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})


def _lower_case(folder: Path) -> None:
    """Say it in `sentence_bert_config.json`, over a tokenizer that keeps case."""
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    shutil.copyfile(folder.parent / "encoder" / "tokenizer.json", folder / "tokenizer.json")


FOLDERS: dict[str, Maker] = {
    **{f"pooling {mode}": sentence(lambda mode=mode: [pooling(mode)]) for mode in MODES},
    **{f"pooling {m}, normalized": sentence(lambda m=m: [pooling(m), module("Normalize")]) for m in ("mean", "cls")},
    "pooling cls + mean": sentence(lambda: [pooling(("cls", "mean"))]),
    "pooling mean + max + cls": sentence(lambda: [pooling(("mean", "max", "cls"))]),
    "pooling weightedmean + lasttoken": sentence(lambda: [pooling(("weightedmean", "lasttoken"))]),
    "pooling by a flag": changed(sentence(lambda: [pooling()]), _flags("cls")),
    "pooling by two flags": changed(sentence(lambda: [pooling()]), _flags("mean", "max")),
    "pooling by four flags": changed(sentence(lambda: [pooling()]), _flags("cls", "max", "mean", "weightedmean")),
    "no pooling": sentence(list),
    "dense": sentence(lambda: [pooling(), dense(16)]),
    "dense, normalized": sentence(lambda: [pooling(), dense(16), module("Normalize")]),
    "normalized, dense": sentence(lambda: [pooling(), module("Normalize"), dense(16)]),
    "two dense": sentence(lambda: [pooling(), dense(48), module("Normalize"), dense(16, 48)]),
    "dense without bias": sentence(lambda: [pooling(), dense(16, bias=False)]),
    "dense with a residual": sentence(lambda: [pooling(), dense(use_residual=True)]),
    "dense with a projected residual": sentence(lambda: [pooling(), dense(16, use_residual=True)]),
    **{
        f"dense {activation}": sentence(lambda a=activation: [pooling(), dense(16, activation=getattr(torch.nn, a)())])
        for activation in ("Identity", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "Softplus")
    },
    "dense on the tokens": sentence(lambda: [dense(module_input_name="token_embeddings"), pooling()]),
    "layer norm": sentence(lambda: [pooling(), module("LayerNorm", HIDDEN)]),
    "layer norm, dense, normalized": sentence(
        lambda: [pooling(), module("LayerNorm", HIDDEN), dense(16), module("Normalize")]
    ),
    "dropout": sentence(lambda: [pooling(), module("Dropout", 0.2), dense(16)]),
    "normalized twice": sentence(lambda: [pooling(), module("Normalize"), module("Normalize")]),
    "truncated dimensions": sentence(lambda: [pooling()], truncate_dim=16),
    "default prompt": sentence(lambda: [pooling()], prompts={"q": "query: "}, default_prompt_name="q"),
    "default prompt, cls": sentence(lambda: [pooling("cls")], prompts={"q": "query: "}, default_prompt_name="q"),
    "default prompt, lasttoken": sentence(
        lambda: [pooling("lasttoken")], prompts={"q": "query: "}, default_prompt_name="q"
    ),
    "default prompt, two poolings": sentence(
        lambda: [pooling(("cls", "mean")), module("Normalize")], prompts={"q": "query: "}, default_prompt_name="q"
    ),
    "prompts without a default": sentence(lambda: [pooling()], prompts={"q": "query: ", "p": "passage: "}),
    **{
        f"prompt not pooled, {mode}": sentence(
            lambda mode=mode: [pooling(mode, include_prompt=False)],
            prompts={"q": "the letter: "},
            default_prompt_name="q",
        )
        for mode in ("mean", "cls", "max")
    },
    **{f"padded left, {mode}": sentence(lambda mode=mode: [pooling(mode)], side="left") for mode in MODES},
    "padded left, default prompt": sentence(
        lambda: [pooling()], side="left", prompts={"q": "query: "}, default_prompt_name="q"
    ),
    "padded left, prompt not pooled": sentence(
        lambda: [pooling("mean", include_prompt=False)],
        side="left",
        prompts={"q": "the letter: "},
        default_prompt_name="q",
    ),
    **{f"embeddings of {f}": sentence(lambda: [pooling(), module("Normalize")], family=f) for f in FAMILIES[1:]},
    **{
        f"lower case over {family}": changed(
            sentence(lambda: [pooling()], family=family, transformer={"do_lower_case": True}), _lower_case
        )
        for family in ("roberta", "xlm-roberta")
    },
    "16 tokens at most": sentence(lambda: [pooling()], transformer={"max_seq_length": 16}),
    "16 tokens at most, prompt": sentence(
        lambda: [pooling()],
        transformer={"max_seq_length": 16},
        prompts={"q": "query: "},
        default_prompt_name="q",
    ),
    "encoder in a folder of its own": changed(sentence(lambda: [pooling(), dense(16)]), _encoder_in_a_folder),
    "cross-encoder": cross_encoder(),
    "cross-encoder of roberta": cross_encoder("roberta"),
    "cross-encoder, three classes": cross_encoder(num_labels=3),
    "cross-encoder, default prompt": cross_encoder(prompts={"q": "query: "}, default_prompt_name="q"),
    "cross-encoder before version 6": changed(head("bert", "text-classification", num_labels=1), _old_cross_encoder),
    **{f"{task} of {family}": head(family, task) for task in TASKS for family in ("bert", "roberta", "deberta-v2")},
    "scores of pairs": head("bert", "text-classification", num_labels=1),
    "classes, several at once": head("bert", "text-classification", problem_type="multi_label_classification"),
    "tags of modernbert": head("modernbert", "token-classification", num_labels=7),
    "classes, padded left": head("bert", "text-classification", side="left"),
    "tags, padded left": head("roberta", "token-classification", side="left"),
    "vocabulary alone": changed(head("bert", "text-classification"), _vocabulary_alone),
    "adapter beside its base": _adapter(beside=True),
    "adapter alone": _adapter(beside=False),
}
MAY_BE_REFUSED = {
    "no pooling": "token vectors alone, as ColBERT kinds have: issue 13 lets them be exported as such or refused",
}
"""Folders that need not be read, and why; every other one is of what is to be honoured."""
SMALL = (
    "pooling mean, normalized",
    "normalized, dense",
    "default prompt, cls",
    "padded left, cls",
    "embeddings of roberta",
    "16 tokens at most",
    "cross-encoder before version 6",
    "text-classification of bert",
    "token-classification of deberta-v2",
    "question-answering of roberta",
)
"""One of each kind, for the tests."""
