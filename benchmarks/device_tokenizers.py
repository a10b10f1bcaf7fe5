"""Tokenizers of the samples against Hugging Face's: equal ids and text, and time, by kind and by language.

    python benchmarks/device_tokenizers.py [--kinds llama t5] [--texts 20000]

The tokenizers are trained here on made-up text (`tests/tokenizer_kinds.py`); two have a vocabulary of real size. Texts
are random (letters, scripts, marks, controls, unassigned characters, special tokens among them) and the hard texts of
the proof that every package carries, each as it is, twice in a row, backwards, and in capitals. Each text is encoded by
the tables in C++, Java and Python; what has another sequence of ids is counted. Decoded are the ids of 2 000 texts and
as many random sequences, at once and token by token. Times are per text of a sentence, one thread, the best of three.
Writes `benchmarks/results/device_tokenizers.json` after every kind.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import RESULTS, ROOT, SHARED, machine, save

sys.path.insert(0, str(ROOT))
from converter.device.parity import expected
from converter.device.tables import TABLES_FILE, VOCABULARY_FILE, read_tables, write_tables
from converter.device.tokenize import DeviceTokenizer
from tests.device_tokenizers import Answers, ask, compiled
from tests.tokenizer_kinds import KINDS, byte_level, corpus, random_texts, tokenizer_json, unigram

NAME = "device_tokenizers"
WANTED = 0.999
LANGUAGES = ("cpp", "java", "python")
N_DECODED = 2000
N_TIMED = 400
RUNS = 3
LARGE = {
    "gpt2, 32 000 pieces": lambda: byte_level(size=32_000, words=60_000),
    "t5, 16 000 pieces": lambda: unigram("t5", 16_000, 30_000),
}
REAL = {"sst2-minilm (WordPiece)": SHARED / "models" / "sst2-minilm" / "tokenizer.json"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="*", default=[*KINDS, *LARGE, *REAL])
    parser.add_argument("--texts", type=int, default=20_000)
    given = parser.parse_args()
    path = RESULTS / f"{NAME}.json"
    table = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"kinds": {}}
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        commands = {name: compiled(name, work / name, *(("-O2",) if name == "cpp" else ())) for name in LANGUAGES[:2]}
        for kind in given.kinds:
            backend = _backend(kind)
            if backend is None:
                continue
            table["kinds"][kind] = measure(backend, commands, work, given.texts)
            save(NAME, {"machine": machine(), "wanted_equal": WANTED, "kinds": table["kinds"]})
            print(kind, {name: table["kinds"][kind][name]["equal"] for name in LANGUAGES}, flush=True)
    missed = [
        (kind, name)
        for kind, row in table["kinds"].items()
        for name in LANGUAGES
        if row[name]["equal"] < WANTED or row[name]["equal_hard"] < 1 or row[name]["equal_decoded"] < 1
    ]
    for miss in missed:
        print("not reached:", *miss)
    return 1 if missed else 0


def _backend(kind: str) -> Any:
    from tokenizers import Tokenizer

    if kind in REAL:
        if not REAL[kind].is_file():
            print(f"left out: {REAL[kind]} is not here")
            return None
        made = Tokenizer.from_file(str(REAL[kind]))
        made.no_truncation()
        made.no_padding()
        return made
    return LARGE[kind]() if kind in LARGE else Tokenizer.from_str(tokenizer_json(kind))


def measure(backend: Any, commands: dict[str, list[str]], work: Path, n_texts: int) -> dict[str, Any]:
    folder = work / "tables"
    write_tables(read_tables(backend), folder)
    added = tuple(token.content for token in backend.get_added_tokens_decoder().values())
    hard = hard_strings(backend)
    texts, plain = [*random_texts(n_texts, 99, added), *hard], list(corpus(N_TIMED, seed=77))
    wanted = [made.ids for made in backend.encode_batch(texts)]
    decodes = "\ndecode\t" in (folder / TABLES_FILE).read_text(encoding="utf-8")
    rng = random.Random(8)
    size = backend.get_vocab_size()
    some = [[rng.randrange(size) for _ in range(rng.randrange(1, 20))] for _ in range(N_DECODED if decodes else 0)]
    ids = [*some, *(wanted[:N_DECODED] if decodes else [])]
    decoded = [backend.decode(i) for i in ids]
    row: dict[str, Any] = {
        "texts": n_texts,
        "hard_texts": len(hard),
        "decoded": len(ids),
        "pieces": size,
        "tables_bytes": sum((folder / name).stat().st_size for name in (TABLES_FILE, VOCABULARY_FILE)),
        "tokenizer_json_bytes": len(backend.to_str().encode()),
        "library_us": _library_us(backend, plain),
    }
    for name in LANGUAGES:
        made, us = _asked(name, commands, folder, texts, ids, plain)
        equal = [a == b for a, b in zip(made.ids, wanted, strict=True)]
        same = [d == w == "".join(s) for d, s, w in zip(made.decoded, made.streamed, decoded, strict=True)]
        row[name] = {
            "equal": sum(equal[:n_texts]) / n_texts,
            "equal_hard": sum(equal[n_texts:]) / len(hard),
            "equal_decoded": sum(same) / len(same) if same else 1.0,
            "differing": [ascii(t)[:80] for t, e in zip(texts, equal, strict=True) if not e][:5],
            "us_per_text": us,
            "load_ms": round(1000 * made.load_s, 1),
        }
    return row


def hard_strings(backend: Any) -> list[str]:
    """Return the hard texts that every package is proven on, each in four ways."""
    own = list(dict.fromkeys(text for e in expected(backend, 512) for text in (e.hard.text, e.hard.pair or "")))
    return list(dict.fromkeys(made for text in own for made in (text, text + text, text[::-1], text.upper())))


def _asked(
    name: str, commands: dict[str, list[str]], folder: Path, texts: list[str], ids: list[list[int]], plain: list[str]
) -> tuple[Answers, float]:
    if name in commands:
        made = ask(commands[name], folder, texts, ids)
        timed = [ask(commands[name], folder, plain, [], runs=20) for _ in range(RUNS)]
        made = Answers(made.ids, made.decoded, made.streamed, min(t.load_s for t in timed))
        return made, round(1e6 * min(t.encode_s for t in timed) / len(plain), 2)
    begun = time.perf_counter()
    device = DeviceTokenizer(folder)
    load = time.perf_counter() - begun
    streams = []
    for row in ids:
        stream = device.stream()
        streams.append([*map(stream.add, row), stream.end()])
    found = [device.encode(text, None, 1 << 30).ids for text in texts]
    best = min(_seconds(lambda: [device.encode(text, None, 1 << 30) for text in plain]) for _ in range(RUNS))
    return Answers(found, [device.decode(i) for i in ids], streams, load), round(1e6 * best / len(plain), 2)


def _library_us(backend: Any, plain: list[str]) -> float:
    return round(1e6 * min(_seconds(lambda: [backend.encode(t) for t in plain]) for _ in range(RUNS)) / len(plain), 2)


def _seconds(call: Any) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
