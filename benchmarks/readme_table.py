"""Write the figures of the README from the benchmark files: no number there is typed by hand.

python benchmarks/readme_table.py [--check]
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from _measure import RESULTS, ROOT
from _tables import (
    Cells,
    beside_source,
    elsewhere,
    error,
    judged,
    megabytes,
    number,
    on_cpu,
    part_of_text,
    table_of,
)

BEGIN, END = "<!-- figures: begin (benchmarks/readme_table.py writes them) -->", "<!-- figures: end -->"
README = ROOT / "README.md"
UNTIMED = ("memory", "vocabulary")
SAY_IT = ("pipeline", "peers")
"""Name their CPU themselves."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 where the README is not up to date"
    )
    given = parser.parse_args()
    text = README.read_text(encoding="utf-8")
    made = with_figures(text, figures())
    if given.check:
        return 0 if made == text else 1
    README.write_text(made, encoding="utf-8")
    return 0


def with_figures(text: str, figures: str) -> str:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit("the README has no marked section for the figures")
    return f"{before}{BEGIN}\n\n{figures}\n{END}{after}"


def figures() -> str:
    writers = (
        ("pipeline", pipeline),
        ("peers", peers),
        ("cpu_profile", profile),
        ("mobile", mobile),
        ("menu", menu),
        ("families", families),
        ("pruning", pruning),
        ("distillation", distillation),
        ("recipes", recipes),
        ("sparsity", sparsity),
        ("vocabulary", vocabulary),
        ("quantize", quantizing),
        ("memory", memory),
    )
    parts = [made for name, write in writers if (made := part(name, write))]
    return "\n".join(parts) if parts else "Not measured yet: `make bench` does it.\n"


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
        f"`{default['model']}`, all three targets: {measured} on {machine['cores']} cores ({machine['cpu']});\n"
        "`benchmarks/pipeline.py`.",
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
    return (
        f"Conversion memory of a BERT-base-sized model ({megabytes(table['weights_bytes'])} of weights), above\n"
        f"what the imports alone take, as a multiple of those weights: {each}; `benchmarks/memory.py`.\n"
    )


def peers(table: dict[str, Any]) -> str:
    return "\n".join(map(peers_on, table["machines"]))


def peers_on(entry: dict[str, Any]) -> str:
    sets = ", ".join(entry["instruction_sets"])
    return table_of(
        f"Beside the best peers on **{entry['machine']['cpu']}** ({sets}), one run of commit {entry['commit']},\n"
        f"{entry['threads']} thread, batch 1, natural lengths; `benchmarks/peers.py`:",
        "task | file | size: | metric: | agreement: | cosine: | ms per text: | speed, best peer = 1:",
        [
            (
                task,
                name,
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
        "The int8 file beside the best peer's, and beside the time of its integer products alone (no file on these\n"
        "kernels can be faster), 1 thread, operator by operator in `benchmarks/results/cpu_profile.json`;\n"
        "`benchmarks/cpu_profile.py`:",
        "text | tokens: | peer, ms: | ours, ms: | times as fast: | products alone, ms: | ours over that:",
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
        "The TFLite file (dynamic int8) by how it takes lengths, 1 thread. Memory is in multiples of the file: after\n"
        "the first call, after 872 texts of all lengths, and what of that is the process's own (the rest are pages of\n"
        "the file, which the system may drop); `benchmarks/mobile.py`:",
        "lengths | size: | agreement: | ms per text: | load, ms: | first call, ms: | memory, first: | all: | own:",
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
        "Every precision of `tflite` on `sst2-minilm` (accuracy), two of them on taggers (entity F1): the worst error\n"
        "over the output range, ms on 1 thread, seconds of the whole command; `benchmarks/menu.py`:",
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
        "Every encoder family through the target `tflite`: a small model of each, taught here; error is the worst of\n"
        "all texts over the output range; `benchmarks/families.py`:",
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


def graphs(int8: str | None, float32: str | None) -> str:
    """Return what both files have, or what each has."""
    if float32 in {None, int8}:
        return int8 or ""
    return f"{int8 or 'none'}; float32: {float32}"


def pruning(table: dict[str, Any]) -> str:
    return table_of(
        "Structured pruning without retraining, static int8 packages; speed is measured beside the unpruned\n"
        "package, in turns, one thread; `budget` is `structured:speedup=…`, without labels; `benchmarks/pruning.py`:",
        "data | method | speed: | dev: | test: | size: | minutes:",
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
        "A vocabulary cut to the corpus, and a codebook for the embedding; `benchmarks/vocabulary.py`:",
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
        "Pruned to a speed and distilled on the 6 920 training sentences of SST-2, static int8 packages; speed as\n"
        "above, time of pruning and training together; `benchmarks/distillation.py`:",
        "asked | speed: | dev: | test: | size: | minutes:",
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
        "The shipped recipes on `sst2-minilm`, `cpu-int8`; speed is measured beside the static int8 package of the\n"
        "unchanged model; `benchmarks/recipes.py`:",
        "recipe | speed: | dev: | test: | agreement: | size: | minutes: | verdict",
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
        "Weights set to zero one by one, N:M or in blocks, without retraining (`movement`, `obs-distilled`: two\n"
        "passes over the text), static int8: an archive gets smaller, nothing gets faster; `benchmarks/sparsity.py`:",
        "method and pattern | zeros in the file: | speed: | dev: | test: | file: | archive:",
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
