"""`plm-export [MODEL] --target …`: the default command."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.bounds.watch import NO_LIMITS, Limits
from converter.commands.caching import cache_options, wanted_cache
from converter.commands.flags import Flags, output_folder, recipe_table
from converter.commands.session import Session, json_option, limit_options, quiet_options
from converter.errors import UsageError
from converter.registry import names

if TYPE_CHECKING:
    from converter.context import DeviceMap
    from converter.package.output_folder import Output
    from converter.ranks.group import Ranks
    from converter.recipe import Recipe

STAGE = "METHOD[:KEY=VALUE,…]"
EPILOG = """\b
Examples:
  plm-export --target tflite                      the bundled sample model
  plm-export ./my-model --target tflite,cpu-int8 --eval dev.tsv -o out
  plm-export org/model --prune structured:heads=0.5,ffn=0.5 --distill soft --target cpu-int8
  plm-export ./my-model --target cpu-int8 --quantize static:range=mse
`plm-export list` lists targets and methods, `plm-export describe NAME` shows the options of one."""


def methods(kind: str, does: str) -> str:
    """Return the help of a flag that adds a stage; stages run in the order in which they are typed."""
    return f"{does}: {', '.join(names(f'converter.{kind}'))}."


@click.command("export", epilog=EPILOG, short_help="Export MODEL to packages and check them (the default command).")
@click.argument("model", required=False)
@click.option(
    "--target",
    "-t",
    multiple=True,
    metavar="NAME",
    help="Target to export to, such as tflite; repeat, or separate by commas.",
)
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Output folder; default: MODEL-export."
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file with all settings of a run; flags override it.",
)
@click.option(
    "--trim",
    multiple=True,
    metavar=STAGE,
    help=methods("trim", "Remove vocabulary entries unused in the calibration text"),
)
@click.option("--prune", multiple=True, metavar=STAGE, help=methods("prune", "Prune"))
@click.option("--share", multiple=True, metavar=STAGE, help=methods("share", "Share weights"))
@click.option("--factorize", multiple=True, metavar=STAGE, help=methods("factorize", "Factorize matrices (low rank)"))
@click.option("--distill", multiple=True, metavar=STAGE, help=methods("distill", "Distill from the source model"))
@click.option("--adapt", multiple=True, metavar=STAGE, help=methods("adapt", "Work less on easy texts"))
@click.option(
    "--quantize",
    multiple=True,
    metavar="[TARGET=]PRECISION[:…]",
    help="Precision of all targets, or of one: tflite=fp16; `auto` picks the fastest that passes.",
)
@click.option(
    "--task", metavar="NAME", help="Task, if not the one in the model's configuration; `plm-export list tasks`."
)
@click.option("--prompt", metavar="NAME", help="A prompt of the model that stands before every text; see its folder.")
@click.option("--language", metavar="CODE", help="What a translator of several languages answers in: de, deu_Latn, …")
@click.option("--revision", metavar="REV", help="Commit, tag or branch of a model on the Hugging Face Hub.")
@click.option("--calibration", metavar="FILE", help="Text to prune, distill and calibrate with (txt, jsonl, csv, tsv).")
@click.option("--eval", "evaluation", metavar="FILE", help="Labelled text to evaluate on (txt, jsonl, csv, tsv).")
@click.option("--columns", metavar="text=…,label=…", help="Columns of the data files by name; pair=… is a second text.")
@click.option("--label-map", metavar="FILE", help="What the data calls the model's labels (json, toml, tsv).")
@click.option("--max-length", type=int, metavar="N", help="Longest text in tokens; at most what the model takes.")
@click.option(
    "--max-drop", metavar="Xpt", help="Largest allowed drop of the metric: 0.5pt (or 0.005) is half a percentage point."
)
@click.option(
    "--confidence", type=float, metavar="P", help="Of each bound that decides on text of your own; default 0.95."
)
@click.option(
    "--slices", metavar="NAME,…", help="Kinds of text judged one by one: label, length, script, rare (all), or none."
)
@click.option(
    "--limit",
    multiple=True,
    metavar="[TARGET.]NAME=X",
    help="Override a gate limit: agreement=0.98; `plm-export describe limits`.",
)
@click.option("--seq-len", metavar="N,N,…", help="Sequence lengths of a TFLite file, in tokens: 16,32,64.")
@click.option(
    "--portable",
    is_flag=True,
    help="cpu-int8 with standard ONNX operators only: runs in every runtime, slower in ONNX Runtime.",
)
@click.option("--probes", type=int, metavar="N", help="How many texts are compared one by one; default 400.")
@click.option("--seed", type=int, metavar="N", help="Random seed; default 0.")
@click.option("--force", is_flag=True, help="Replace an earlier output in DIR; refused where DIR holds any other file.")
@click.option("--wait", is_flag=True, help="Wait while another run writes to DIR, instead of being refused.")
@click.option(
    "--require-device", is_flag=True, help="Fail if the target device (a CUDA GPU) is not available for the check."
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign packages that pass with this private key (PEM, Ed25519); see `plm-export sign`.",
)
@click.option("--require-license", is_flag=True, help="Refuse a model that does not state its licence.")
@cache_options
@limit_options(disk=True)
@click.option(
    "--device-map",
    type=click.Choice(["auto"]),
    help="auto: weights of MODEL for which there is no room in memory (--max-memory) stay on disk.",
)
@click.option("--dry-run", is_flag=True, help="Check all settings, print the recipe, export nothing.")
@json_option
@quiet_options
@click.pass_obj
def export(  # click passes one argument a flag
    session: Session,
    /,
    *,
    model: str | None,
    target: tuple[str, ...],
    output: Path | None,
    recipe: Path | None,
    trim: tuple[str, ...],
    prune: tuple[str, ...],
    share: tuple[str, ...],
    factorize: tuple[str, ...],
    distill: tuple[str, ...],
    adapt: tuple[str, ...],
    quantize: tuple[str, ...],
    task: str | None,
    prompt: str | None,
    language: str | None,
    revision: str | None,
    calibration: str | None,
    evaluation: str | None,
    columns: str | None,
    label_map: str | None,
    max_length: int | None,
    max_drop: str | None,
    confidence: float | None,
    slices: str | None,
    limit: tuple[str, ...],
    seq_len: str | None,
    portable: bool,
    probes: int | None,
    seed: int | None,
    force: bool,
    wait: bool,
    require_device: bool,
    sign: Path | None,
    require_license: bool,
    resume: bool,
    cache: str | None,
    cache_size: str | None,
    dry_run: bool,
    max_memory: int | None,
    max_disk: int | None,
    timeout: float | None,
    device_map: "DeviceMap | None",
) -> int:
    """Export MODEL to one package per --target, and check that each answers like MODEL.

    MODEL is a folder, an id on the Hugging Face Hub, or sample:NAME. Without it, the bundled sample is exported.
    """
    flags = Flags(
        model=model,
        target=target,
        output=output,
        recipe=recipe,
        trim=trim,
        prune=prune,
        share=share,
        factorize=factorize,
        distill=distill,
        adapt=adapt,
        quantize=quantize,
        task=task,
        prompt=prompt,
        language=language,
        revision=revision,
        calibration=calibration,
        evaluation=evaluation,
        columns=columns,
        label_map=label_map,
        max_length=max_length,
        max_drop=max_drop,
        confidence=confidence,
        slices=slices,
        limit=limit,
        seq_len=seq_len,
        portable=portable,
        probes=probes,
        seed=seed,
        force=force,
        wait=wait,
        require_device=require_device,
        sign=sign,
        require_license=require_license,
        resume=resume,
        cache=cache,
        cache_size=cache_size,
        dry_run=dry_run,
    )
    return run(session, flags, Limits(max_memory, max_disk, timeout), device_map)


def run(session: Session, flags: Flags, limits: Limits = NO_LIMITS, device_map: "DeviceMap | None" = None) -> int:
    """Run the export and show how it came out; returns the exit code."""
    from converter.package.output_folder import Output, resume_folder
    from converter.recipe import bind_recipe

    terminal = session.terminal
    refuse_misspelled_command(flags.model, session.commands)
    table = recipe_table(flags, session.argv)
    recipe = bind_recipe(table, where=str(flags.recipe) if flags.recipe else "recipe")
    out = output_folder(flags, recipe.model)
    session.resume = resume_folder(out)
    if flags.dry_run:
        return _dry_run(session, recipe, Output(out, force=flags.force))
    if "targets" not in table:
        terminal.say("No --target given: exporting to cpu-int8 (`plm-export list targets` lists all).")
    return _make(session, flags, recipe, out, _Bounds(limits, device_map))


@dataclass(frozen=True)
class _Bounds:
    """What the run may take of the machine."""

    limits: Limits
    device_map: "DeviceMap | None"


def _make(session: Session, flags: Flags, recipe: "Recipe", out: Path, bounds: _Bounds) -> int:
    from converter.ranks.group import Ranks, launched

    if not launched():
        return _export(session, flags, recipe, out, bounds, None)
    with session.terminal.hushed():
        ranks = Ranks.join()
    if ranks.rank:
        from converter.ranks.follow import follow

        with session.terminal.hushed():
            return follow(ranks, recipe, bounds.device_map, bounds.limits)
    from converter.ranks.watch import together

    with together(ranks, session.last_word):
        code = _export(session, flags, recipe, out, bounds, ranks)
    ranks.end(code)
    return code


def _export(session: Session, flags: Flags, recipe: "Recipe", out: Path, bounds: _Bounds, ranks: "Ranks | None") -> int:
    terminal = session.terminal
    terminal.say(f"Exporting {recipe.model} for {', '.join(t.name for t in recipe.targets)} to {out}/")
    with terminal.hushed():
        from converter.api import convert
        from converter.report.summary import report_table
        from converter.report.table import show

        progress = terminal.progress()
        with progress.task("Exporting"):
            result = convert(
                recipe,
                out,
                force=flags.force,
                wait=flags.wait,
                require_device=flags.require_device,
                sign=flags.sign,
                require_licence=flags.require_license,
                progress=progress,
                limits=bounds.limits,
                last_word=session.last_word,
                cache=wanted_cache(flags.cache, flags.cache_size, progress.note, resume=flags.resume),
                ranks=ranks,
                device_map=bounds.device_map,
            )
        if terminal.json:
            session.print_json(report_table(result))
        else:
            show(result, terminal)
    for target in result.targets:
        if target.error and not terminal.json:
            terminal.error(f"{target.target}: {target.error}", target.hint or "", target.code or "")
    return result.exit_code


def _dry_run(session: Session, recipe: "Recipe", output: "Output") -> int:
    import tomli_w

    from converter.model_folder.given import refuse_absent
    from converter.recipe import recipe_table as table_of

    refuse_absent(recipe)
    output.refuse()

    for target in recipe.targets:
        target.check_runtime()
    table = table_of(recipe)
    if session.terminal.json:
        session.print_json(table)
    else:
        session.terminal.result(tomli_w.dumps(table).rstrip("\n"))
    session.terminal.say("Nothing was exported (--dry-run).")
    return 0


def refuse_misspelled_command(word: str | None, commands: Sequence[str]) -> None:
    """Refuse a word that is no model, and nearly a command.

    Raises:
        UsageError: names the command that was meant.

    """
    import difflib

    if word is None or "/" in word or Path(word).exists():
        return
    close = difflib.get_close_matches(word, commands, n=1, cutoff=0.75)
    if close:
        raise UsageError(f"there is no model or command named {word!r}", hint=f"did you mean `plm-export {close[0]}`?")
