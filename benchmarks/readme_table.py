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
    parts = [
        made
        for name, write in (("pipeline", pipeline), ("memory", memory), ("peers", peers))
        if (made := part(name, write))
    ]
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
    return f"| {' | '.join(cells)} |"


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
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
