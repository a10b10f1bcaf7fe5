"""Write the figures of README and docs from the benchmark files: no number there is typed by hand.

python benchmarks/readme_table.py [--check]
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _gate_tables import device_tokenizers, mutations, proof_time
from _measure import RESULTS, ROOT
from _tables import (
    Cells,
    beside_source,
    elsewhere,
    error,
    graphs,
    judged,
    megabytes,
    number,
    on_cpu,
    part_of_text,
    table_of,
)
from _writing_tables import decoding, generation

BEGIN, END = "<!-- figures: begin (benchmarks/readme_table.py writes them) -->", "<!-- figures: end -->"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
GATE = ROOT / "docs" / "explanation" / "gate.md"
NOT_MEASURED = "Not measured yet: `make bench` does it.\n"
UNTIMED = ("memory", "vocabulary", "mutations", "proof_time")
SAY_IT = ("pipeline", "peers")
"""Name their CPU themselves."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a file is not up to date")
    given = parser.parse_args()
    stale = {path: made for path, made in files().items() if made != path.read_text(encoding="utf-8")}
    if given.check:
        return 1 if stale else 0
    for path, made in stale.items():
        path.write_text(made, encoding="utf-8")
    return 0


def files() -> dict[Path, str]:
    """Return the files as they are to be: the README shows one table, the page all, and the gate how it was tried."""
    gate = "\n".join(filter(None, (part("mutations", mutations), part("proof_time", proof_time))))
    shown = {README: part("pipeline", pipeline) or NOT_MEASURED, PAGE: figures(), GATE: gate or NOT_MEASURED}
    return {path: with_figures(path.read_text(encoding="utf-8"), made) for path, made in shown.items()}


