"""Byte-level BPE, SentencePiece's BPE and Unigram by tables give the ids, and the text, that Hugging Face's give."""

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from converter.device.parity import expected, prove
from converter.device.tables import TABLES_FILE, NoTables, read_tables, write_tables
from converter.device.tokenize import DeviceTokenizer
from converter.device.tokenizer.normalizer import normalizer_of
from converter.device.tokenizer.normalizing import normalizer_steps
from converter.device.tokenizer.pattern import pattern_of
from converter.device.tokenizer.reading import Ranges, spelled
from converter.device.tokenizer.reading import Step as ReadStep
from converter.device.tokenizer.splitter import splitter_of
from converter.device.tokenizer.splitting import BEHAVIORS, split_steps
from converter.model_folder.sentencepiece_tokenizer import m2m100_tokenizer, marian_tokenizer
from tests.tiny import SENTENCES
from tests.tiny_text import make_m2m100_tokenizer, make_marian_tokenizer
from tests.tokenizer_kinds import KINDS, charsmap, random_texts, tables_of, tokenizer_json

TRIMS = {"roberta"}
"""Says where a token is without the space that it carries."""


@pytest.fixture(scope="session", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, DeviceTokenizer]:
    backend = Tokenizer.from_str(tokenizer_json(request.param))
    folder = tmp_path_factory.mktemp(request.param)
    write_tables(tables_of(request.param), folder)
    return backend, DeviceTokenizer(folder)


def _added(backend: Tokenizer) -> tuple[str, ...]:
    return tuple(token.content for token in backend.get_added_tokens_decoder().values())


def test_random_text_gets_the_ids_of_the_original(both: tuple[Tokenizer, DeviceTokenizer]) -> None:
    backend, device = both
    for text in (*random_texts(300, 7, _added(backend)), *SENTENCES):
        assert device.encode(text, None, 10**6).ids == backend.encode(text).ids, ascii(text)


def test_hard_texts_get_the_ids_of_the_original_and_ids_its_text(both: tuple[Tokenizer, DeviceTokenizer]) -> None:
    backend, device = both
    wanted = expected(backend, 48)
    assert all(e.decoded is not None for e in wanted)
    parity = prove(device, wanted, (), 48)
    assert (parity.n, parity.differing) == (len(wanted), ())


def test_a_token_knows_where_in_the_text_it_came_from(
    both: tuple[Tokenizer, DeviceTokenizer], request: pytest.FixtureRequest
) -> None:
    backend, device = both
    if request.node.callspec.params["both"] in TRIMS:
        pytest.skip("its offsets leave out the space that a token carries")
    for text in SENTENCES:
        found = backend.encode(text, add_special_tokens=False)
        assert [(t.start, t.end) for t in device.tokens(text)] == found.offsets, text


def test_any_ids_become_the_text_of_the_original_and_a_stream_says_the_same(
    both: tuple[Tokenizer, DeviceTokenizer],
) -> None:
    backend, device = both
    rng = random.Random(1)
    size = backend.get_vocab_size()
    texts = [backend.encode(t).ids for t in random_texts(100, 2)]
    for ids in (*texts, *([rng.randrange(size) for _ in range(rng.randrange(14))] for _ in range(200))):
        wanted = backend.decode(ids)
        assert device.decode(ids) == wanted, ids
        stream = device.stream()
        assert "".join([*map(stream.add, ids), stream.end()]) == wanted, ids


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_token_that_ends_inside_a_character_is_held_back_until_the_character_is_whole(
    kind: str, tmp_path: Path
) -> None:
    backend = Tokenizer.from_str(tokenizer_json(kind))
    write_tables(tables_of(kind), tmp_path)
    ids = backend.encode("a🙂b", add_special_tokens=False).ids
    assert len(ids) >= 6
    stream = DeviceTokenizer(tmp_path).stream()
    parts = [*map(stream.add, ids), stream.end()]
    assert "\ufffd" not in "".join(parts)
    assert sum("🙂" in part for part in parts) == 1
    # Cut off in its middle it is no character.
    cut = [*map((stream := DeviceTokenizer(tmp_path).stream()).add, ids[:-2]), stream.end()]
    assert "\ufffd" in cut[-1]


def _of_translators(folder: Path) -> dict[str, Tokenizer]:
    """Return the tokenizers that are made of SentencePiece files, as Marian and M2M100 have them."""
    made = {}
    for name in ("marian", "bpe", "unigram"):
        (folder / name).mkdir()
        if name == "marian":
            make_marian_tokenizer(folder / name)
            made[name] = marian_tokenizer(folder / name)
            continue
        slow = make_m2m100_tokenizer(folder / name, name)
        languages = {token: i for token, i in slow.get_added_vocab().items() if token.startswith("__")}
        made[name] = m2m100_tokenizer(folder / name, languages, "__en__")
    return made


