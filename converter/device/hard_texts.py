"""Texts that tokenizers disagree on, by what makes them hard."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LENGTHS = (8, 16, 61)
"""What the long texts are cut to, besides the package's own longest."""

ALONE: dict[str, tuple[str, ...]] = {
    "plain": (
        "The quick brown fox jumps over the lazy dog.",
        "don't, won't, it's O'Neill-Smith's 3.5% (US$1,299.00) e-mail: a.b+c@d.org #tag @you",
        "unbelievably uncharacteristically antidisestablishmentarianism",
    ),
    "empty": ("", " ", "\t\n\r ", "\u3000\u2003\u00a0"),
    "white space": (
        "  two  spaces  ",
        "tab\tline\nreturn\rend",
        "no\u00a0break thin\u2009space zero\u200bwidth ideographic\u3000space",
        "next\u0085line\u2028separators\u2029here\u202fnarrow\u205fmath",
    ),
    "controls": (
        "nul\u0000bell\u0007escape\u001b[31mred",
        "soft\u00adhyphen word\u2060joiner bom\ufeffinside",
        "rtl\u202eoverride\u202c and \u2066isolates\u2069",
        "replacement\ufffdcharacter vertical\u000btab form\u000cfeed delete\u007f c1\u0091",
        "private\ue000use unassigned\u0378 and\U000e0001tags\U000e0041",
    ),
    "accents": (
        "Größe naïve café Ångström Čeština Žižek ñandú",
        "e\u0301 a\u0308 o\u0302 combined, n\u0303a\u0303o\u0303",
        "Việt Nam Nguyễn Thị Hồng được",
        "ﬁne ﬂow ½ ² ™ Ⅷ ① ㎏ ﷺ",
        "z\u0335a\u0321l\u0322g\u0327o\u0489 t\u0300\u0301\u0302\u0303ext",
    ),
    "capitals": (
        "ÀÉÎÕÜ ΑΒΓΔ ΣΑΣ ς Σ АБВГ ДЖЗ",
        "İstanbul IĞDIR ıspanak Straße STRASSE ẞ",
        "ǅ ǈ ǋ ꜲꜴ Ꭰ ᎠᎡ Ⴀ Ა",
        "𝐁𝐎𝐋𝐃 𝒮𝒸𝓇𝒾𝓅𝓉 ＦＵＬＬ ｗｉｄｔｈ",
    ),
    "Chinese and Japanese": (
        "東京都に行きました。ひらがなカタカナ",
        "我爱北京天安门 mixed中文and英文text",
        "が か\u3099 ガ カ\u3099 ｶﾞ ﾊﾟ 々〆〇",
        "豈更車 \U0002f800\U00020000\U0002a6d6 㐀䶵",
    ),
    "Hangul": ("안녕하세요 세계", "\u1112\u1161\u11ab\u1100\u1173\u11af 한글", "각힣가 ㅎㅏㄴ \u302e방\u302f점"),
    "Arabic and Hebrew": (
        "مرحبا بالعالم",
        "اَلْعَرَبِيَّةُ مُشَكَّلَةٌ أإآؤئ ة",
        "שָׁלוֹם עֲלֵיכֶם שלום",
        "٠١٢٣ ۴۵۶ English وعربي mixed",
        "لا ﻻ ﷲ ـــ تطويل",
    ),
    "Indic and Thai": (
        "नमस्ते दुनिया क्षत्रिय ज़िंदगी",
        "বাংলা ভাষা কো কৌ",
        "தமிழ் மொழி கொ கௌ",
        "తెలుగు ಕನ್ನಡ മലയാളം",
        "สวัสดีชาวโลก กำลัง น้ำ",
        "བོད་སྐད། မြန်မာ ខ្មែរ ລາວ",
    ),
    "emoji": (
        "🙂 😀😃 👍🏽 ❤️ ☺",
        "👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 1️⃣ #️⃣",
        "emoji😀inside🙃words",
        "🫠🪿🫨 \U0001fae9",
    ),
    "punctuation": (
        "«guillemets» „low“ ‘single’ “double” …—–‐‑",
        "。、「」！？（）【】～￥",
        "$+<=>^`|~ ©®°±×÷§¶†‡•‰",
        "a.b.c...d!!! (((nested))) [brackets] {braces}",
        "؟ ، ؛ । ॥ ፡ ። ՝ ՞ ׃",
    ),
    "long words": (
        "a" * 99,
        "a" * 100,
        "a" * 101,
        "é" * 100,
        "e\u0301" * 101,
        "x" * 5000,
        "https://example.org/a/very/long/path?with=query&and=more#fragment-0123456789",
        "0123456789" * 12,
        "가" * 40,
    ),
    "other scripts": (
        "Ελληνικά ἀρχαῖα ᾳ ῥ",
        "Русский язык ёлка йод",
        "ქართული հայերեն አማርኛ ᏣᎳᎩ",
        "ᠮᠣᠩᠭᠣᠯ ꦗꦮ ᮞᮥᮔ᮪ᮓ 𐌰𐌱𐌲 𓀀𓀁 𝕏",
    ),
}
SPECIAL = (
    "{0} {1} {2}",
    "a{0}b",
    "a {0} b{1}",
    "{0}{0}",
    " {3}  {3} ",
    "the {3} of {3}.",
    "lower {lower} [ MASK ] [MASK",
)
N_SPECIAL = 4
"""Added tokens in the texts above."""
GLUES = (" ", "a", "")
"""What stands between the other added tokens."""
N_GLUED = 8
"""Other added tokens in a text: there may be thousands of them."""
PAIRS = (
    ("first text", "second text"),
    ("", "only the second"),
    ("only the first", ""),
    ("", ""),
    ("Größe? 🙂", "東京 – größer"),
    ("question " * 40, "context " * 40),
    ("short", "context " * 90),
    ("question " * 90, "short"),
)


@dataclass(frozen=True)
class HardText:
    kind: str
    text: str
    pair: str | None = None
    max_length: int | None = None
    """None: as long as the package takes."""


def hard_texts(added_tokens: Sequence[str]) -> Iterator[HardText]:
    """Yield all of them; `added_tokens` are typed into some, the special ones first."""
    for kind, texts in ALONE.items():
        for text in texts:
            yield HardText(kind, text)
    if added_tokens:
        names = [added_tokens[i % len(added_tokens)] for i in range(N_SPECIAL)]
        for pattern in SPECIAL:
            yield HardText("special tokens", pattern.format(*names, lower=names[-1].lower()))
    for start in range(N_SPECIAL, len(added_tokens), N_GLUED):
        tokens = added_tokens[start : start + N_GLUED]
        glued = [f"a{glue.join(tokens)}b" for glue in GLUES]
        # One token alone is glued alike by all.
        for text in dict.fromkeys((*glued, " ".join(tokens).lower())):
            yield HardText("added tokens", text)
    for text, pair in PAIRS:
        yield HardText("pairs", text, pair)
    for length in LENGTHS:
        yield HardText("truncation", "one two three four five six seven eight nine ten " * 12, None, length)
        for text, pair in PAIRS[-3:]:
            yield HardText("truncation", text, pair, length)
