"""A phone gets the ids that the model was trained with: tables asked of the tokenizer itself, proven text by text."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from converter.device.hard_texts import hard_texts
from converter.device.parity import LEAST, expected, parity_check, prove, write_parity
from converter.device.tables import TABLES_FILE, NoTables, escaped, read_tables, unescaped, write_tables
from converter.device.tokenize import DeviceTokenizer
from converter.device.tokenizer.characters import LAST, SURROGATES
from converter.device.tokenizer.form import EARLIER_FORMAT
from converter.validate.checks import Status
from tests.tiny import SENTENCES, make_tokenizer

SHARED = Path(__file__).parents[3] / "shared" / "models" / "sst2-minilm" / "tokenizer.json"
SPECIAL = ("[CLS]", "[MASK]", "[SEP]", "<mask>")


def _uncased() -> Tokenizer:
    backend: Tokenizer = make_tokenizer("bert").backend_tokenizer
    return backend


def _cased() -> Tokenizer:
    made = _uncased()
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    return made


def _in_parts() -> Tokenizer:
    """Normalizes in steps, finds a token in normalized text, and one that takes the space before it along."""
    made: Tokenizer = make_tokenizer("mpnet").backend_tokenizer
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    made.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)])
    made.add_tokens([AddedToken("Köln Dom", normalized=True)])
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {"uncased": _uncased, "cased": _cased, "in parts": _in_parts}


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, DeviceTokenizer]:
    backend = KINDS[request.param]()
    folder = tmp_path_factory.mktemp("tables")
    write_tables(read_tables(backend), folder)
    return backend, DeviceTokenizer(folder)


def _random_texts(count: int, seed: int) -> list[str]:
    """Letters, scripts, marks, controls and whatever else Unicode has, with special tokens typed among them."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        points = [rng.choice((rng.randrange(128), rng.randrange(0x3000), rng.randrange(LAST + 1))) for _ in range(12)]
        chars = [chr(c) for c in points if c not in SURROGATES]
        chars.insert(rng.randrange(len(chars) + 1), rng.choice((*SPECIAL, "Köln Dom", " köln dom ", "the", " ")))
        made.append("".join(chars))
    return made


def test_random_text_gets_the_ids_of_the_original(both: tuple[Tokenizer, DeviceTokenizer]) -> None:
    backend, device = both
    for text in (*_random_texts(1500, seed=7), *SENTENCES):
        assert device.encode(text, None, 10**6).ids == backend.encode(text).ids, ascii(text)


def test_hard_texts_get_the_ids_of_the_original(both: tuple[Tokenizer, DeviceTokenizer]) -> None:
    backend, device = both
    wanted = expected(backend, 48)
    parity = prove(device, wanted, (), 48)
    assert (parity.n, parity.differing) == (len(wanted), ())
    check = parity_check(parity)
    assert (check.status, check.value) == (Status.PASS, 1.0)
    assert len({h.kind for h in hard_texts(SPECIAL)}) >= 15


def test_a_token_knows_where_in_the_text_it_came_from(both: tuple[Tokenizer, DeviceTokenizer]) -> None:
    backend, device = both
    for text in SENTENCES:
        found = backend.encode(text, add_special_tokens=False)
        assert [(t.start, t.end) for t in device.tokens(text)] == found.offsets, text


@pytest.mark.parametrize("strategy", ["longest_first", "only_second"])
def test_pairs_are_cut_as_the_original_cuts_them(strategy: str, both: tuple[Tokenizer, DeviceTokenizer]) -> None:
    backend, device = both
    own = Tokenizer.from_str(backend.to_str())
    compared = 0
    for first in range(9):
        for second in range(9):
            for length in range(4, 15):
                if strategy == "only_second" and first + own.num_special_tokens_to_add(True) >= length:
                    continue  # the original refuses; a question that is too long is cut longest first
                own.enable_truncation(length, strategy=strategy)
                wanted = own.encode("a " * first, "b " * second)
                made = device.encode("a " * first, "b " * second, length, only_second=strategy == "only_second")
                assert (made.ids, made.types) == (wanted.ids, wanted.type_ids), (first, second, length)
                compared += 1
    assert compared > 100


def test_a_table_that_is_wrong_is_found_and_its_texts_are_named(tmp_path: Path) -> None:
    backend = _uncased()
    write_tables(read_tables(backend), tmp_path)
    path = tmp_path / TABLES_FILE
    wanted = expected(backend, 48)
    # One letter forgets its small form: few texts differ, and each is named.
    path.write_text(path.read_text("utf-8").replace("map\t54\t74\n", "map\t54\t55\n"), "utf-8")
    few = prove(DeviceTokenizer(tmp_path), wanted, (), 48)
    assert few.differing
    assert any("The quick brown fox" in d for d in few.differing)
    # Without its punctuation nothing works: it is left out, which is said.
    lines = [line for line in path.read_text("utf-8").split("\n") if not line.startswith("map")]
    lines[lines.index("split\tpattern\tisolated\t0") + 1] = "set\t"
    path.write_text("\n".join(lines), "utf-8")
    many = prove(DeviceTokenizer(tmp_path), wanted, (), 48)
    check = parity_check(many)
    assert many.share < LEAST
    assert check.status is Status.NOT_RUN
    assert "too many" in check.detail


