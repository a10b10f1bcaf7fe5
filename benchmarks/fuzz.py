"""Send readers of models, tokenizers, recipes, data, packages millions of damaged inputs, guided by coverage (atheris).

python benchmarks/fuzz.py [--minutes 4] [--reader NAME …]      writes benchmarks/results/fuzz.json

Each reader runs in a process of its own, under a limit of memory. A case counts as a fault where anything but a
deliberate error comes out, where it takes more than ten seconds, or where the process needs more than 1 GB.
"""

# ruff: noqa: E501 - seeds are one line each

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, from anywhere

from converter.errors import ExportError  # noqa: E402
from tests.manifests import complete  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"
SECONDS_A_CASE, MEGABYTES = 10, 1000


@dataclass(frozen=True)
class Case:
    """One input, and a folder to put it into."""

    folder: Path
    content: bytes

    def file(self, name: str) -> Path:
        path = self.folder / name
        path.write_bytes(self.content)
        return path


def _data(suffix: str, task: str = "text-classification") -> Callable[[Case], Any]:
    def read(case: Case) -> Any:
        from converter.data.files import read_data
        from converter.registry import task_class

        config = SimpleNamespace(num_labels=3, id2label={0: "no", 1: "yes", 2: "O"}, problem_type=None)
        return read_data(case.file(f"rows{suffix}"), task_class(task)(config), judged=True)

    return read


def _texts(case: Case) -> Any:
    from converter.data.files import read_texts

    return list(read_texts(case.file("texts.jsonl")))


def _recipe(case: Case) -> Any:
    from converter.recipe import bind_recipe, load_recipe_table, recipe_table

    return recipe_table(bind_recipe(load_recipe_table(case.file("recipe.toml"))))


def _recipe_table(case: Case) -> Any:
    from converter.bounds.documents import parse_json
    from converter.bounds.files import UnfitFileError
    from converter.recipe import bind_recipe

    with contextlib.suppress(UnfitFileError):
        table = parse_json(case.content)
        return bind_recipe(table) if isinstance(table, dict) else None


def _labels(suffix: str) -> Callable[[Case], Any]:
    def read(case: Case) -> Any:
        from converter.data.names import read_label_map

        return read_label_map(case.file(f"labels{suffix}"))

    return read


def _header(case: Case) -> Any:
    from converter.model_folder.weights_header import stored_in

    path = case.folder / "model.safetensors"
    path.write_bytes(len(case.content).to_bytes(8, "little") + case.content + bytes(64))
    return stored_in([path])


def _raw_header(case: Case) -> Any:
    from converter.model_folder.weights_header import stored_in

    return stored_in([case.file("model.safetensors")])


def _config(case: Case) -> Any:
    """Read config.json as a model's folder is read, up to building the model (without memory)."""
    from converter.jsonfile import read_table
    from converter.model_folder.architecture import check_model_type, choose_task
    from converter.model_folder.contents import check_config
    from converter.model_folder.fields import Configuration, check_fields
    from converter.model_folder.labels import check_labels
    from converter.model_folder.plausible import check_settings
    from converter.model_folder.weights_header import StoredTensors

    path = case.file("config.json")
    raw = read_table(path)
    check_fields(raw, Configuration, path)
    check_config(raw, path)
    check_settings(raw, StoredTensors(frozenset({"a"}), 1000, 100), path)
    check_model_type(raw, str(path))
    check_labels(raw, path)
    return choose_task(raw, None, sentence=None, where=str(path))


def _entries(name: str) -> Callable[[Case], Any]:
    def read(case: Case) -> Any:
        from converter.model_folder.plausible import check_entries

        case.file(name)
        return check_entries(case.folder)

    return read


