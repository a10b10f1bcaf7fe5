"""Why a source is refused, and what to do about it: one row a cause, so that documents and tests can go over them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.errors import SourceError


@dataclass(frozen=True)
class Cause:
    """One reason to refuse a source. Both sentences may have `{names}`, which the place of the refusal fills."""

    what: str
    """What was seen."""
    cure: str
    """What the user can do; true for this cause."""


NATIVE = "from sentence_transformers import SentenceTransformer as M"
CAUSES: Mapping[str, Cause] = {
    # Modules of sentence-transformers
    "module-of-own-code": Cause(
        "modules.json names {kind}, which is code of the model's author and is never run",
        "export a model made of sentence-transformers' own modules: Transformer, Pooling, Dense, Normalize, LayerNorm",
    ),
    "module-unknown": Cause(
        "modules.json names the module {kind}, which is not known",
        "known: Transformer, Pooling, Dense, Normalize, LayerNorm, Dropout",
    ),
    "module-without-encoder": Cause(
        "the first module is {kind}: there is no transformer to export",
        "export the model that {kind} was made from, or another one whose first module is Transformer",
    ),
    "module-router": Cause(
        "modules.json names {kind}, which sends queries and documents different ways; a package is one of them",
        "save the way that is wanted as a model of its own: SentenceTransformer(modules=[the modules of that way])",
    ),
    "module-weighted-layers": Cause(
        "modules.json names {kind}, which reads the hidden states of all layers; packages keep the last one",
        "train the model once more with Pooling alone, or export another model",
    ),
    "module-sparse": Cause(
        "modules.json names {kind}: it makes sparse vectors over the vocabulary (SPLADE), which no target packs",
        "--task fill-mask on the folder without its modules.json exports the logits that they are pooled from",
    ),
    "module-word-vectors": Cause(
        "modules.json names {kind}, which is not supported",
        "export a model whose modules are Transformer, Pooling, Dense, Normalize, LayerNorm, Dropout",
    ),
    "module-kwargs": Cause(
        "modules.json gives {kind} arguments that a caller must choose ({names}); a package has none",
        "save the model without them: SentenceTransformer(FOLDER).save(NEW), with the choice made",
    ),
    "module-row": Cause(
        "modules.json has the unknown entry {key!r}",
        "a module has idx, name, path, type; compare with the original file",
    ),
    "modules-of-one-name": Cause(
        "modules.json has two modules of the name {name!r}, of which sentence-transformers keeps the last alone",
        "give each module a name of its own",
    ),
    "module-key": Cause(
        "the {kind} module has the unknown key {key!r}",
        "if it says nothing of how the model answers, remove it; else a newer sentence-transformers wrote it",
    ),
    "module-value": Cause(
        "the {kind} module has {key} = {value!r}, which is not supported",
        "supported: {supported}",
    ),
    "module-damaged": Cause(
        "the {kind} module does not load ({detail})", "its weights must match its config.json; fetch both again"
    ),
    "module-without-weights": Cause(
        "the {kind} module has no model.safetensors",
        "where you trust it, load and save it once with a current sentence-transformers: "
        'python -c "' + NATIVE + "; M('FOLDER').save('NEW')\"",
    ),
    "modules-do-not-fit": Cause(
        "the modules of modules.json do not fit each other ({detail})",
        "the sizes in their config.json files must follow each other; fetch the folder again",
    ),
    "no-sentence-embedding": Cause(
        "its modules make one vector a token and no vector a text (a ColBERT kind, scored by late interaction)",
        "export its encoder alone: with modules.json moved away, --task feature-extraction gives token vectors",
    ),
    "sentence-kind": Cause(
        "config_sentence_transformers.json says that the model is a {kind}, which no target packs",
        "exported are SentenceTransformer and CrossEncoder; --task NAME on the folder without its modules.json exports "
        "the model inside",
    ),
    "sentence-key": Cause(
        "{file} has the unknown key {key!r}",
        "if it says nothing of how the model answers, remove it; else a newer sentence-transformers wrote it",
    ),
    "sentence-value": Cause("{file} has {key} = {value!r}, which is not supported", "supported: {supported}"),
    "prompt-missing": Cause(
        "default_prompt_name is {name!r}, which is none of its prompts", "its prompts: {known}; correct the name"
    ),
    # Configuration
    "remote-code": Cause(
        "the model needs remote code ({name}), which is never run",
        "export a model that transformers itself implements",
    ),
    "quantized": Cause(
        "its weights are quantized already (quantization_config: {method})",
        "export the model that it was made from; where there is none, dequantize it with the library that made it "
        "(bitsandbytes: model.dequantize()) and save that",
    ),
    "relative-positions": Cause(
        "config.json has position_embedding_type = {value!r}, which transformers 5 reads past: it would add absolute "
        "positions, and its answers would not be those of the model that was trained",
        "export a model with absolute positions, or one whose class has relative ones: deberta-v2, mpnet, modernbert",
    ),
    "pruned-heads": Cause(
        "config.json has pruned_heads, which transformers 5 reads past",
        "load and save the model in transformers 4 after setting the weights of those heads to 0, without pruned_heads",
    ),
    "config-key": Cause(
        "config.json has the key {key!r}, which {config_class} does not know",
        "if it says nothing of how the model answers, remove it; else the model is for another version of transformers "
        "or has code of its own",
    ),
    "other-inputs": Cause(
        "{model_type} reads more than text: its inputs {inputs} are not what a text tokenizer gives",
        "export a model that reads text alone; what this one answers without them is not what it was trained for",
    ),
    "no-mask": Cause(
        "{model_type} takes no attention_mask, so that padding would change its answers",
        "export an encoder with attention, such as bert or modernbert",
    ),
    "labels-not-counted": Cause(
        "id2label has the keys {keys}, wanted 0 to {last} without a gap",
        "correct id2label and label2id in config.json: every output of the model needs one name",
    ),
    "labels-of-one-name": Cause(
        "id2label gives the name {name!r} to several classes ({keys})",
        "give each class a name of its own in id2label and label2id of config.json",
    ),
    "labels-disagree": Cause(
        "id2label says {name!r} is class {index}, label2id says {other}",
        "correct the wrong one of the two in config.json; packages and clients read id2label",
    ),
    # Files
    "setfit": Cause(
        "{file} is a scikit-learn head as a pickle (SetFit), which can run code when it is read; it was not opened",
        "train the head in PyTorch (use_differentiable_head=True) and save it as a classifier of transformers, or "
        "export the sentence-transformers body alone from a folder without {file}",
    ),
    "gptq": Cause(
        "{file} says that the weights are quantized already (GPTQ or AWQ)",
        "export the model that it was made from",
    ),
    "adapter-hub": Cause(
        "{file} belongs to an adapter of the library `adapters`, which is not read",
        "merge it there: model.merge_adapter(NAME), then save_pretrained, and export that folder",
    ),
    "file-unknown": Cause(
        "the folder holds {file}, which no part of the model is known to use",
        "if it says nothing of how the model answers, move it out of the folder",
    ),
    "weights-misnamed": Cause(
        "its weights are called {file}, which is not looked for",
        "rename it to model.safetensors (or model.safetensors.index.json must list it)",
    ),
    "weights-outside": Cause(
        "{index} names {file!r}, which is not a file of this folder",
        "fetch the folder again; an index lists files that lie beside it, and nothing else is read",
    ),
    "link-outside": Cause(
        "{file} is a link to {target}, which lies outside the model's folder",
        "nothing outside the folder is read; where you trust the link, copy the folder with what it leads to: "
        "cp -rL FOLDER NEW",
    ),
    "tokenizer-outside": Cause(
        "tokenizer_config.json names the file {file!r}, which is not one of this folder",
        "remove it from fast_tokenizer_files, or fetch the folder again",
    ),
    "weights-named": Cause(
        "config.json has transformers_weights = {name!r}, which would be loaded in place of the weights that are known",
        "remove the key; the weights are read from model.safetensors, or from the files of its index",
    ),
    # Weights
    "weights-prefixed": Cause(
        "every name among the weights begins with {prefix!r}",
        "take it off: python -c \"from safetensors.torch import *; f = 'FOLDER/model.safetensors'; "
        "save_file({{k.removeprefix('{prefix}'): v for k, v in load_file(f).items()}}, f, {{'format': 'pt'}})\"",
    ),
    "weights-unread": Cause(
        "the weights hold {names}, which {module} does not take: "
        "its answers would not be those of the model that was trained",
        "the weights are of another architecture or version than config.json says; export with the one they are for",
    ),
    # Adapters
    "adapter-without-peft": Cause(
        "the folder holds a {kind} adapter, and PEFT, which merges it, is not installed",
        "python -m pip install 'plm-export[peft]'; or merge it elsewhere: model.merge_and_unload(), save_pretrained",
    ),
    "adapter-without-base": Cause(
        "adapter_config.json names the base model {base!r}, which is not there",
        "put the adapter's files into the base model's folder, or correct base_model_name_or_path",
    ),
    "adapter-kind": Cause(
        "the adapter is of the kind {kind}, which cannot be merged into the weights",
        "train LoRA (or another kind that model.merge_and_unload() takes) instead, or export the base model",
    ),
    "adapter-damaged": Cause(
        "the adapter does not load ({detail})",
        "adapter_config.json, adapter_model.safetensors and the base model must belong together; fetch them again",
    ),
    # Tokenizers
    "token-beyond-table": Cause(
        "the tokenizer has {n} tokens beyond the model's {rows} embeddings: {tokens}",
        "remove them from tokenizer.json (added_tokens), or give the model rows for them and train those: "
        "model.resize_token_embeddings(len(tokenizer)), save_pretrained",
    ),
    "tokenizer-of-another": Cause(
        "the tokenizer has ids up to {largest}, the model {rows} embeddings", "the tokenizer belongs to another model"
    ),
    "tokenizer-cut-off": Cause(
        "the tokenizer has {n} tokens, the model {rows} embeddings",
        "the tokenizer belongs to another model, or is incomplete; where the rows are spare ones, cut them: "
        "model.resize_token_embeddings(len(tokenizer)), save_pretrained",
    ),
    "tokenizer-missing": Cause("there is no tokenizer", "one of {files} is needed"),
    "tokenizer-damaged": Cause(
        "the tokenizer does not load ({detail})", "its files are damaged or incomplete: download them again"
    ),
    "tokenizer-slow": Cause(
        "its {kind} has no fast form (tokenizer.json), which every package needs",
        "export a model with a WordPiece, BPE or Unigram tokenizer; {kind} cannot be written as tokenizer.json",
    ),
    "no-end-token": Cause(
        "the model classifies a text by its end token (eos_token_id = {end}), and its tokenizer adds none to a text",
        "use the tokenizer that the model was trained with: its post_processor in tokenizer.json adds the end token",
    ),
    "end-token-pads": Cause(
        "the model classifies a text by its last end token (eos_token_id = {end}), with which its tokenizer also pads",
        "set pad_token in tokenizer_config.json to another token that it has, and pad_token_id in config.json",
    ),
    "no-start-token": Cause(
        "config.json names no decoder_start_token_id: what the decoder reads first is not known",
        "set it to the value of the original model: pad_token_id for T5, eos_token_id for BART",
    ),
    "tokenizer-without-padding": Cause(
        "the tokenizer has no pad token", "set pad_token in tokenizer_config.json to a token that it has"
    ),
    "chat-template": Cause(
        "the chat template cannot be read ({detail})",
        "correct it in a copy of the folder (chat_template.jinja, or chat_template in tokenizer_config.json), or take "
        "it out: the package then continues text and does not chat",
    ),
    # Sizes that cannot be
    "size-implausible": Cause(
        "config.json says {key} = {value}, and a model with such weights has at most {limit}",
        "the weights must match config.json: compare it with that of the original model",
    ),
    "larger-than-weights": Cause(
        "config.json describes a model of {wanted} million numbers, and the weights hold {stored} million",
        "the weights must match config.json: compare it with that of the original model",
    ),
    # Whatever else a library says
    "not-run": Cause(
        "the model loads, and does not run on a text of {length} tokens ({detail})",
        "transformers' own class fails on it with these settings: compare config.json with that of the original model, "
        "or export another architecture",
    ),
    "remembers": Cause(
        "its answers depend on the texts that it was asked before: {key} goes from {before!r} to {after!r} on a short "
        "text and stays so, and longer texts get other answers from then on",
        "choose one: {key} = {after!r} in config.json gives a text one answer, whatever was asked before; or keep the "
        "texts short enough for both (--max-length)",
    ),
    "not-loaded": Cause(
        "the model does not load ({detail})", "compare config.json and the weights with those of the original model"
    ),
    "unforeseen": Cause(
        "the source cannot be read ({kind}: {detail})",
        "that is not foreseen: please report it, with config.json and the names of the folder's files",
    ),
}


def refusal(cause: str, where: Path | str, values: Mapping[str, object] | None = None) -> SourceError:
    """Return the error of a row of the table, its sentences filled with `values`."""
    row, filled = CAUSES[cause], values or {}
    return SourceError(row.what.format_map(filled), where=str(where), hint=row.cure.format_map(filled), cause=cause)
