"""What config.json says a model is: refused by name where it cannot be exported, else the task of its head."""

from collections.abc import Mapping
from typing import Any

from converter.errors import SourceError, UsageError, nearest
from converter.model_folder.sentence_config import RERANKER
from converter.registry import task_class, task_names

ENCODERS = ("bert", "distilbert", "roberta", "xlm-roberta", "albert", "electra", "mpnet", "deberta-v2", "modernbert")
ANY_TASK = "feature-extraction"
"""What every encoder can do, whatever head it has."""


def check_model_type(raw: Mapping[str, Any], where: str) -> None:
    """Refuse what is no text encoder, and what transformers does not know.

    Raises:
        SourceError: says what the model is, and what can be exported.

    """
    from transformers import CONFIG_MAPPING

    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise SourceError(
            f"config.json names the unknown model_type {kind!r}", where=where, hint=nearest(str(kind), ENCODERS)
        )
    other = _other_than_encoder(kind)
    if other is not None:
        raise SourceError(
            f"{kind} is {other}; this version exports encoders", where=where, hint=f"encoders: {', '.join(ENCODERS)}"
        )


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
    found = _task_of(architecture)
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
    # A config that names no head of ours proves nothing: whether the weights hold the wanted one is seen on loading.
    if found is not None and name not in {found, ANY_TASK}:
        raise UsageError(
            f"the model has no head for {name}: its config names {architecture}",
            where=where,
            hint=f"its own task: {found}",
        )
    return name


def _architecture(raw: Mapping[str, Any]) -> str:
    named = raw.get("architectures") or []
    first = named if isinstance(named, str) else next(iter(named), "")
    return str(first)


def _task_of(architecture: str) -> str | None:
    if architecture.endswith("LMHeadModel"):
        return None
    ends = {task_class(n).architecture: n for n in task_names()}
    return next((name for end, name in ends.items() if end and architecture.endswith(end)), None)
