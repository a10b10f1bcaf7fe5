"""The README of a package: what it is, how to call it, how good it is, how to check it."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import converter
from converter.model_folder.sentence_config import RERANKER
from converter.validate.checks import Status
from converter.validate.texts import LENGTHS, NOTES, said_of_lengths

if TYPE_CHECKING:
    from converter.artifact import Bundle, TorchModel
    from converter.recipe import ChosenPrecision
    from converter.target import Target
    from converter.validate.checks import Evaluation

VERDICTS = {
    Status.PASS: "all checks passed: it answers like the source model, within the limits",
    Status.NOT_RUN: "**not proven**: a decisive check could not be run (see below)",
    Status.FAIL: "**rejected**",
}
TELEMETRY = (
    "ONNX Runtime 1.29 and later send telemetry on some platforms unless `ORT_DISABLE_TELEMETRY=1` is set in the "
    "environment before it is imported."
)


def package_card(
    target: "Target", precision: "ChosenPrecision", bundle: "Bundle", evaluation: "Evaluation", source: "TorchModel"
) -> str:
    """Return the Markdown. It holds no times and no dates: the same run gives the same bytes."""
    usage = target.usage(bundle).strip()
    parts = [
        f"# {source.provenance.id} for {target.name}",
        _what(precision, bundle, evaluation, source),
        f"## Usage\n\n{usage}" if usage else "",
        _samples(bundle),
        TELEMETRY if any(name.endswith(".onnx") for name in bundle.files.values()) else "",
        _proof(evaluation),
        _files(source),
    ]
    return front_matter(target, bundle, source) + "\n\n".join(p for p in parts if p) + "\n"


def front_matter(target: "Target", bundle: "Bundle", source: "TorchModel") -> str:
    """Return the model card's head, as the Hub reads it: YAML, each value of which is written as JSON is."""
    card, made = source.card, source.provenance
    named = bool(card.licence) or not card.notices
    library = "onnx" if any(name.endswith(".onnx") for name in bundle.files.values()) else "litert"
    table: dict[str, Any] = {
        "license": card.licence if named else "other",
        "license_name": card.licence_name if named else "see-the-files",
        "license_link": card.licence_link if named else next(iter(card.notices)),
        # A folder of the same name as somebody's model on the Hub is not that model.
        "base_model": made.id if made.revision else None,
        "base_model_revision": made.revision,
        "base_model_sha256": weights_digest(made.weights_sha256),
        "library_name": library,
        "pipeline_tag": source.task.name,
        "language": list(card.languages),
        "tags": ["plm-export", target.name],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in table.items() if value]
    return "\n".join(["---", *lines, "---", "", ""])


def weights_digest(weights: Mapping[str, str]) -> str:
    """Return the SHA-256 of one file of weights; of several, that of their names and digests, as `sha256sum` lists."""
    if len(weights) == 1:
        return next(iter(weights.values()))
    return hashlib.sha256(
        "".join(f"{digest}  {name}\n" for name, digest in sorted(weights.items())).encode()
    ).hexdigest()


def _what(precision: "ChosenPrecision", bundle: "Bundle", evaluation: "Evaluation", source: "TorchModel") -> str:
    made = source.provenance
    revision = f" at revision `{made.revision}`" if made.revision else ""
    size = f"{bundle.size_bytes / 1e6:.1f} MB; the source's weights are {source.size_bytes / 1e6:.1f} MB in float32"
    return "\n".join(
        [
            f"- Task: {source.task.name}",
            f"- Made from: `{made.id}`{revision}, licence: {_licence(source)}",
            f"- Model: {_names(bundle)}, precision {precision}, {size}",
            *_around(source),
            f"- Verdict: {VERDICTS[evaluation.status]}",
            f"- Made by plm-export {converter.__version__}; `manifest.json` has source, recipe, versions and checks",
        ]
    )


def _licence(source: "TorchModel") -> str:
    card = source.card
    said = [card.licence_name or card.licence or source.provenance.licence, *(f"`{name}`" for name in card.notices)]
    return ", ".join(filter(None, said)) or "**not stated by the source**"


def _names(bundle: "Bundle") -> str:
    return ", ".join(f"`{name}`" for name in dict.fromkeys(bundle.files.values()))