def test_a_model_of_another_kind_is_refused_with_the_reason() -> None:
    backend = _uncased()
    backend.model = models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")
    with pytest.raises(NoTables, match="its model is WordLevel, not one of WordPiece, BPE, Unigram"):
        read_tables(backend)


def test_tables_of_an_earlier_version_are_read_alike(tmp_path: Path) -> None:
    backend = _in_parts()
    for name in ("now", "then"):
        write_tables(read_tables(backend), tmp_path / name)
    path = tmp_path / "then" / TABLES_FILE
    rows = [line.split("\t") for line in path.read_text("utf-8").split("\n")[1:-1]]
    cells = {row[0]: row[-1] for row in rows if row[0] not in {"special", "map", "set"}}
    [spaces, alone] = [row[1] for row in rows if row[0] == "set"]
    lines = [
        EARLIER_FORMAT,
        *(f"{name}\t{cells[name]}" for name in ("unknown", "prefix", "longest_word", "single", "pair", "spaces")),
        f"hangul\t{cells['normalize']}",
        *(f"special\t{row[1]}\t{row[2][:3]}\t{row[3]}" for row in rows if row[0] == "special"),
        *(f"{old}\t{value}" for old, value in (("alone", alone), ("dropped", cells.get("drop", "")), ("spaced", ""))),
        *(f"replace\t{row[1]}\t{row[2]}" for row in rows if row[0] == "map"),
    ]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    assert spaces == cells["spaces"]
    now, then = (DeviceTokenizer(tmp_path / name) for name in ("now", "then"))
    for text in (*_random_texts(300, seed=9), *SENTENCES):
        assert now.tokens(text) == then.tokens(text), ascii(text)


def _of_words(*words: str, unknown: str = "[UNK]", lowercase: bool = False) -> Tokenizer:
    """Return a WordPiece tokenizer that knows few words."""
    special = [t for t in ("[PAD]", unknown, "[CLS]", "[SEP]") if t]
    made = Tokenizer(models.WordPiece({t: i for i, t in enumerate([*special, *words])}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens(special)
    made.post_processor = processors.BertProcessing(
        ("[SEP]", special.index("[SEP]")), ("[CLS]", special.index("[CLS]"))
    )
    return made


@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param(("##A", "AAA", "AAC", "ACG"), "AAA ACG AAAA TTT", id="DNA"),
        pytest.param(("中", "文", "東"), "中文 東 a", id="Chinese"),
        pytest.param(("مرحبا", "سلام"), "مرحبا سلام x", id="Arabic"),
        pytest.param(("1", "##2", "?"), "1 12 ?", id="digits"),
    ],
)
def test_a_vocabulary_needs_no_lowercase_word(words: tuple[str, ...], text: str, tmp_path: Path) -> None:
    backend = _of_words(*words)
    write_tables(read_tables(backend), tmp_path)
    device = DeviceTokenizer(tmp_path)
    assert device.encode(text, None, 99).ids == backend.encode(text).ids
    assert device.encode(text, text, 99).ids == backend.encode(text, text).ids
    assert len(set(device.encode(text, None, 99).ids)) > 3


def test_a_vocabulary_without_a_word_or_an_unknown_token_is_refused() -> None:
    # Capitals that the normalizer makes small: nothing of it is ever found.
    for words in ((), ("AAA", "ACG")):
        with pytest.raises(NoTables, match="no word of its vocabulary is one token"):
            read_tables(_of_words(*words, lowercase=True))
    with pytest.raises(NoTables, match=r"unknown token '\[UNK\]' is not in its vocabulary"):
        read_tables(_of_words("aaa", unknown=""))


def test_the_same_tokenizer_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tables(read_tables(_uncased()), tmp_path / name)
        write_parity(expected(_uncased(), 32), tmp_path / name, 32)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("text", ["", "a\tb\\n\r\n\\", "\\t", "é\u2028\x85\x0b"])
def test_a_cell_keeps_any_text(text: str) -> None:
    assert unescaped(escaped(text)) == text
    assert not set(escaped(text)) & set("\t\n\r")


def test_the_tokenizer_of_a_real_model_is_reproduced_whole(tmp_path: Path) -> None:
    if not SHARED.is_file():
        pytest.skip("../shared is not here")
    backend = Tokenizer.from_file(str(SHARED))
    backend.no_truncation()
    backend.no_padding()
    write_tables(read_tables(backend), tmp_path)
    device = DeviceTokenizer(tmp_path)
    assert len(json.loads(backend.to_str())["model"]["vocab"]) > 30_000
    assert prove(device, expected(backend, 128), (), 128).differing == ()
    for text in _random_texts(1500, seed=3):
        assert device.encode(text, None, 10**6).ids == backend.encode(text).ids, ascii(text)
