"""Languages as data sets and models call them: `de`, `deu`, `ger`, `de_DE`, `deu_Latn` and `German` are one."""

import re

_TABLE = """
    en eng english; de deu ger german; fr fra fre french; es spa spanish; it ita italian; pt por portuguese;
    nl nld dut dutch; ru rus russian; pl pol polish; cs ces cze czech; sk slk slo slovak; uk ukr ukrainian; bg
    bul bulgarian; hr hrv croatian; sr srp serbian; sl slv slovenian; ro ron rum romanian; hu hun hungarian;
    fi fin finnish; et est estonian; lv lav latvian; lt lit lithuanian; sv swe swedish; da dan danish; nb nob
    norwegian; is isl ice icelandic; el ell gre greek; tr tur turkish; ar ara arabic; he heb hebrew; fa fas
    per persian; hi hin hindi; bn ben bengali; ta tam tamil; ur urd urdu; zh zho chi cmn chinese; ja jpn
    japanese; ko kor korean; vi vie vietnamese; th tha thai; id ind indonesian; ms msa may malay; ca cat
    catalan; eu eus baq basque; gl glg galician; ga gle irish; cy cym wel welsh; sw swa swh swahili; af afr
    afrikaans; ka kat geo georgian; hy hye arm armenian; kk kaz kazakh; mk mkd mac macedonian; sq sqi alb
    albanian
"""
_KNOWN = {name: names[0] for names in (row.split() for row in _TABLE.split(";")) for name in names}
_CODE = re.compile(r"^[a-z]{2,3}$")


def language_of(name: str) -> str:
    """Return the two letters of a language (three where it has no two); empty where `name` is none that is known.

    >>> language_of("deu_Latn"), language_of("German"), language_of("sentence_pt-BR"), language_of("label")
    ('de', 'de', 'pt', '')
    """
    first = re.split(r"[_-]", name.strip().lower().removeprefix("sentence_"))[0]
    return _KNOWN.get(first, "")


def language_code(name: str) -> str:
    """Return the same for what is known to name a language, if by a code that this table lacks."""
    first = re.split(r"[_-]", name.strip().lower())[0]
    return language_of(name) or (first if _CODE.match(first) else "")