def test_translators_tokenizers_made_of_sentencepiece_files_have_tables(tmp_path: Path) -> None:
    for name, backend in _of_translators(tmp_path).items():
        write_tables(read_tables(backend), tmp_path / name)
        device = DeviceTokenizer(tmp_path / name)
        assert prove(device, expected(backend, 48), (), 48).differing == (), name
        for text in (*random_texts(200, 3, (">>deu<<", "__de__")), *SENTENCES):
            assert device.encode(text, None, 10**6).ids == backend.encode(text).ids, ascii(text)


FORMS: dict[str, Any] = {name: getattr(normalizers, name) for name in ("NFC", "NFD", "NFKC", "NFKD")}
FORMS |= {rule: lambda rule=rule: normalizers.Precompiled(charsmap(rule)) for rule in ("nmt_nfkc", "nmt_nfkc_cf")}
MARKS = "\u0300\u0301\u0323\u0327\u0345\u05b0\u064b\u0e38\u3099\u1100\u1161\u11a8\uac00\u200d\u0600\r\n"


@pytest.mark.parametrize("name", FORMS)
def test_a_normal_form_is_that_of_the_library(name: str) -> None:
    core = Tokenizer(models.BPE())
    core.normalizer = FORMS[name]()
    [step] = normalizer_steps(json.loads(core.to_str())["normalizer"])
    run = normalizer_of(ReadStep(step[0][0], step[0][1], list(step[0][2:]), [list(r) for r in step[1:]]), Ranges(""))
    rng = random.Random(4)
    for text in random_texts(400, 11):
        # Marks in any order, on any letter.
        mixed = "".join(c + "".join(rng.choices(MARKS, k=rng.randrange(4))) for c in text)
        for given in (text, mixed):
            made = spelled(run([(ord(c), i, i + 1) for i, c in enumerate(given)]))
            assert made == core.normalizer.normalize_str(given), ascii(given)


