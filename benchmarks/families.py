"""Every encoder family through the whole command of the target `tflite`, in float32 and in dynamic int8.

    python benchmarks/families.py [--only FAMILY]

Each family has a small model of its own (three layers of 128, or one that is run three times), taught the text of
`sample:sentiment` here: a model that has learned nothing decides nothing, and no gate would say anything about it.
Writes `benchmarks/results/families.json` after every family.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _measure import known, machine, plm_export, save

STEPS = 750
"""Batches of 32 that each model learns from."""
RATE = 4e-4
"""At 1e-3 families that normalize after adding learn little."""
PRECISIONS = {"float32": "none", "int8": "dynamic"}
WANTED = {"float32_error": 1e-4}
MAX_LENGTH = 64
VOCABULARY = 2000
HIDDEN = 128
LAYERS = 3
COMMON = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 2 * HIDDEN,
    "initializer_range": HIDDEN**-0.5,  # 0.02 is for a width of 768: here attention would start flat
}
BERT_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_MARKS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
ROLES = {
    BERT_MARKS: ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
    ROBERTA_MARKS: ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"),
}


@dataclass(frozen=True)
class Kind:
    """What is particular to a family: its tokenizer, and what its configuration says beyond the sizes."""

    tokenizer: str
    """`words` (WordPiece), `bytes` (BPE) or `pieces` (Unigram)."""
    marks: tuple[str, ...] = BERT_MARKS
    types: bool = False
    """Tells the two texts of a pair apart by token types."""
    config: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "bert": Kind("words", types=True),
    "roberta": Kind("bytes", ROBERTA_MARKS, config={"type_vocab_size": 1}),
    "xlm-roberta": Kind("pieces", ROBERTA_MARKS, config={"type_vocab_size": 1}),
    "distilbert": Kind("words", config={"hidden_dim": 2 * HIDDEN}),
    "albert": Kind("pieces", types=True, config={"embedding_size": 64}),
    "electra": Kind("words", types=True, config={"embedding_size": 64}),
    "mpnet": Kind("words", ROBERTA_MARKS),
    # As DeBERTa-v3: no token types, log buckets, keys shared between content and position.
    "deberta-v2": Kind(
        "pieces",
        config={
            "type_vocab_size": 0,
            "relative_attention": True,
            "position_buckets": 32,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_biased_input": False,
            "max_relative_positions": -1,
        },
    ),
    # A window that texts of two dozen tokens leave: local attention must differ from global.
    "modernbert": Kind("bytes", config={"local_attention": 16, "global_attn_every_n_layers": 3}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=FAMILIES, help="run this family alone, beside what stands in the file")
    given = parser.parse_args()
    rows = known("families").get("families", {}) if given.only else {}
    for name in [given.only] if given.only else FAMILIES:
        rows[name] = measure(name)
        print(name, rows[name])
        ordered = {n: rows[n] for n in FAMILIES if n in rows}
        save("families", {"machine": machine(), "wanted": WANTED, "families": ordered, "misses": misses(ordered)})
    found = misses(rows)
    for miss in found:
        print("not reached:", miss)
    return 1 if found else 0


def measure(family: str) -> dict[str, Any]:
    from converter.stage import SILENT
    from sample_models import folder

    sample = folder("sentiment", SILENT)
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / family
        teach(family, model, sample / "train.tsv")
        return {name: export(model, precision, sample) for name, precision in PRECISIONS.items()}


def export(model: Path, precision: str, sample: Path) -> dict[str, Any]:
    text = ["--calibration", str(sample / "train.tsv"), "--eval", str(sample / "eval.tsv")]
    flags = ["--target", "tflite", "--quantize", precision, *text, "-o", str(model.parent / precision)]
    done = plm_export(str(model), *flags, "--json", "--quiet")
    report = json.loads(done.stdout)
    made = report["targets"][0] if report.get("targets") else {"error": report.get("error")}
    gate = made.get("evaluation") or {}
    facts = gate.get("facts") or {}
    lowered = made["records"][0] if made.get("records") else {"options": {}, "facts": {}}
    return {
        "exit_code": done.exit_code,
        "status": made.get("status"),
        "error": made.get("error"),
        "failed": [c["detail"] for c in gate.get("checks", ()) if c["status"] == "FAIL"],
        "worst_error": max((d["max_error"] for d in gate.get("deviations", ())), default=None),
        "agreement": gate.get("agreement"),
        "metric": {"accuracy": gate["metric"]["accuracy"]} if gate.get("metric") else {},
        "source_metric": (report.get("source") or {}).get("metric"),
        "size_bytes": made.get("size_bytes"),
        "ms_per_text": (gate.get("milliseconds") or {}).get("package"),
        "source_ms": (gate.get("milliseconds") or {}).get("source"),
        "seconds": done.seconds,
        "peak_bytes": done.peak_bytes,
        "graphs": facts.get("graphs"),
        "cpu": machine()["cpu"],
        "lowered": lowered["facts"],
        "mediapipe": facts.get("mediapipe"),
    }


def teach(family: str, made: Path, text: Path) -> None:
    """Write a model of the family into `made`, trained on the labelled text."""
    import torch
    import transformers

    from converter.data.files import read_examples
    from converter.distill.hard import HardLabels
    from converter.model_folder.load import load_source
    from converter.stage import Context, run_stage

    torch.set_num_threads(1)
    kind = FAMILIES[family]
    lines = [line.partition("\t")[0] for line in text.read_text(encoding="utf-8").splitlines()[1:]]
    tokenizer = tokenizer_of(kind, lines[: 32 * STEPS])
    # RoBERTa and its kin count positions from the padding id on.
    positions = MAX_LENGTH + (2 if kind.marks is ROBERTA_MARKS else 0)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        family,
        **COMMON | kind.config,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        pad_token_id=tokenizer.pad_token_id,
        **dict.fromkeys(("bos_token_id", "cls_token_id"), tokenizer.cls_token_id),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), tokenizer.sep_token_id),
        id2label={0: "negative", 1: "positive"},
        label2id={"negative": 0, "positive": 1},
    )
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(made)
    tokenizer.save_pretrained(made)
    model = load_source(str(made))
    examples = read_examples(text, model.task)[: 32 * STEPS]
    with tempfile.TemporaryDirectory() as work:
        stage = HardLabels(epochs=1, learning_rate=RATE)
        trained, _ = run_stage(stage, model, Context(Path(work), 0, calibration=examples))
    trained.module.save_pretrained(made)


def tokenizer_of(kind: Kind, lines: Sequence[str]) -> Any:
    """Return a fast tokenizer of that kind, learned from the text."""
    import transformers
    from tokenizers import processors

    core = {"words": word_pieces, "bytes": byte_pairs, "pieces": likely_pieces}[kind.tokenizer](kind, lines)
    roles = dict(zip(ROLES[kind.marks], kind.marks, strict=True))
    cls, sep = roles["cls_token"], roles["sep_token"]
    gap = f"{sep}:0 {sep}:1" if kind.marks is ROBERTA_MARKS else f"{sep}:0"
    core.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {gap} $B:1 {sep}:1",
        special_tokens=[(mark, core.token_to_id(mark)) for mark in (cls, sep)],
    )
    names = ["input_ids", *(["token_type_ids"] if kind.types else []), "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, model_input_names=names, model_max_length=MAX_LENGTH, **roles
    )


def word_pieces(kind: Kind, lines: Sequence[str]) -> Any:
    """The commonest words, and letters: the trainer of WordPiece gives another vocabulary each run."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    words = Counter(word for line in lines for word in line.lower().split())
    letters = [chr(c) for c in range(33, 127)]
    pieces = [*kind.marks, *letters, *(f"##{letter}" for letter in letters), *(w for w, _ in words.most_common())]
    vocab = {piece: i for i, piece in enumerate(list(dict.fromkeys(pieces))[:VOCABULARY])}
    core = Tokenizer(models.WordPiece(vocab, unk_token=kind.marks[ROLES[kind.marks].index("unk_token")]))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.add_special_tokens(list(kind.marks))
    return core


def byte_pairs(kind: Kind, lines: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=list(kind.marks), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return core


def likely_pieces(kind: Kind, lines: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    core.train_from_iterator(
        lines,
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(kind.marks),
            unk_token=kind.marks[ROLES[kind.marks].index("unk_token")],
            initial_alphabet=[chr(c) for c in range(33, 127)],
            show_progress=False,
        ),
    )
    return core


def misses(rows: dict[str, Any]) -> list[str]:
    """Return what does not convert, and where float32 strays further than it may."""
    made = []
    for family, runs in rows.items():
        for name, row in runs.items():
            if row["exit_code"] != 0:
                why = row["error"] or "; ".join(row["failed"]) or row["status"]
                made.append(f"{family}, {name}: exit code {row['exit_code']}: {why}")
        error = runs["float32"]["worst_error"]
        if error is not None and error > WANTED["float32_error"]:
            made.append(f"{family}, float32: an error of {error:.1e} of the output range")
    return made


if __name__ == "__main__":
    sys.exit(main())