def with_figures(text: str, figures: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit("there is no marked section for the figures")
    return f"{before}{BEGIN}\n\n{figures}\n{END}{after}"


def figures() -> str:
    writers = (
        ("pipeline", pipeline),
        ("peers", peers),
        ("cpu_profile", profile),
        ("mobile", mobile),
        ("device_tokenizers", device_tokenizers),
        ("menu", menu),
        ("families", families),
        ("pruning", pruning),
        ("distillation", distillation),
        ("recipes", recipes),
        ("sparsity", sparsity),
        ("vocabulary", vocabulary),
        ("quantize", quantizing),
        ("memory", memory),
        ("decoding", decoding),
        ("generation", generation),
    )
    parts = [made for name, write in writers if (made := part(name, write))]
    return "\n".join(parts) if parts else NOT_MEASURED


def part(name: str, write: Callable[[dict[str, Any]], str]) -> str:
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return ""
    table = json.loads(path.read_text(encoding="utf-8"))
    return write(table) if name in UNTIMED + SAY_IT else on_cpu(write(table), name, table)


def pipeline(table: dict[str, Any]) -> str:
    default = table["runs"]["default"]
    source = default["source"]
    metric = next(iter(source["metric"] or {}), None)
    machine, accuracy = table["machine"], number((source["metric"] or {}).get(metric))
    measured = f"**{default['seconds']:.0f} s** and {megabytes(default['peak_bytes'])} of memory"
    packages = {(t, row["precision"]): row for run in table["runs"].values() for t, row in run["packages"].items()}
    return table_of(
        f"Exporting `{default['model']}` to all three targets takes {measured} on {machine['cores']} cores\n"
        f"({machine['cpu']}); `benchmarks/pipeline.py`.",
        f"package | precision | size: | agreement: | {metric or 'metric'}: | ms per text: | verdict",
        [
            ("source", "float32", megabytes(source["size_bytes"]), "", accuracy, "", ""),
            *(package(target, row, metric) for (target, _), row in packages.items()),
        ],
    )


def package(target: str, row: dict[str, Any], metric: str | None) -> Cells:
    return (
        f"`{target}`",
        row["precision"],
        megabytes(row["size_bytes"]),
        number(row["agreement"]),
        number((row["metric"] or {}).get(metric)),
        number((row["milliseconds"] or {}).get("package"), 2),
        row["status"],
    )


def memory(table: dict[str, Any]) -> str:
    each = ", ".join(f"`{target}` {row['ratio']:.1f} ×" for target, row in table["targets"].items())
    writer = table.get("writer")
    more = ""
    if writer is not None:
        row, cpu = writer["cpu-int8"], writer["machine"]["cpu"]
        more = (
            f"One of the shape of GPT-2 124M ({megabytes(writer['weights_bytes'])}) takes {row['ratio']:.1f} × and "
            f"{row['seconds']:.0f} s\n({row['cpu_seconds']:.0f} s of CPU) on {cpu}, proof included.\n"
        )
    return (
        f"Conversion memory of a BERT-base-sized model ({megabytes(table['weights_bytes'])} of weights), above\n"
        f"what the imports alone take, as a multiple of those weights: {each}; `benchmarks/memory.py`.\n{more}"
    )


def peers(table: dict[str, Any]) -> str:
    return "\n".join(map(peers_on, table["machines"]))


def peers_on(entry: dict[str, Any]) -> str:
    sets = ", ".join(entry["instruction_sets"])
    return table_of(
        f"Compared with the best peers on **{entry['machine']['cpu']}** ({sets}), commit {entry['commit']},\n"
        f"{entry['threads']} thread, batch 1, without padding; `benchmarks/peers.py`:",
        "task | file | size: | metric: | agreement: | cosine: | ms per text: | speed (best peer = 1):",
        [
            (
                task,
                name.replace("a graph a length", "separate graphs"),
                megabytes(int(row["megabytes"] * 1e6)),
                number(row.get("accuracy", row.get("spearman"))),
                number(row["agreement"]),
                number(row["cosine"]),
                number(row["ms_per_text"], 2),
                number(row.get("speed_vs_best_peer"), 2),
            )
            for task, files in entry["tasks"].items()
            for name, row in files.items()
        ],
    )


def profile(table: dict[str, Any]) -> str:
    return table_of(
        "The int8 file against the best peer's, and against the time of its integer matrix products alone (the lower\n"
        "bound with these kernels), 1 thread, operator by operator in `benchmarks/results/cpu_profile.json`;\n"
        "`benchmarks/cpu_profile.py`:",
        "text | tokens: | peer, ms: | ours, ms: | speedup: | lower bound, ms: | ours / bound:",
        [
            (
                what,
                number(row["tokens"], 0),
                number(row["ms"]["peer"], 2),
                number(row["ms"]["ours"], 2),
                number(row["ours_times_as_fast"], 2),
                number(row["ms"]["bound"], 2),
                number(row["times_the_bound"], 2),
            )
            for what, row in (("SST-2 sentences", table["natural"]), ("128 tokens", table["length_128"]))
        ],
    )


def mobile(table: dict[str, Any]) -> str:
    return table_of(
        "The TFLite file (dynamic int8) with different graphs, 1 thread. Memory is in multiples of the file size:\n"
        "after the first call, after 872 texts of all lengths, and the private part of that (the rest are pages of\n"
        "the memory-mapped file, which the system may drop); `benchmarks/mobile.py`:",
        "graphs | size: | agreement: | ms per text: | load, ms: | first call, ms: | memory, first: | all: | private:",
        [
            (
                name,
                megabytes(row["size_bytes"]),
                number(row["agreement"]),
                number(row["ms_per_text"]["ours"], 2),
                number(row["load_ms"], 0),
                number(row["first_call_ms"], 0),
                number(row["memory_over_file"], 2),
                number(row["memory_used_over_file"], 2),
                number(row["memory_own_over_file"], 2),
            )
            for name, row in table["forms"].items()
        ],
    )


def menu(table: dict[str, Any]) -> str:
    return table_of(
        "Every precision of `tflite` on `sst2-minilm` (accuracy), two of them on token classifiers (entity F1): the\n"
        "worst error relative to the output range, ms on 1 thread, seconds of the whole command; `benchmarks/menu.py`:",
        "precision | size: | agreement: | metric (source): | worst error: | ms per text: | seconds: | verdict",
        [
            (
                f"{name}{part_of_text(row)}{elsewhere(row, table)}",
                megabytes(row["size_bytes"]),
                number(row["agreement"]),
                beside_source(row) if row["metric"] else "",
                error(row["worst_error"]),
                number(row.get("ms_per_text"), 2),
                number(row["command_seconds"], 0),
                row["status"] or "",
            )
            for name, row in table["rows"].items()
        ],
    )


def families(table: dict[str, Any]) -> str:
    return table_of(
        "Every encoder family through the target `tflite`: a small model of each, trained for the test; the error is\n"
        "the worst of all texts, relative to the output range; `benchmarks/families.py`:",
        "family | graphs | error, float32: | agreement, int8: | accuracy, int8 (source): | size, float32: | int8: | "
        "seconds, float32: | int8: | verdicts",
        [
            (
                f"{name}{elsewhere(runs['int8'], table)}",
                graphs(runs["int8"]["graphs"], runs["float32"]["graphs"]),
                error(runs["float32"]["worst_error"]),
                number(runs["int8"]["agreement"]),
                beside_source(runs["int8"]) if runs["int8"]["metric"] else "",
                *(megabytes(run["size_bytes"]) for run in runs.values()),
                *(number(run["seconds"], 0) for run in runs.values()),
                ", ".join(run["status"] or "error" for run in runs.values()),
            )
            for name, runs in table["families"].items()
        ],
    )


def pruning(table: dict[str, Any]) -> str:
    return table_of(
        "Structured pruning without retraining, static int8 packages; speedup over the unpruned package, run in turn\n"
        "with it, one thread; `budget` is `structured:speedup=…`, without labels; `benchmarks/pruning.py`:",
        "data | method | speedup: | dev: | test: | size: | minutes:",
        [
            (
                data,
                name,
                *judged(row),
                megabytes(row["size_bytes"]),
                number(row["prune_seconds"] / 60, 1),
            )
            for data, methods in table["rows"].items()
            for name, row in methods.items()
        ],
    )


def vocabulary(table: dict[str, Any]) -> str:
    return table_of(
        "Vocabulary trimmed to the corpus, and embeddings compressed with a codebook; `benchmarks/vocabulary.py`:",
        "model and text | target | file: | agreement: | metric (source): | verdict",
        [
            (
                name,
                f"`{target}`",
                megabytes(run[target]["model_bytes"]),
                number(run[target]["agreement"]),
                beside_source(run[target]),
                run[target]["status"],
            )
            for name, run in table["runs"].items()
            for target in ("cpu-int8", "tflite")
            if target in run
        ],
    )


def distillation(table: dict[str, Any]) -> str:
    return table_of(
        "Pruned to a speed and distilled on the 6 920 training sentences of SST-2, static int8 packages; speedup\n"
        "as above, minutes of pruning and training together; `benchmarks/distillation.py`:",
        "goal | speedup: | dev: | test: | size: | minutes:",
        [
            (
                name if name == "dense" else f"{name} ×",
                *judged(row),
                megabytes(row["size_bytes"]),
                number(row["compress_seconds"] / 60, 1),
            )
            for name, row in table["rows"].items()
        ],
    )


def recipes(table: dict[str, Any]) -> str:
    return table_of(
        "The shipped recipes on `sst2-minilm`, `cpu-int8`; speedup over the static int8 package of the unchanged\n"
        "model; `benchmarks/recipes.py`:",
        "recipe | speedup: | dev: | test: | agreement: | size: | minutes: | verdict",
        [
            (
                name,
                *judged(row),
                number(row["agreement"]),
                megabytes(row["size_bytes"]),
                number(row["seconds"] / 60, 1),
                row["gate"],
            )
            for name, row in table["rows"].items()
        ],
    )


def sparsity(table: dict[str, Any]) -> str:
    return table_of(
        "Unstructured, N:M and block sparsity without retraining (`movement`, `obs-distilled`: two epochs),\n"
        "static int8: a compressed archive gets smaller, nothing gets faster; `benchmarks/sparsity.py`:",
        "method and pattern | zeros in the file: | speedup: | dev: | test: | file: | archive:",
        [
            (
                name,
                number(row["zeros"], 2),
                *judged(row),
                megabytes(row["size_bytes"]),
                megabytes(row["deflated_bytes"]),
            )
            for name, row in table["rows"].items()
        ],
    )


def quantizing(table: dict[str, Any]) -> str:
    each = ", ".join(
        f"`{name}` {row['seconds']:.0f} s and {row['ratio']:.1f} ×" for name, row in table["precisions"].items()
    )
    return (
        f"Quantizing a BERT-base-sized model for a CPU with {table['texts']} texts, and its memory as a multiple\n"
        f"of the float32 weights: {each}; `benchmarks/quantize.py`.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