def _around(source: "TorchModel") -> list[str]:
    """Say what stands around the model: a prompt, and what a cross-encoder makes of its logits."""
    lines, sentence = [], source.sentence
    if source.task.prompt:
        named = f" (its name: {sentence.default_prompt_name})" if sentence and sentence.default_prompt_name else ""
        shown = json.dumps(source.task.prompt, ensure_ascii=False).replace("`", "'")  # quoted: its last space counts
        lines.append(
            f"- Prompt: `{shown}`{named} stands before every text: the package was judged with it, and answers "
            "otherwise without it"
        )
    if source.head is not None and sentence is not None and sentence.truncate_dim:
        lines.append(f"- Embeddings are cut to their first {sentence.truncate_dim} numbers, as the model's folder says")
    if sentence is not None and sentence.kind == RERANKER:
        default = "torch.nn.Sigmoid" if len(source.task.labels) == 1 else "torch.nn.Identity"
        applied = sentence.activation or default
        lines.append(
            f"- Cross-encoder: `CrossEncoder.predict` returns `{_cell(applied)}` of the logits that the file gives"
        )
    return lines


def _proof(evaluation: "Evaluation") -> str:
    runtime = evaluation.facts.get("runtime", "see the manifest")
    intro = (
        f"This file was run in its own runtime ({runtime}) on {evaluation.n_probes} texts and compared with the source "
        "model in PyTorch (float32)."
    )
    lines = [
        "## Quality",
        "",
        intro,
        "",
        "| check | result | details |",
        "| --- | --- | --- |",
        *(f"| {c.name} | {c.status} | {_cell(c.detail)} |" for c in evaluation.checks),
    ]
    if evaluation.metric:
        lines += ["", "| metric | source | package |", "| --- | --- | --- |"]
        lines += [
            f"| {n} | {evaluation.source_metric.get(n, float('nan')):.4f} | {v:.4f} |"
            for n, v in evaluation.metric.items()
        ]
    sets = evaluation.facts.get("instruction_sets")
    if sets:
        lines += ["", f"Its int8 arithmetic does not overflow on {', '.join(sets['safe'])}: {sets['proof']}."]
    for other in evaluation.facts.get("stability", ()):
        if other["n_other"]:
            lines += [
                "",
                f"Caution: {other['n_other']} of {other['n_texts']} texts get a different answer {other['name']}.",
            ]
    facts = evaluation.facts
    notes = [facts.get("note"), _trimmed(evaluation), said_of_lengths(facts.get(LENGTHS)), *facts.get(NOTES, ())]
    return "\n".join([*lines, *(line for note in notes if note for line in ("", f"Note: {note}."))])


def _trimmed(evaluation: "Evaluation") -> str:
    """Say what a smaller vocabulary does to text: the package's ids are not the source's."""
    found = evaluation.facts.get("vocabulary")
    if not found:
        return ""
    return (
        f"the vocabulary was trimmed to {found['tokens']} of {found['source_tokens']} tokens, so use the tokenizer of "
        f"this package; it tokenizes {found['split_otherwise']} of {found['texts']} evaluated texts differently than "
        "the source's"
    )


def _samples(bundle: "Bundle") -> str:
    if not (bundle.folder / "samples" / "README.md").is_file():
        return ""
    if bundle.source.cache is not None and not (bundle.folder / "samples" / "web").is_dir():
        return ""  # its usage names them
    if bundle.source.cache is not None:
        return (
            "## Using it in an app\n\n"
            "`samples/python/write.py` is the whole loop, with ONNX Runtime, tokenizers and numpy alone; `samples/web` "
            "is a page that runs it in the browser. `samples/README.md` shows how to start both."
        )
    return (
        "## Using it in an app\n\n"
        "`samples/` holds source code generated for this model, for Android (`samples/android` is a whole "
        "project where the tokenizer has tables), iOS, embedded Linux and Python, and `samples/assets/` the files that "
        "it reads. `samples/README.md` shows how to use it, what was tested, and how "
        "to measure latency on a phone."
    )


def _cell(text: str) -> str:
    """Return text that cannot break out of a table's cell: details quote probes, which users write."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _files(source: "TorchModel") -> str:
    labels = "- `labels.txt`: the classes, in the order of the logits\n" if source.task.labels else ""
    return (
        "## Verification\n\n"
        "```\nplm-export verify FOLDER\n```\n\n"
        "checks the hash of every file, opens the model in its runtime, and runs the texts of `golden.safetensors` "
        "again: token ids, outputs and answers must match the recorded ones. It needs no network and no source model."
        "\n\n"
        f"{labels}"
        "- `golden.safetensors`: texts, their token ids, and the recorded outputs of package and source\n"
        "- `sbom.cdx.json`: bill of materials (CycloneDX): source, licence, model card, libraries that made it\n"
        "- `manifest.json`: file hashes, source, recipe, versions, stages, checks, how to rebuild\n"
    )
