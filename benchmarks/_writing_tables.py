"""Tables of models that write text: how fast they decode, and how good their packages are."""

from typing import Any

from _tables import megabytes, number, table_of

TITLES = {"gpt2-124m": "GPT-2 124M", "opus-mt": "opus-mt"}


def decoding(table: dict[str, Any]) -> str:
    """Return speed by precision and threads, beside the peers that were timed in the same run, by processor."""
    made = [_decoding_here(table)]
    made += [f"The same on {cpu}.\n\n{_decoding_here(rows)}" for cpu, rows in table.get("elsewhere", {}).items()]
    return "\n\n".join(made)


def _decoding_here(table: dict[str, Any]) -> str:
    runs = {key: rows for key, rows in table.items() if key.startswith("threads_")}
    decoders = [
        (
            key.removeprefix("threads_"),
            name,
            number(row.get("mb_read_a_token"), 0),
            number(row["gb_per_second"], 1),
            number(row["tokens_per_second"], 1),
            "" if "of_bound" not in row else f"{row['of_bound']:.0%}",
            number(row["prefill_ms"], 0),
        )
        for key, shapes in runs.items()
        for name, row in shapes.get("gpt2-124m", {}).items()
    ]
    translators = [
        (
            key.removeprefix("threads_"),
            name,
            number(row["greedy_ms"], 0),
            number(row["beams_of_4_ms"], 0),
            number(row.get("encoder_ms"), 1),
        )
        for key, shapes in runs.items()
        for name, row in shapes.get("opus-mt", {}).items()
    ]
    note = f"\n{table['note']}\n" if "note" in table else ""
    return (
        "\n".join(
            [
                table_of(
                    "Decoding of the shape of GPT-2 124M (a prompt of 32 tokens, 48 written, random weights): the\n"
                    "bound is the measured bandwidth over the bytes of weights and scales read a token;\n"
                    "`benchmarks/decoding.py`:",
                    "threads | file | MB a token: | GB/s: | tokens/s: | of the bound: | prompt, ms:",
                    decoders,
                ),
                table_of(
                    "A translator of the shape of opus-mt (6 + 6 layers, 512 wide, 58 101 words), 20 tokens in\n"
                    "and out:",
                    "threads | file | greedy, ms: | 4 beams, ms: | encoder, ms:",
                    translators,
                ),
            ]
        )
        + note
    )


def generation(table: dict[str, Any]) -> str:
    """Return how many prompts each family continues as transformers does, and what rounding costs the samples."""
    families = [
        (
            name,
            f"{row['alone']} of {row['prompts']}",
            f"{row['batch']} of {row['prompts']}",
            row["beams_of_4"],
            f"{row['logits_error']:.1e}",
            megabytes(row["bytes"]),
        )
        for name, row in table["families"].items()
    ]
    samples = [
        (
            sample,
            name,
            megabytes(row["bytes"]),
            number(row["next_token_agreement"]),
            number(row["perplexity_ratio"]),
            number(row["points_of_bleu_lost"], 2),
            row["sequences_equal"],
            row["status"],
        )
        for sample, rows in table["samples"].items()
        for name, row in rows.items()
        if "bytes" in row
    ]
    return "\n".join(
        [
            table_of(
                "A small seeded model of each family that writes text, in float32: prompts that are continued\n"
                "token by token as by `generate` of transformers, and the largest error of the logits over their\n"
                "range; "
                "`benchmarks/generation.py`:",
                "family | alone: | padded batch: | 4 beams: | error: | size:",
                families,
            ),
            table_of(
                "The trained samples on their own evaluation files, `cpu-int8`:",
                "sample | precision | size: | next token: | perplexity, × the source's: | BLEU points lost: | "
                "equal sequences: | verdict",
                samples,
            ),
        ]
    )
