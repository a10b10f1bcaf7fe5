"""The sentences that say how the gate was tried, what the proof costs, and how equal the samples' tokenizers are."""

from typing import Any

from _tables import number, table_of


def mutations(table: dict[str, Any]) -> str:
    """Return how many faults were planted and seen, and every one that was missed by name."""
    found = table["summary"]
    seen = {who: found["harmful"] - len(found[f"{who}_missed"]) for who in ("gate", "verify")}
    packages = {row["package"] for row in table["faults"].values()}
    missed = [f"- {who} missed `{name}`\n" for who in ("gate", "verify") for name in found[f"{who}_missed"]]
    missed += [f"- rejected though good: `{name}`\n" for name in found["good_rejected"]]
    for name in found.get("rejected_below_the_limit", ()):
        row = table["good"][name]
        missed.append(
            f"- rejected, and not counted as good: `{name}`, which keeps {row['held_out_agreement']:.2%} of the "
            f"answers to {row.get('held_out_texts', table['held_out']['texts'])} texts, where "
            f"{row['agreement_wanted']:.0%} are wanted\n"
        )
    return (
        f"Of {found['faults']} faults of {found['kinds']} kinds in {len(packages)} packages {found['harmful']} did "
        f"harm. The gate saw {seen['gate']} of those,\n`verify` {seen['verify']}. Of {found['good_runs']} runs of good "
        f"packages {len(found['good_rejected'])} were rejected.\n" + ("\n" + "".join(missed) if missed else "")
    )


def proof_time(table: dict[str, Any]) -> str:
    """Return what the proof takes over the rest of a run."""
    share, wall = table["proof_over_export"], table["proof_seconds"]["wall"]
    rest = table["seconds"]["wall"] - wall
    busy = " on a machine with other work" if table["machine"]["load_before"] > 1 else ""
    given_up = "" if table["reached"] else ", which is not reached"
    model, n = table["model"], len(table["targets"])
    return (
        f"The proof of `{model}` for {n} targets took {share['wall']:.0%} of the time of exporting them\n"
        f"({wall:.0f} s beside {rest:.0f} s{busy}; {share['cpu']:.0%} of the CPU's time), and "
        f"{table['without_speed']['wall']:.0%} without measuring speed.\n"
        f"At most {table['wanted']:.0%} was wanted{given_up}; `benchmarks/proof_time.py`. What was given up for it:\n\n"
        + "".join(f"- {one}\n" for one in table["given_up"])
    )


def device_tokenizers(table: dict[str, Any]) -> str:
    """Return how the samples' tokenizers compare with Hugging Face's, by kind."""
    languages = {"cpp": "C++", "java": "Java", "python": "Python"}

    def share(row: dict[str, Any], of: str) -> str:
        least = min(row[name][of] for name in languages)
        return "all" if least == 1 else f"{least:.2%}"

    texts = {f"{row['texts']:,}".replace(",", " ") for row in table["kinds"].values()}
    load, cores = table["machine"]["load_before"], table["machine"]["cores"]
    busy = f" (busy: load {load:.0f} on {cores} cores, so only their ratios tell)" if load > 1 else ""
    return table_of(
        f"Tokenizers of the samples beside Hugging Face's `tokenizers`: the least share of equal ids on\n"
        f"{' or '.join(sorted(texts))} random and on the hard texts, and of equal text from ids; microseconds for a\n"
        f"sentence of 13 words on one thread{busy}; `benchmarks/device_tokenizers.py`:",
        "tokenizer | pieces: | tables: | random: | hard: | decoded: | "
        + " | ".join(f"{name}, µs:" for name in languages.values())
        + " | library, µs:",
        [
            (
                kind,
                str(row["pieces"]),
                f"{row['tables_bytes'] / 1e3:.0f} kB",
                share(row, "equal"),
                f"{share(row, 'equal_hard')} of {row['hard_texts']}",
                share(row, "equal_decoded") if row["decoded"] else "",
                *(number(row[name]["us_per_text"], 0) for name in languages),
                number(row["library_us"], 0),
            )
            for kind, row in table["kinds"].items()
        ],
    )
