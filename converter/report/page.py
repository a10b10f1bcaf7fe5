"""`report.html`: one page that needs nothing else, drawn from the table of `report_table`."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from converter.bounds.printable import printable
from converter.report import charts, words
from converter.report.table import judged_on, typical_error, worst_error

MARKS = {"PASS": "✓", "FAIL": "✕", "NOT_RUN": "○"}
SPOKEN = {"PASS": "PASS", "FAIL": "FAIL", "NOT_RUN": "NOT RUN"}
CHECK_TITLES = {
    "max_error": "worst error",
    "mean_error": "mean error",
    "agreement": "agreement",
    "metric": "task metric",
    "finite": "no NaN or infinity",
    "stability": "independent of padding and batch",
    "device": "on the target device",
    "generation": "text that it writes on its own",
    "stops": "where its texts end",
    "perplexity": "perplexity over the source's",
    "slices": "kinds of text",
    "cache": "with a cache as without",
    "stored once": "no weight is there twice",
    "other clients": "onnxruntime-genai is told the same",
}


def page(table: Mapping[str, Any]) -> str:
    """Return the page. Everything that comes from a model, a text or an error is escaped."""
    import tomli_w

    environment = page_environment("report", finalize=_shown)
    environment.globals |= {"marks": MARKS, "spoken": SPOKEN, "titles": CHECK_TITLES, "words": words}
    return environment.get_template("page.html.j2").render(
        table=table,
        headline=headline(table["targets"], table["budgets_missed"]),
        made=datetime.fromisoformat(table["made"]).strftime("%-d %B %Y, %H:%M UTC"),
        sizes=charts.bars(_rows(table, "size_bytes", lambda t: t["size_bytes"])),
        times=charts.bars(_rows(table, "milliseconds", lambda t: _milliseconds(t).get("package"))),
        targets=[_target(t, table["source"]) for t in table["targets"]],
        compression=_compression(table),
        stages=_stages(table),
        recipe=tomli_w.dumps(table["recipe"]).strip(),
    )


def page_environment(*rooms: str, finalize: Callable[[Any], Any] | None = None) -> Environment:
    """Return what renders the page templates of some folders of `converter`; all that they show is escaped."""
    return Environment(
        loader=ChoiceLoader([PackageLoader("converter", room) for room in rooms]),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def headline(targets: Sequence[Mapping[str, Any]], missed: Sequence[str] = ()) -> dict[str, str]:
    """Return the verdict of the whole run as status and sentence."""
    n = len(targets)
    failed = [t["target"] for t in targets if t["status"] == "FAIL"]
    unproven = [t["target"] for t in targets if t["status"] == "NOT_RUN"]
    if failed:
        which = "The package" if n == 1 else f"{len(failed)} of {n} packages"
        return {"status": "FAIL", "text": f"{which} failed: {', '.join(failed)}"}
    if missed:
        return {"status": "FAIL", "text": f"The closest result is kept, but {'; '.join(missed)}"}
    if unproven:
        which = "The package is" if n == 1 else f"{len(unproven)} of {n} packages are"
        return {"status": "NOT_RUN", "text": f"{which} made, but not proven: {', '.join(unproven)}"}
    which = "The package answers" if n == 1 else f"All {n} packages answer"
    return {"status": "PASS", "text": f"{which} like the source model, within the limits"}


def _milliseconds(target: Mapping[str, Any]) -> Mapping[str, Any]:
    return target["evaluation"]["milliseconds"] if target["evaluation"] else {}


def _rows(table: Mapping[str, Any], key: str, of: Any) -> list[tuple[str, float | None, bool]]:
    return [("source", table["source"][key], True), *((t["target"], of(t), False) for t in table["targets"])]


def _target(target: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    evaluation = target["evaluation"]
    not_run = [c["name"] for c in evaluation["checks"] if c["status"] == "NOT_RUN"] if evaluation else []
    made = {
        **target,
        "smaller": words.smaller(source["size_bytes"], target["size_bytes"]),
        "not_run": [CHECK_TITLES.get(name, name) for name in not_run],
        "devices": target.get("devices", []),
        "judged_on": judged_on(evaluation),
        "slices": charts.slices(evaluation["facts"]) if evaluation else [],
    }
    if evaluation is None:
        return made | {
            "faster": "",
            "typical_error": None,
            "worst_error": None,
            "worst_text": None,
            "histogram": None,
            "lengths": [],
            "signatures": [],
            "writing": None,
            "metrics": [],
        }
    times = evaluation["milliseconds"]
    limits = [c["limit"] for c in evaluation["checks"] if c["name"] == "max_error" and c["limit"]]
    return made | {
        "faster": words.times(times.get("source"), times.get("package")),
        "typical_error": typical_error(evaluation),
        "worst_error": worst_error(evaluation),
        "worst_text": _worst_text(evaluation["worst"]),
        "histogram": charts.histogram(evaluation["errors"], limits[0] if limits else None),
        "lengths": charts.by_length(times),
        "signatures": charts.by_signature(evaluation["facts"]),
        "writing": charts.writing_speed(evaluation["facts"]),
        "metrics": _metrics(evaluation),
        "drift": charts.drift(evaluation["facts"]),
    }


def _shown(value: Any) -> Any:
    """Return text from outside as it is to be seen; drawings of ours stay as they are."""
    return printable(value) if type(value) is str else value


def _worst_text(worst: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the text of the largest error; None where no text has a finite one."""
    found = [w for w in worst if w["error"] is not None]
    return max(found, key=lambda w: w["error"])["text"] if found else None


def _metrics(evaluation: Mapping[str, Any]) -> list[tuple[str, float | None, float | None]]:
    return [(name, value, evaluation["source_metric"].get(name)) for name, value in evaluation["metric"].items()]


def _compression(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**record, "curve": charts.curve(record["facts"].get("loss_curve")), "layers": charts.layers(record["facts"])}
        for record in table["compress_records"]
    ]


def _stages(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return every stage once, with what it was run for: targets share the stages that are equal."""
    found: list[tuple[list[str], Mapping[str, Any]]] = [(["all"], r) for r in table["compress_records"]]
    for target in table["targets"]:
        for record in target["records"]:
            same = next((names for names, known in found if known == record), None)
            if same is None:
                found.append(([target["target"]], record))
            else:
                same.append(target["target"])
    return [(", ".join(names), record) for names, record in found]
