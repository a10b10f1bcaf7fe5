"""What a manifest says of a package, held to the package itself and to what this version knows of its target."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import ExportError, GateFailed, PackageDamaged
from converter.model_folder.labels import label_line
from converter.package.golden import ANSWER, MAX_VALUES, N_TEXTS, WRITTEN
from converter.package.schema import Format3
from converter.validate.checks import Check, Status, status_of

if TYPE_CHECKING:
    from converter.graphs import GraphSpec
    from converter.package.golden import Golden
    from converter.package.schema import Manifest
    from converter.target import Runner, Target
    from converter.task import Task

REBUILD = "download the package again, or rebuild it"
LABELS_FILE = "labels.txt"
RANGE_OVER_JUDGED, RANGE_OVER_RECORDED = 10, 100
"""How much wider than that of the judged texts, and of the recorded ones, the range over all probes is at most."""


def target_of(folder: Path, manifest: Mapping[str, Any]) -> "Target":
    """Return the target of a package, with its options.

    Raises:
        PackageDamaged: this version has no such target, or not with those options or that precision.

    """
    from converter.binding import bind
    from converter.registry import target_class

    try:
        cls = target_class(manifest["target"])
        target = bind(cls, manifest["target_options"], "target_options")
        known = target.menu()
    except ExportError as error:
        raise PackageDamaged(str(error), where=str(folder), hint=error.hint) from None
    precision = manifest["precision"].partition(":")[0]
    if precision not in known:
        raise PackageDamaged(f"{manifest['target']} has no precision {precision!r}", where=str(folder), hint=REBUILD)
    return target


def check_tolerance(folder: Path, manifest: "Manifest", target: "Target") -> None:
    """Refuse a tolerance above the precision's own: with it any model would replay."""
    own = target.menu()[manifest.precision_name].tolerance
    if not 0 < manifest.replay_tolerance <= own:
        raise PackageDamaged(
            f"the manifest allows recorded outputs to change by {manifest.replay_tolerance:g} of their range; "
            f"{manifest.target} packages of the precision {manifest.precision_name} are replayed within {own:g}",
            where=str(folder),
            hint=REBUILD,
        )


def check_model_files(folder: Path, manifest: "Manifest", target: "Target", specs: "Mapping[str, GraphSpec]") -> None:
    """Refuse a manifest whose models are other files than those that are opened."""
    opened = {name: path.relative_to(folder).as_posix() for name, path in target.model_files(folder, specs).items()}
    for graph, file in manifest.graph_files.items():
        if opened.get(graph) != file:
            raise PackageDamaged(
                f"the manifest says that the model {graph} is {file}, and a {manifest.target} package has it in "
                f"{opened.get(graph, 'no file')}",
                where=str(folder),
                hint=REBUILD,
            )


def check_labels(folder: Path, manifest: "Manifest", task: "Task") -> None:
    """Refuse labels that are not those of the shipped configuration, and a `labels.txt` that has others."""
    shipped = list(task.labels)
    if manifest.labels != shipped:
        raise PackageDamaged(
            f"the manifest has the labels {_shown(manifest.labels)}, config.json has {_shown(shipped)}",
            where=str(folder),
            hint=REBUILD,
        )
    path = folder / LABELS_FILE
    if LABELS_FILE in manifest.files:
        lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
        if lines != [label_line(name) for name in shipped]:
            raise PackageDamaged(
                f"{LABELS_FILE} has the labels {_shown(lines)}, config.json has {_shown(shipped)}",
                where=str(folder),
                hint=REBUILD,
            )


def _shown(labels: list[str]) -> str:
    return repr(labels[:5]) + (f" (and {len(labels) - 5} more)" if len(labels) > 5 else "")


def check_runner(folder: Path, manifest: "Manifest", runner: "Runner") -> None:
    """Refuse lengths and batch sizes that the opened model does not have."""
    longest = runner.max_length
    wrong = [
        f"{name} {said}, the model has {found}"
        for name, said, found in (
            ("lengths", manifest.lengths, list(runner.lengths)),
            ("max_batch", manifest.max_batch, runner.max_batch),
            ("max_length", manifest.max_length, min(manifest.max_length, longest or manifest.max_length)),
        )
        if said != found
    ]
    if wrong:
        raise PackageDamaged(f"the manifest has {wrong[0]}", where=str(folder), hint=REBUILD)