def _sentence(name: str) -> Callable[[Case], Any]:
    """Read a sentence-transformers folder of which one file is the case."""

    def read(case: Case) -> Any:
        from converter.model_folder.sentence_config import read_sentence_folder
        from converter.model_folder.sentence_steps import check_modules, read_head

        kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
        modules = [
            {"name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds)
        ]
        (case.folder / "1_Pooling").mkdir(exist_ok=True)
        (case.folder / "modules.json").write_text(json.dumps(modules))
        (case.folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 8}')
        case.file(name)
        found = read_sentence_folder(case.folder)
        if found is None:
            return None
        check_modules(found, case.folder)
        return read_head(found, case.folder, 8, left_padded=False, prompt_length=0)

    return read


def _adapter(case: Case) -> Any:
    from converter.model_folder.adapters import find_adapter

    case.file("adapter_config.json")
    return find_adapter(case.folder)


def _maps(name: str) -> Callable[[Case], Any]:
    def read(case: Case) -> Any:
        from converter.model_folder.replacement_map import StandIns
        from converter.model_folder.shape_map import ShapeMap

        case.file(name)
        return ShapeMap.load(case.folder), StandIns.load(case.folder)

    return read


def _settings(case: Case) -> Any:
    from converter.generate.read_settings import read_settings

    (case.folder / "config.json").write_text('{"eos_token_id": 1}')
    case.file("generation_config.json")
    return read_settings(case.folder, context=64)


def _manifest(case: Case) -> Any:
    """Read a manifest, its digest made right first: anybody can."""
    from converter.commands.inspect import lines
    from converter.jsonfile import json_text
    from converter.package import manifest

    with contextlib.suppress(ValueError, RecursionError):
        table = json.loads(case.content)
        if isinstance(table, dict):
            table = {"format": manifest.FORMAT, **table}
            table[manifest.DIGEST] = manifest._digest(table)  # noqa: SLF001
            case = Case(case.folder, json_text(table).encode())
    case.file("manifest.json")
    found = manifest.read_manifest(case.folder)
    return lines(str(case.folder), found, found), manifest.check_files(case.folder, found)


def _golden(case: Case) -> Any:
    from converter.package.golden import read_golden

    head = json.dumps({"__metadata__": {"golden": case.content.decode("latin-1")}}).encode()
    (case.folder / "golden.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    return read_golden(case.folder)


def _onnx(case: Case) -> Any:
    from converter.onnx.read import read_proto

    return read_proto(case.file("model.onnx"))


READERS: Mapping[str, Callable[[Case], Any]] = {
    "data.jsonl": _data(".jsonl"),
    "data.json": _data(".json", "question-answering"),
    "data.csv": _data(".csv"),
    "data.tsv": _data(".tsv", "token-classification"),
    "data.txt": _data(".txt", "token-classification"),
    "texts.jsonl": _texts,
    "recipe.toml": _recipe,
    "recipe table": _recipe_table,
    "labels.json": _labels(".json"),
    "labels.toml": _labels(".toml"),
    "labels.tsv": _labels(".tsv"),
    "safetensors header": _header,
    "safetensors": _raw_header,
    "config.json": _config,
    "tokenizer.json": _entries("tokenizer.json"),
    "tokenizer_config.json": _entries("tokenizer_config.json"),
    "modules.json": _sentence("modules.json"),
    "sentence_bert_config.json": _sentence("sentence_bert_config.json"),
    "config_sentence_transformers.json": _sentence("config_sentence_transformers.json"),
    "pooling": _sentence("1_Pooling/config.json"),
    "adapter_config.json": _adapter,
    "generation_config.json": _settings,
    "shape_map.json": _maps("shape_map.json"),
    "stand_ins.json": _maps("stand_ins.json"),
    "manifest.json": _manifest,
    "golden.safetensors": _golden,
    "model.onnx": _onnx,
}
SEEDS: Mapping[str, tuple[bytes, ...]] = {
    "data.jsonl": (b'{"text": "a", "label": "yes"}\n{"text": "b", "label": [1, 0, 1]}\n',),
    "data.json": (
        b'{"data": [{"paragraphs": [{"context": "a b", "qas": [{"question": "q", "answers": [{"text": "a", "answer_start": 0}]}]}]}]}',
    ),
    "data.csv": (b'sentence,label\n"a, b",yes\nc,0\n',),
    "data.tsv": (b"tokens\tner_tags\n['a' 'b']\t[0 1]\n", b"tokens\tner_tags\n[\"a\"]\t{'a': array([1])}\n"),
    "data.txt": (b"__label__yes a b\n", b"a O\nb B-X\n\nc O\n"),
    "recipe.toml": (
        b'model = "sample:default"\ntargets = ["cpu-int8"]\n[[compress]]\nstage = "prune.structured"\nheads = 0.5\n[limits]\nagreement = 0.9\n',
    ),
    "recipe table": (
        b'{"model": "m", "targets": ["tflite"], "compress": [{"stage": "trim.vocabulary"}], "quantize": {"tflite": "fp16"}, "limits": {"max_drop": 0.1}}',
    ),
    "labels.json": (b'{"a": "b", "c": 1, "d": null}',),
    "labels.toml": (b'a = "b"\n[c]\nd = 1\n',),
    "labels.tsv": (b"a\tb\n",),
    "safetensors header": (b'{"a": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}}',),
    "config.json": (
        b'{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "id2label": {"0": "a"}, "label2id": {"a": 0}, "hidden_size": 32, "num_hidden_layers": 2, "num_labels": 1}',
    ),
    "tokenizer.json": (
        b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}, "added_tokens": [{"id": 0, "content": "a"}]}',
    ),
    "tokenizer_config.json": (
        b'{"tokenizer_class": "BertTokenizer", "model_max_length": 512, "pad_token": {"content": "[PAD]"}, "added_tokens_decoder": {"0": {"content": "a"}}}',
    ),
    "modules.json": (
        b'[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer", "kwargs": []}]',
    ),
    "sentence_bert_config.json": (
        b'{"max_seq_length": 8, "do_lower_case": true, "tokenizer_args": {"padding_side": "left"}, "modality_config": {}, "model_args": {}}',
    ),
    "config_sentence_transformers.json": (
        b'{"model_type": "SentenceTransformer", "prompts": {"a": "b"}, "default_prompt_name": "a", "truncate_dim": 4, "activation_fn": "torch.nn.Identity"}',
    ),
    "pooling": (b'{"pooling_mode": ["cls", "mean"], "word_embedding_dimension": 8, "include_prompt": false}',),
    "generation_config.json": (
        b'{"eos_token_id": [1, 2], "num_beams": 2, "bad_words_ids": [[1]], "max_new_tokens": 5, "length_penalty": 1.0, "do_sample": true, "temperature": 0.5, "forced_bos_token_id": 1}',
        b'{"eos_token_id": 1, "do_sample": true, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "repetition_penalty": 1.1}',
        b'{"eos_token_id": [1, 2], "num_beams": 2, "length_penalty": 1.0, "early_stopping": true, "no_repeat_ngram_size": 2}',
    ),
    "adapter_config.json": (
        b'{"peft_type": "LORA", "task_type": "SEQ_CLS", "modules_to_save": ["classifier"], "base_model_name_or_path": "x"}',
    ),
    "shape_map.json": (b'{"format": 1, "layers": [{"heads": [0], "neurons": [0, 1]}], "layers_kept": [0]}',),
    "stand_ins.json": (b'{"format": 1, "parts": {"a": {"kind": "x"}}, "ties": {"a": "b"}}',),
    "manifest.json": (json.dumps(complete(files={"model.onnx": {"sha256": "0" * 64, "size_bytes": 1}})).encode(),),
    "golden.safetensors": (
        b'{"examples": [{"text": "a", "pair": null, "words": null}], "output_range": {"logits": 1.0}}',
        b'{"examples": [], "output_range": {}, "words": [], "defaults": {}, "machine": "", "stored": ["words"]}',
    ),
    "model.onnx": (bytes([0x08, 0x07, 0x3A, 0x06, 0x2A, 0x04, 0x08, 0x01, 0x4A, 0x00]),),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=4.0, help="of all readers together")
    parser.add_argument("--reader", action="append", choices=list(READERS))
    parser.add_argument("--child", choices=list(READERS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        return child(given.child, given.minutes * 60)
    chosen = given.reader or list(READERS)
    faults = 0
    for reader in chosen:
        row = _run(reader, given.minutes / len(chosen))
        faults += row["faults"]
        _saved(row)
    return 1 if faults else 0


def _saved(row: dict[str, Any]) -> None:
    """Add one reader's run to the file of results, which a run that is cut short has so far."""
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"readers": {}}
    _add(before["readers"].setdefault(row["reader"], {}), row)
    total = {k: round(sum(r.get(k, 0) for r in before["readers"].values()), 1) for k in ("cases", "minutes", "faults")}
    RESULTS.write_text(json.dumps({"total": total, "readers": before["readers"]}, indent=2, sort_keys=True) + "\n")
    print(json.dumps(total), flush=True)


def _add(known: dict[str, Any], row: Mapping[str, Any]) -> None:
    """Add a run to those before it; what was found in the last one stands alone: what was mended is no fault."""
    for key in ("cases", "minutes"):
        known[key] = round(known.get(key, 0) + row[key], 2)
    known["peak_megabytes"] = max(known.get("peak_megabytes", 0), row["peak_megabytes"])
    known["faults"], known["said"] = row["faults"], row["said"]


def _run(reader: str, minutes: float) -> dict[str, Any]:
    started = time.monotonic()
    command = [sys.executable, __file__, "--child", reader, "--minutes", str(minutes)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, check=False)
    said = done.stdout + done.stderr
    cases = max(
        [0, *(int(n) for n in re.findall(r"#(\d+)\s", said)), *(int(n) for n in re.findall(r"Done (\d+) ", said))]
    )
    peak = max([0, *(int(n) for n in re.findall(r"rss: (\d+)Mb", said))])
    faults = int(done.returncode != 0) + int(peak > MEGABYTES)
    shown = "" if not faults else said[-3000:]
    row = {"reader": reader, "cases": cases, "minutes": round((time.monotonic() - started) / 60, 2)}
    print(f"{reader}: {cases} cases, {peak} MB, {'FAULT' if faults else 'no fault'}", flush=True)
    if shown:
        print(shown, flush=True)
    return row | {"peak_megabytes": peak, "faults": faults, "said": shown[-600:]}


def child(reader: str, seconds: float) -> int:
    """Run one reader until the time is over; an error of any other kind than ours ends the process."""
    import atheris

    os.environ.update({"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "critical"})
    folder = Path(tempfile.mkdtemp(prefix="plm-fuzz-"))
    read = READERS[reader]
    with atheris.instrument_imports(include=["converter"]):
        # What a reader imports late is instrumented as it is imported.
        for content in (*SEEDS.get(reader, ()), b"", b"{}"):
            with contextlib.suppress(ExportError):
                read(Case(folder, content))

    def one(content: bytes) -> None:
        try:
            read(Case(folder, content))
        except ExportError as error:
            str(error)

    corpus = folder / "corpus"
    corpus.mkdir()
    for i, seed in enumerate(SEEDS.get(reader, ())):
        (corpus / str(i)).write_bytes(seed)
    flags = [
        f"-max_total_time={int(seconds)}",
        f"-timeout={SECONDS_A_CASE}",
        f"-rss_limit_mb={MEGABYTES}",
        "-max_len=4096",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *flags, f"-artifact_prefix={folder}/"], one)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
