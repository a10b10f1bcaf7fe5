"""The hard texts hold every token that was added to a vocabulary: an ordinary one is cut out of a text too."""

from pathlib import Path

from tokenizers import AddedToken

from converter.device.hard_texts import hard_texts
from converter.device.parity import expected, prove
from converter.device.tables import read_tables, write_tables
from converter.device.tokenize import DeviceTokenizer
from tests.tiny import make_tokenizer

ORDINARY = tuple(f"Wort {i}x" for i in range(11))


def test_every_added_token_is_typed_and_found(tmp_path: Path) -> None:
    backend = make_tokenizer("bert").backend_tokenizer
    backend.add_tokens([AddedToken(token, normalized=i % 2 == 0) for i, token in enumerate(ORDINARY)])
    wanted = expected(backend, 48)
    ids = {i for e in wanted for i in e.ids}
    assert {backend.token_to_id(token) for token in ORDINARY} <= ids
    assert {i for i, token in backend.get_added_tokens_decoder().items() if token.special} <= ids
    write_tables(read_tables(backend), tmp_path)
    assert prove(DeviceTokenizer(tmp_path), wanted, (), 48).differing == ()


def test_without_added_tokens_none_is_typed() -> None:
    assert not {"special tokens", "added tokens"} & {h.kind for h in hard_texts(())}
    assert "added tokens" not in {h.kind for h in hard_texts(("[A]", "[B]"))}
    assert len([h for h in hard_texts([f"[{i}]" for i in range(20)]) if h.kind == "added tokens"]) == 2 * 4