def check_golden(folder: Path, manifest: "Manifest", golden: "Golden") -> None:
    """Refuse golden vectors that are fewer than were sealed, or measured by a range that is not the outputs' own."""
    n, least = len(golden.examples), _least_texts(manifest, golden)
    if isinstance(manifest, Format3):
        least = max(least, manifest.golden.texts)
    if n < least:
        raise PackageDamaged(
            f"there are {n} golden texts, and at least {least} are sealed with a package that was judged on "
            f"{manifest.gate.n_probes} texts",
            where=str(folder),
            hint=REBUILD,
        )
    for name, value in golden.output_range.items():
        if not 0 <= value <= _widest_range(manifest, golden, name):
            raise PackageDamaged(
                f"the golden vectors have the range {value:g} of {name}, which its values do not have",
                where=str(folder),
                hint=REBUILD,
            )
    if any(set(outputs) != set(golden.package[0]) for outputs in (*golden.package, *golden.source)):
        raise PackageDamaged("some golden texts lack outputs that others have", where=str(folder), hint=REBUILD)
    sealed = (manifest.golden.sums, manifest.golden.calls) if isinstance(manifest, Format3) else (0, 0)
    if len(golden.stored.names) < sealed[0] or len(golden.sweep.calls) < sealed[1]:
        raise PackageDamaged(
            "the golden vectors lack sums of weights, or calls over the vocabulary, that were sealed",
            where=str(folder),
            hint=REBUILD,
        )


def _widest_range(manifest: "Manifest", golden: "Golden", name: str) -> float:
    """Return what the range of an output over all probes can be at most, by what the gate saw and what is recorded."""
    values = [outputs[name] for outputs in golden.source if name in outputs and outputs[name].size]
    if not values:
        return float("inf")  # the package has no such output, so that nothing is measured by it
    spread = max(float(v.max()) for v in values) - min(float(v.min()) for v in values)
    seen = manifest.gate.facts.get("output_range")
    # The gate's is over all probes, but over texts that are cut to what the package takes.
    judged = seen.get(name) if isinstance(seen, dict) else None
    limits = [RANGE_OVER_RECORDED * max(spread, 1e-6)]
    return min([*limits, RANGE_OVER_JUDGED * judged] if isinstance(judged, float) else limits)


def check_written(folder: Path, golden: "Golden", task: "Task") -> None:
    """Refuse golden texts of a model that writes without what it wrote: then nothing would be written again."""
    if task.kind != "encoder" and not all({ANSWER, WRITTEN} <= set(ids) for ids in golden.ids):
        raise PackageDamaged(
            "the golden texts lack what source and package wrote after them", where=str(folder), hint=REBUILD
        )


def _least_texts(manifest: "Manifest", golden: "Golden") -> int:
    """Return how many golden texts there must be: fewer than `N_TEXTS` where there were fewer, or outputs are wide."""
    judged = manifest.gate.n_probes
    if any(e.window for e in golden.examples):
        return min(2, judged)  # of a few long contexts, each has many windows
    lengths = [max(1, max((v.shape[-1] for v in ids.values() if v.ndim), default=1)) for ids in golden.ids]
    sizes = [sum(v.size for v in outputs.values()) for outputs in golden.package]
    widest = max(size / n for size, n in zip(sizes, lengths, strict=True)) * manifest.max_length
    return min(2 if sum(sizes) + widest > MAX_VALUES else N_TEXTS, judged)


def check_answers(folder: Path, manifest: "Manifest", n_same: int) -> None:
    """Refuse fewer golden texts that are answered as the source did than there were when it was sealed."""
    if isinstance(manifest, Format3) and n_same < manifest.golden.same_answers:
        raise PackageDamaged(
            f"{n_same} golden texts are answered as by the source, {manifest.golden.same_answers} were when the "
            "package was sealed",
            where=str(folder),
            hint=REBUILD,
        )


def check_proven(folder: Path, manifest: "Manifest") -> None:
    """Refuse a package that its gate did not pass.

    Raises:
        GateFailed: the verdict is not PASS, or does not follow from the checks that stand below it.

    """
    gate = manifest.gate
    known = {c.name: c.status for c in gate.checks}
    strange = next((f"{n}: {s}" for n, s in known.items() if s not in set(Status)), None)
    if gate.status != Status.PASS or strange is not None:
        raise GateFailed(
            f"this package was not proven: its gate says {strange or gate.status}",
            where=str(folder),
            hint="`plm-export inspect` shows the checks; export it again with text of your application (--eval)",
        )
    found = status_of([Check(c.name, Status(c.status), c.value, c.limit) for c in gate.checks])
    if found is not Status.PASS:
        raise GateFailed(
            f"this package was not proven: its gate says PASS, and from its checks follows {found}", where=str(folder)
        )


def safe_on(manifest: "Manifest") -> dict[str, Any]:
    """Return the instruction sets that the manifest calls safe; nothing where it says nothing of the kind."""
    sets = manifest.gate.facts.get("instruction_sets")
    safe = sets.get("safe") if isinstance(sets, dict) else None
    return {"instruction_sets": safe} if isinstance(safe, list) else {}