@pytest.mark.parametrize(
    "source",
    [
        r"\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|[^\s\p{L}]",
        r"^ +| +$",
        r"(?<![a-c ])(?!xy(?![^a-c ]))[^a-c ]{2,}",
        r"[\p{Lu}]+[\p{Ll}]*(?:'s|'d)?",
        r"a(b|cd)?e",
        r".\n?",
    ],
)
@pytest.mark.parametrize("behavior", ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"])
def test_a_pattern_cuts_as_the_library_does(source: str, behavior: str) -> None:
    library = pre_tokenizers.Split(Regex(source), behavior)
    name = BEHAVIORS[behavior.title().replace("_", "").replace("with", "With")]
    cut = splitter_of(ReadStep("split", "pattern", [name, "0"], [list(row) for row in pattern_of(source).rows()]))
    rng = random.Random(3)
    for _ in range(150):
        text = "".join(rng.choices("abcdexyzZS's'T 12  \n\r\t\u00a0éß", k=rng.randrange(1, 20)))
        made = [spelled(part) for part in cut([(ord(c), i, i + 1) for i, c in enumerate(text)]) if part]
        assert made == [part for part, _ in library.pre_tokenize_str(text)], ascii(text)


SPLITTERS: dict[str, Callable[[], Any]] = {
    "Whitespace": pre_tokenizers.Whitespace,
    "WhitespaceSplit": pre_tokenizers.WhitespaceSplit,
    "BertPreTokenizer": pre_tokenizers.BertPreTokenizer,
    "Digits": lambda: pre_tokenizers.Digits(individual_digits=False),
    "Punctuation": lambda: pre_tokenizers.Punctuation("merged_with_next"),
    "Metaspace": lambda: pre_tokenizers.Metaspace(prepend_scheme="first"),
    "ByteLevel": lambda: pre_tokenizers.ByteLevel(add_prefix_space=True),
}


@pytest.mark.parametrize("name", SPLITTERS)
def test_a_pre_tokenizer_cuts_as_the_library_does(name: str) -> None:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = SPLITTERS[name]()
    steps = split_steps(json.loads(core.to_str())["pre_tokenizer"])
    runs = [splitter_of(ReadStep(s[0][0], s[0][1], list(s[0][2:]), [list(row) for row in s[1:]])) for s in steps]
    for text in ("Don't  stop, it's 12.5% \n of x_y!", *random_texts(150, 21)):
        pieces = [[(ord(c), i, i + 1) for i, c in enumerate(text)]]
        for run in runs:
            pieces = [made for piece in pieces for made in run(piece) if made]
        assert [spelled(p) for p in pieces] == [p for p, _ in core.pre_tokenizer.pre_tokenize_str(text)], ascii(text)


def _changed(change: Callable[[Tokenizer], object]) -> Tokenizer:
    made: Tokenizer = Tokenizer.from_str(tokenizer_json("gpt2"))
    change(made)
    return made


def _with(name: str, value: object) -> Callable[[Tokenizer], object]:
    return lambda made: setattr(made, name, value)


REFUSED: dict[str, tuple[Callable[[Tokenizer], object], str]] = {
    "a token of whole words": (
        lambda made: made.add_tokens([AddedToken("<one>", single_word=True)]),
        "'<one>' matches whole words only",
    ),
    "scripts": (_with("pre_tokenizer", pre_tokenizers.UnicodeScripts()), "pre-tokenizer UnicodeScripts has no form"),
    "a lazy pattern": (_with("pre_tokenizer", pre_tokenizers.Split(Regex("a+?b"), "isolated")), r"has '\+\?'"),
    "a word border": (_with("pre_tokenizer", pre_tokenizers.Split(Regex(r"\bx"), "isolated")), "cannot express"),
    "a lookahead": (_with("pre_tokenizer", pre_tokenizers.Split(Regex("a(?=b)"), "isolated")), "cannot express"),
    "an empty match": (_with("pre_tokenizer", pre_tokenizers.Split(Regex("a*"), "isolated")), "match nothing at all"),
    "a group again": (_with("pre_tokenizer", pre_tokenizers.Split(Regex("(?:ab)+"), "isolated")), "a repeated group"),
    "bytes in the normalizer": (_with("normalizer", normalizers.ByteLevel()), "normalizer ByteLevel has no form"),
    "chance": (_with("model", models.BPE({"a": 0}, [], dropout=0.1)), "at random"),
    "ends of words": (_with("model", models.BPE({"a": 0}, [], end_of_word_suffix="</w>")), "where a word goes on or"),
    "gaps": (_with("model", models.BPE({"a": 0, "b": 2}, [])), "have gaps"),
    "words alone": (_with("model", models.WordLevel({"a": 0})), "WordLevel"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_tables_cannot_express_is_refused_by_name(name: str) -> None:
    change, why = REFUSED[name]
    with pytest.raises(NoTables, match=why):
        read_tables(_changed(change))


def test_a_decoder_without_a_form_leaves_encoding_as_it_is(tmp_path: Path) -> None:
    backend = _changed(_with("decoder", decoders.CTC()))
    write_tables(read_tables(backend), tmp_path)
    device = DeviceTokenizer(tmp_path)
    assert device.encode("the town", None, 99).ids == backend.encode("the town").ids
    assert prove(device, expected(backend, 48), (), 48).differing == ()
    with pytest.raises(ValueError, match="do not say how ids become text"):
        device.decode([1])


@cache
def _llama() -> Tokenizer:
    made: Tokenizer = Tokenizer.from_str(tokenizer_json("llama"))
    return made


@pytest.mark.parametrize(
    ("find", "put", "kind"),
    [
        pytest.param("flags\t110", "flags\t100", "llama", id="without byte fallback"),
        pytest.param("decode\tpieces\t\u2581\t01\t1", "decode\tpieces\t\u2581\t01\t0", "llama", id="a space too many"),
        pytest.param("normalize\tprepend", "normalize\tstrip\t11\nx", "llama", id="without the first sign"),
        pytest.param("map\t65 301\t", "map\t65 302\t", "xlm-roberta", id="a composition"),
        pytest.param("split\tmetaspace\t\u2581\talways", "split\tmetaspace\t\u2581\tnever", "t5", id="never a sign"),
    ],
)
def test_a_table_that_is_wrong_is_found(find: str, put: str, kind: str, tmp_path: Path) -> None:
    backend = Tokenizer.from_str(tokenizer_json(kind))
    write_tables(tables_of(kind), tmp_path)
    path = tmp_path / TABLES_FILE
    text = path.read_bytes().decode()
    assert find in text
    path.write_bytes(text.replace(find, put, 1).encode())
    wanted = expected(backend, 48)
    assert prove(DeviceTokenizer(tmp_path), wanted, (), 48).differing


def test_the_same_tokenizer_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tables(read_tables(_llama()), tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
