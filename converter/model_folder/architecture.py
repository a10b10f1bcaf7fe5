"""What config.json says a model is: refused by name where it cannot be exported, else the task of its head."""

import difflib
from collections.abc import Mapping
from typing import Any

from converter.errors import SourceError, UsageError, nearest
from converter.model_folder.sentence_config import RERANKER
from converter.registry import task_class, task_names

ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet", "deberta-v2", "modernbert")
ANY_TASK = "feature-extraction"
"""What every encoder can do, whatever head it has."""
CONTINUES, ANSWERS, TRANSLATES = "text-generation", "text2text-generation", "translation"
"""Tasks of models that write text."""
TRANSLATORS = ("marian", "m2m_100", "mbart", "fsmt", "nllb-moe")
"""Encoder-decoders that are trained to translate, and nothing else."""

CLASSIFIERS = {
    "bart": "BartForSequenceClassification",
    "mbart": "MBartForSequenceClassification",
    "mt5": "MT5ForSequenceClassification",
    "t5": "T5ForSequenceClassification",
    "umt5": "UMT5ForSequenceClassification",
}
"""Encoder-decoders that classify a text, by their decoder's state at its end token."""


def check_model_type(raw: Mapping[str, Any], where: str) -> None:
    """Refuse what neither reads nor writes text, and what transformers does not know.

    Raises:
        SourceError: says what the model is, and what can be exported.

    """
    from transformers import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), CONFIG_MAPPING, n=1, cutoff=0.8)
        raise SourceError(
            f"config.json names the unknown model_type {kind!r}",
            where=where,
            hint=nearest(str(kind), close or ENCODERS),
        )
    other = _other_than_encoder(kind)
    if other is not None and _writes(raw) is None and not _classifies(raw):
        named = _architecture(raw)
        if not named:
            raise SourceError(
                f"{kind} is {other}, and config.json names no architecture: what the model is for is not known",
                where=where,
                hint='add "architectures" as the original model has it, such as ["LlamaForCausalLM"] for a Llama',
            )
        classes = f"that write text, nor {CLASSIFIERS[kind]}" if kind in CLASSIFIERS else "that write text"
        raise SourceError(
            f"{kind} is {other}, and {named} is none of its classes {classes}",
            where=where,
            hint=f"exported are encoders ({', '.join(ENCODERS)}), and models that write text: their config.json names "
            "a class …ForCausalLM, …LMHeadModel, …ForConditionalGeneration or MarianMTModel; of the encoder-decoders "
            f"those that classify texts: {', '.join(CLASSIFIERS.values())}",
        )


def _classifies(raw: Mapping[str, Any]) -> bool:
    """Tell whether the config names an encoder-decoder with a head that classifies texts."""
    return CLASSIFIERS.get(str(raw.get("model_type"))) == _architecture(raw)


def _writes(raw: Mapping[str, Any]) -> str | None:
    """Return the task of a model that writes text, by its class; None for any other, and for its encoder alone."""
    from transformers.models.auto import modeling_auto as auto

    kind, architecture = str(raw.get("model_type")), _architecture(raw)
    if auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.get(kind) == architecture:
        return TRANSLATES if kind in TRANSLATORS else ANSWERS
    continues = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    # An encoder that was saved with a causal head (BertLMHeadModel) has no file that says how it generates.
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if continues and not masked and auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind) == architecture:
        return CONTINUES
    return None


def _other_than_encoder(kind: str) -> str | None:
    """Return what a known model type is instead, None where it is an encoder (of a family of ours or not)."""
    from transformers.models.auto import modeling_auto as auto

    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "an encoder-decoder"
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return None
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "a causal language model"
    reads_text = (
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    )
    return None if any(kind in names for names in reads_text) else "no text encoder"


def choose_task(raw: Mapping[str, Any], wanted: str | None, *, sentence: str | None, where: str) -> str:
    """Return the task's name: what was asked for, unless the config names the head of another; else what it names.

    `sentence` is what sentence-transformers makes of the folder, None where it is not one of its own.

    Raises:
        SourceError: the config names a head that is for no task here.
        UsageError: `wanted` is no task, or not that of the model's head.

    """
    architecture = _architecture(raw)
    written = _writes(raw)
    found = written or _task_of(architecture)
    if wanted is None:
        if sentence == RERANKER:
            return "text-classification"
        if sentence is not None or not architecture:
            return ANY_TASK
        if found is None:
            raise SourceError(
                f"the task of {architecture} is not supported",
                where=where,
                hint=f"--task {ANY_TASK} exports the encoder without its head; --task NAME tries another task",
            )
        return found
    name = task_class(wanted).name
    if written is not None or name in (CONTINUES, ANSWERS, TRANSLATES):
        return _task_of_writer(name, written, architecture, where)
    if _classifies(raw) and name != found:
        # What its decoder makes of each token is no reading of the text: the decoder sees nothing of what follows.
        raise UsageError(
            f"{architecture} is exported as a classifier alone, not for {name}", where=where, hint=f"--task {found}"
        )
    # A config that names no head of ours proves nothing: whether the weights hold the wanted one is seen on loading.
    if found is not None and name not in {found, ANY_TASK}:
        raise UsageError(
            f"the model has no head for {name}: its config names {architecture}",
            where=where,
            hint=f"its own task: {found}",
        )
    return name


def _task_of_writer(wanted: str, own: str | None, architecture: str, where: str) -> str:
    """An encoder-decoder may be asked for either of its tasks; nothing else is another's."""
    if wanted == own or (own in (ANSWERS, TRANSLATES) and wanted in (ANSWERS, TRANSLATES)):
        return wanted
    raise UsageError(
        f"the model is not for {wanted}: its config names {architecture or 'no class'}",
        where=where,
        hint=f"its own task: {own}" if own else "a model that writes text names a class such as GPT2LMHeadModel",
    )


def _architecture(raw: Mapping[str, Any]) -> str:
    named = raw.get("architectures") or []
    first = named if isinstance(named, str) else next(iter(named), "")
    return str(first)


def _task_of(architecture: str) -> str | None:
    ends = {task_class(n).architecture: n for n in task_names() if task_class(n).kind == "encoder"}
    if architecture.endswith("LMHeadModel"):
        return None
    return next((name for end, name in ends.items() if end and architecture.endswith(end)), None)
