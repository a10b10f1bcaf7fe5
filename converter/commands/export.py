"""`plm-export [MODEL] --target …`: the default command."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from converter.commands.flags import Flags, output_folder, recipe_table
from converter.commands.session import Session, json_option, quiet_options

if TYPE_CHECKING:
    from converter.recipe import Recipe

EPILOG = """\b
Examples:
  plm-export --target tflite                      the bundled sample, to look around
  plm-export ./my-model --target tflite,cpu-int8 --eval dev.tsv -o out
  plm-export org/model --prune structured:heads=0.5,ffn=0.5 --distill logits --target cpu-int8
  plm-export ./my-model --target cpu-int8 --quantize static:range=mse
`plm-export list` names what there is, `plm-export describe NAME` its options."""


@click.command("export", epilog=EPILOG, short_help="Make packages of MODEL and prove them (the default command).")
@click.argument("model", required=False)
@click.option("--target", "-t", multiple=True, metavar="NAME", help="What to make; repeat it, or separate by commas.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="DIR", help="Where to; default: MODEL-export.")
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE", help="A TOML recipe; flags overrule it.")
@click.option(
    "--trim", multiple=True, metavar="METHOD[:KEY=VALUE,…]", help="Drop what the text never takes: vocabulary."
)
@click.option("--prune", multiple=True, metavar="METHOD[:KEY=VALUE,…]", help="A pruning stage, in the order typed.")
@click.option("--share", multiple=True, metavar="METHOD[:KEY=VALUE,…]", help="A sharing stage: layers, codebook.")
@click.option(
    "--factorize", multiple=True, metavar="METHOD[:KEY=VALUE,…]", help="A low-rank stage: embeddings, linears."
)
@click.option("--distill", multiple=True, metavar="METHOD[:KEY=VALUE,…]", help="A distillation stage, likewise.")
@click.option(
    "--quantize", multiple=True, metavar="[TARGET=]PRECISION[:…]", help="Precision, of all targets or of one."
)
@click.option("--task", metavar="NAME", help="Overrules the task found in the model's configuration.")
@click.option("--prompt", metavar="NAME", help="A prompt of the model that stands before every text; see its folder.")
@click.option("--revision", metavar="REV", help="Commit, tag or branch of a Hub model.")
@click.option(
    "--calibration", metavar="FILE", help="Real text to prune, distill and calibrate with (txt, jsonl, csv, tsv)."
)
@click.option("--eval", "evaluation", metavar="FILE", help="Labelled text to judge by (txt, jsonl, csv, tsv).")
@click.option("--columns", metavar="text=…,label=…", help="Columns of the data files by name; pair=… is a second text.")
@click.option("--label-map", metavar="FILE", help="What the data calls the model's labels (json, toml, tsv).")
@click.option("--max-length", type=int, metavar="N", help="Longest text in tokens; at most what the model takes.")
@click.option("--max-drop", type=float, metavar="X", help="Most that the metric may fall: 0.005 is half a point.")
@click.option("--limit", multiple=True, metavar="[TARGET.]NAME=X", help="Another limit of the gate: agreement=0.98.")
@click.option("--seq-len", metavar="N,N,…", help="Lengths of a TFLite file, in tokens: 16,32,64.")
@click.option("--portable", is_flag=True, help="Standard ONNX operators only, for cpu-int8: slower, opened anywhere.")
@click.option("--probes", type=int, metavar="N", help="Texts that are compared one by one.")
@click.option("--seed", type=int, metavar="N", help="Seed of everything random; default 0.")
@click.option("--force", is_flag=True, help="Replace an earlier output in DIR; refused where DIR holds any other file.")
@click.option("--wait", is_flag=True, help="Wait while another run writes to DIR, instead of being refused.")
@click.option("--require-device", is_flag=True, help="Fail where a package cannot be tried on its device here.")
@click.option("--dry-run", is_flag=True, help="Check everything that was asked for, print the recipe, make nothing.")
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
    quantize: tuple[str, ...],
    task: str | None,
    prompt: str | None,
    revision: str | None,
    calibration: str | None,
    evaluation: str | None,
    columns: str | None,
    label_map: str | None,
    max_length: int | None,
    max_drop: float | None,
    limit: tuple[str, ...],
    seq_len: str | None,
    portable: bool,
    probes: int | None,
    seed: int | None,
    force: bool,
    wait: bool,
    require_device: bool,
    dry_run: bool,
) -> int:
    """Make a package of MODEL for each --target, and prove that it answers like MODEL.

    MODEL is a folder, a Hub id, or sample:NAME. Without it, the bundled sample is exported.
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
        quantize=quantize,
        task=task,
        prompt=prompt,
        revision=revision,
        calibration=calibration,
        evaluation=evaluation,
        columns=columns,
        label_map=label_map,
        max_length=max_length,
        max_drop=max_drop,
        limit=limit,
        seq_len=seq_len,
        portable=portable,
        probes=probes,
        seed=seed,
        force=force,
        wait=wait,
        require_device=require_device,
        dry_run=dry_run,
    )
    return run(session, flags)


def run(session: Session, flags: Flags) -> int:
    """Run the export and show how it came out; returns the exit code."""
    from converter.package.output_folder import resume_folder
    from converter.recipe import bind_recipe

    terminal = session.terminal
    _refuse_misspelled_command(session, flags.model)
    table = recipe_table(flags, session.argv)
    recipe = bind_recipe(table, where=str(flags.recipe) if flags.recipe else "recipe")
    out = output_folder(flags, recipe.model)
    session.resume = resume_folder(out)
    if flags.dry_run:
        return _dry_run(session, recipe)
    if "targets" not in table:
        terminal.say("No --target given: making cpu-int8 (`plm-export list targets` names all).")
    return _make(session, flags, recipe, out)


def _make(session: Session, flags: Flags, recipe: "Recipe", out: Path) -> int:
    terminal = session.terminal
    terminal.say(f"{recipe.model} → {', '.join(t.name for t in recipe.targets)} in {out}/")
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
                progress=progress,
            )
        if terminal.json:
            session.print_json(report_table(result))
        else:
            show(result, terminal)
    for target in result.targets:
        if target.error and not terminal.json:
            terminal.error(f"{target.target}: {target.error}", target.hint or "")
    return result.exit_code


def _dry_run(session: Session, recipe: "Recipe") -> int:
    import tomli_w

    from converter.recipe import recipe_table as table_of

    for target in recipe.targets:
        target.check_runtime()
    table = table_of(recipe)
    if session.terminal.json:
        session.print_json(table)
    else:
        session.terminal.result(tomli_w.dumps(table).rstrip("\n"))
    session.terminal.say("Nothing was made (--dry-run).")
    return 0


def _refuse_misspelled_command(session: Session, model: str | None) -> None:
    import difflib

    from converter.errors import UsageError

    if model is None or "/" in model or Path(model).exists():
        return
    close = difflib.get_close_matches(model, session.commands, n=1, cutoff=0.75)
    if close:
        raise UsageError(f"there is no model and no command {model!r}", hint=f"did you mean `plm-export {close[0]}`?")
