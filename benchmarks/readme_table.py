"""Write the figures of the README from the benchmark files: no number there is typed by hand.

python benchmarks/readme_table.py [--check]
"""

import argparse
import json
import sys
from typing import Any

from _measure import RESULTS, ROOT

BEGIN, END = "<!-- figures: begin (benchmarks/readme_table.py writes them) -->", "<!-- figures: end -->"
README = ROOT / "README.md"


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
        ("pruning", pruning),
        ("vocabulary", vocabulary),
        ("quantize", quantizing),
        ("memory", memory),
    )
    parts = [made for name, write in writers if (made := part(name, write))]
    return "\n".join(parts) if parts else "Not measured yet: `make bench` does it.\n"


def part(name: str, write: Any) -> str:
    path = RESULTS / f"{name}.json"
    return write(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""


def pipeline(table: dict[str, Any]) -> str:
    default = table["runs"]["default"]
    source = default["source"]
    metric = next(iter(source["metric"] or {}), None)
    machine, accuracy = table["machine"], number((source["metric"] or {}).get(metric))
    measured = f"**{default['seconds']:.0f} s** and {megabytes(default['peak_bytes'])} of memory"
    rows = [
        f"`{default['model']}`, all three targets: {measured} on {machine['cores']} cores ({machine['cpu']});",
        "`benchmarks/pipeline.py`.",
        "",
        f"| package | precision | size | agreement | {metric or 'metric'} | ms per text | verdict |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
        f"| source | float32 | {megabytes(source['size_bytes'])} | | {accuracy} | | |",
    ]
    seen = set()
    for run in table["runs"].values():
        for target, row in run["packages"].items():
            if (target, row["precision"]) not in seen:
                seen.add((target, row["precision"]))
                rows.append(package(target, row, metric))
    return "\n".join(rows) + "\n"


def package(target: str, row: dict[str, Any], metric: str | None) -> str:
    cells = (
        f"`{target}`",
        row["precision"],
        megabytes(row["size_bytes"]),
        number(row["agreement"]),
        number((row["metric"] or {}).get(metric)),
        number((row["milliseconds"] or {}).get("package"), 2),
        row["status"],
    )
    return row_of(*cells)


def memory(table: dict[str, Any]) -> str:
    each = ", ".join(f"`{target}` {row['ratio']:.1f} ×" for target, row in table["targets"].items())
    return (
        f"Conversion memory of a BERT-base-sized model ({megabytes(table['weights_bytes'])} of weights), above\n"
        f"what the imports alone take, as a multiple of those weights: {each}; `benchmarks/memory.py`.\n"
    )


def peers(table: dict[str, Any]) -> str:
    rows = [
        f"Beside the best peers, one run, {table['threads']} thread, batch 1, natural lengths; `benchmarks/peers.py`:",
        "",
        "| task | file | size | metric | agreement | cosine | ms per text | speed, best peer = 1 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for task, files in table["tasks"].items():
        for name, row in files.items():
            agreement = row["agreement"] if row["agreement"] == row["agreement"] else None  # NaN: none for scores
            cells = (
                task,
                name,
                megabytes(int(row["megabytes"] * 1e6)),
                number(row.get("accuracy", row.get("spearman"))),
                number(agreement),
                number(row["cosine"]),
                number(row["ms_per_text"], 2),
                number(row.get("speed_vs_best_peer"), 2),
            )
            rows.append(row_of(*cells))
    return "\n".join(rows) + "\n"


def profile(table: dict[str, Any]) -> str:
    rows = [
        "The int8 file beside the best peer's, and beside the time of its integer products alone (no file on these",
        "kernels can be faster), 1 thread; operator by operator in `benchmarks/results/cpu_profile.json`:",
        "",
        "| text | tokens | peer, ms | ours, ms | times as fast | products alone, ms | ours over that |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, what in (("natural", "SST-2 sentences"), ("length_128", "128 tokens")):
        row, ms = table[name], table[name]["ms"]
        cells = (what, f"{row['tokens']:.0f}", *(number(ms[k], 2) for k in ("peer", "ours")))
        rest = (number(row["ours_times_as_fast"], 2), number(ms["bound"], 2), number(row["times_the_bound"], 2))
        rows.append(row_of(*cells, *rest))
    return "\n".join(rows) + "\n"


def mobile(table: dict[str, Any]) -> str:
    rows = [
        "The TFLite file (dynamic int8) by how it takes lengths, 1 thread; `benchmarks/mobile.py`:",
        "",
        "| lengths | size | agreement | ms per text | load, ms | first call, ms | memory over the file |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in table["forms"].items():
        cells = (name, megabytes(row["size_bytes"]), number(row["agreement"]), number(row["ms_per_text"]["ours"], 2))
        rest = (number(row["load_ms"], 0), number(row["first_call_ms"], 0), number(row["memory_over_file"], 2))
        rows.append(row_of(*cells, *rest))
    return "\n".join(rows) + "\n"


def pruning(table: dict[str, Any]) -> str:
    rows = [
        "Structured pruning without retraining, static int8 packages; speed is measured beside the unpruned",
        "package, in turns, one thread; `budget` is `structured:speedup=…`, without labels; `benchmarks/pruning.py`:",
        "",
        "| data | method | speed | dev | test | size | minutes |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for data, methods in table["rows"].items():
        for name, row in methods.items():
            cells = (data, name, number(row["speedup"], 2), number(row["dev"]), number(row["test"]))
            rest = (megabytes(row["size_bytes"]), number(row["prune_seconds"] / 60, 1))
            rows.append(row_of(*cells, *rest))
    return "\n".join(rows) + "\n"


def vocabulary(table: dict[str, Any]) -> str:
    rows = [
        "A vocabulary cut to the corpus, and a codebook for the embedding; `benchmarks/vocabulary.py`:",
        "",
        "| model and text | target | file | agreement | metric (source) | verdict |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name, run in table["runs"].items():
        for target in ("cpu-int8", "tflite"):
            row = run.get(target)
            if row is None:
                continue
            metric = next(iter(row["metric"]), "")
            values = f"{number(row['metric'].get(metric))} ({number((row['source_metric'] or {}).get(metric))})"
            cells = (
                name,
                f"`{target}`",
                megabytes(row["model_bytes"]),
                number(row["agreement"]),
                values,
                row["status"],
            )
            rows.append(row_of(*cells))
    return "\n".join(rows) + "\n"


def quantizing(table: dict[str, Any]) -> str:
    each = ", ".join(
        f"`{name}` {row['seconds']:.0f} s and {row['ratio']:.1f} ×" for name, row in table["precisions"].items()
    )
    return (
        f"Quantizing a BERT-base-sized model for a CPU with {table['texts']} texts, and its memory as a multiple\n"
        f"of the float32 weights: {each}; `benchmarks/quantize.py`.\n"
    )


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
