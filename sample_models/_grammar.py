"""A small English grammar and the German of each sentence: gender, case, verb second, verbs at the end of a clause."""

from dataclasses import dataclass
from random import Random

PEOPLE = """
    man men Mann Männer m; teacher teachers Lehrer Lehrer m; king kings König Könige m; dog dogs Hund Hunde m;
    baker bakers Bäcker Bäcker m; brother brothers Bruder Brüder m; friend friends Freund Freunde m;
    woman women Frau Frauen f; sister sisters Schwester Schwestern f; queen queens Königin Königinnen f;
    cat cats Katze Katzen f; mother mothers Mutter Mütter f; child children Kind Kinder n; horse horses Pferd Pferde n;
    girl girls Mädchen Mädchen n
"""
THINGS = """
    apple apples Apfel Äpfel m; table tables Tisch Tische m; letter letters Brief Briefe m; hat hats Hut Hüte m;
    key keys Schlüssel Schlüssel m; flower flowers Blume Blumen f; lamp lamps Lampe Lampen f; cup cups Tasse Tassen f;
    clock clocks Uhr Uhren f; bottle bottles Flasche Flaschen f; book books Buch Bücher n; house houses Haus Häuser n;
    picture pictures Bild Bilder n; car cars Auto Autos n; boat boats Boot Boote n
"""
TRANSITIVE = """
    sees see seen sieht sehen gesehen; buys buy bought kauft kaufen gekauft; finds find found findet finden gefunden;
    paints paint painted malt malen gemalt; brings bring brought bringt bringen gebracht; loves love loved liebt lieben
    geliebt; carries carry carried trägt tragen getragen; sells sell sold verkauft verkaufen verkauft; holds hold held
    hält halten gehalten; forgets forget forgotten vergisst vergessen vergessen
"""
INTRANSITIVE = """
    sleeps sleep slept schläft schlafen geschlafen; laughs laugh laughed lacht lachen gelacht; sings sing sung singt
    singen gesungen; works work worked arbeitet arbeiten gearbeitet; waits wait waited wartet warten gewartet; dances
    dance danced tanzt tanzen getanzt
"""
ADJECTIVES = """
    old alt; young jung; small klein; big groß; red rot; new neu; strong stark; beautiful schön; good gut; happy
    glücklich
"""
TIMES = "today heute; now jetzt; often oft; again wieder; always immer"
PLACES = (
    ("in the garden", "im Garten"),
    ("in the city", "in der Stadt"),
    ("at home", "zu Hause"),
    ("on the street", "auf der Straße"),
    ("behind the house", "hinter dem Haus"),
)
NAMES = "Anna Paul Clara Felix Greta Jonas".split()
PRONOUNS = (("he", "er", False), ("she", "sie", False), ("we", "wir", True), ("they", "sie", True))
MODALS = (("can", "kann", "können"), ("must", "muss", "müssen"), ("should", "soll", "sollen"))
JOINED = (("because", "weil"), ("when", "wenn"), ("although", "obwohl"))
# Endings by case (n: nominative, a: accusative) and gender (p: plural), of the word before the noun and the adjective.
THE = {
    "nm": "der e", "nf": "die e", "nn": "das e", "np": "die en",
    "am": "den en", "af": "die e", "an": "das e", "ap": "die en",
}  # fmt: skip
THIS = {
    "nm": "dieser e", "nf": "diese e", "nn": "dieses e", "np": "diese en",
    "am": "diesen en", "af": "diese e", "an": "dieses e", "ap": "diese en",
}  # fmt: skip
MIXED = {"nm": " er", "nf": "e e", "nn": " es", "np": "e en", "am": "en en", "af": "e e", "an": " es", "ap": "e en"}


def table(text: str) -> list[list[str]]:
    """Read rows of words apart by semicolons."""
    return [row.split() for row in text.split(";")]


NOUNS, OBJECTS = table(PEOPLE), table(THINGS)
WITH_OBJECT, ALONE = table(TRANSITIVE), table(INTRANSITIVE)
QUALITIES, MOMENTS = table(ADJECTIVES), table(TIMES)


@dataclass(frozen=True)
class Phrase:
    """Who does something, or what it is done to, in both languages."""

    english: str
    german: str
    plural: bool = False


@dataclass(frozen=True)
class Clause:
    """A sentence without its point. German is kept in parts: where its verb stands depends on what is before it."""

    english: str
    subject: str
    verb: str
    """The one that agrees with the subject."""
    middle: str
    last: str
    """The verbs that stand at the end: a participle, an infinitive, or nothing."""
    key: str
    """What it is about: which verb, of whom, of what."""

    def german(self) -> str:
        return _joined(self.subject, self.verb, self.middle, self.last)

    def inverted(self) -> str:
        """What follows where something else has the first place."""
        return _joined(self.verb, self.subject, self.middle, self.last)

    def verb_last(self) -> str:
        return _joined(self.subject, self.middle, self.last, self.verb)


def sentence(rng: Random) -> tuple[str, str, str]:
    """Return a sentence in English and in German, and what it is about."""
    kind = rng.random()
    first = clause(rng)
    if kind < 0.55:
        made = first.english, first.german(), first.key
    elif kind < 0.75:
        english, german = rng.choice([*MOMENTS, *PLACES])
        made = f"{english} {first.english}", f"{german} {first.inverted()}", first.key
    elif kind < 0.9:
        second, (english, german) = clause(rng), rng.choice(JOINED)
        made = (
            f"{first.english} {english} {second.english}",
            f"{first.german()}, {german} {second.verb_last()}",
            f"{first.key} {second.key}",
        )
    else:
        name = rng.choice(NAMES)
        made = f"{name} says that {first.english}", f"{name} sagt, dass {first.verb_last()}", first.key
    english, german, key = made
    return f"{english[0].upper()}{english[1:]}.", f"{german[0].upper()}{german[1:]}.", key


def clause(rng: Random) -> Clause:
    who = subject(rng)
    verb = rng.choice(WITH_OBJECT if rng.random() < 0.65 else ALONE)
    what = noun_phrase(rng, OBJECTS, "a") if verb in WITH_OBJECT else None
    english_verb, german_verb, last = _verbs(rng, verb, plural=who.plural)
    around = rng.random()
    place = rng.choice(PLACES) if around < 0.25 else ("", "")
    moment = rng.choice(MOMENTS) if around > 0.75 and what is not None else ("", "")
    negated = "nicht" if english_verb.endswith(" not") or " not " in english_verb else ""
    seen = ("", "") if what is None else (what.english, what.german)
    return Clause(
        english=_joined(who.english, english_verb, seen[0], moment[0], place[0]),
        subject=who.german,
        verb=german_verb,
        middle=_joined(moment[1], seen[1], negated, place[1]),
        last=last,
        key=f"{who.german.split()[-1]} {verb[1]} {seen[1].split()[-1] if seen[1] else ''}",
    )


def subject(rng: Random) -> Phrase:
    kind = rng.random()
    if kind < 0.15:
        name = rng.choice(NAMES)
        return Phrase(name, name)
    if kind < 0.3:
        return Phrase(*rng.choice(PRONOUNS))
    return noun_phrase(rng, NOUNS, "n")


def noun_phrase(rng: Random, nouns: list[list[str]], case: str) -> Phrase:
    one, many, german_one, german_many, gender = rng.choice(nouns)
    plural = rng.random() < 0.3
    number = case + ("p" if plural else gender)
    choices = [("the", THE[number]), ("these" if plural else "this", THIS[number]), ("my", f"mein{MIXED[number]}")]
    choices += [("no", f"kein{MIXED[number]}")] if case == "a" else []
    choices += [] if plural else [("a", f"ein{MIXED[number]}")]
    determiner, endings = rng.choice(choices)
    german_determiner, ending = endings.split(" ")
    adjective, german_adjective = rng.choice(QUALITIES) if rng.random() < 0.4 else ("", "")
    if determiner == "a" and (adjective or one)[0] in "aeiou":
        determiner = "an"
    return Phrase(
        _joined(determiner, adjective, many if plural else one),
        _joined(
            german_determiner,
            german_adjective + ending if german_adjective else "",
            german_many if plural else german_one,
        ),
        plural,
    )


def _verbs(rng: Random, verb: list[str], *, plural: bool) -> tuple[str, str, str]:
    """Return the English verbs, the German one that agrees, and those at the end of the clause."""
    singular, base, participle, german_one, german_many, german_participle = verb
    kind = rng.random()
    if kind < 0.45:
        return (base, german_many, "") if plural else (singular, german_one, "")
    if kind < 0.65:
        has = ("have", "haben") if plural else ("has", "hat")
        return f"{has[0]} {participle}", has[1], german_participle
    if kind < 0.85:
        english, one, many = rng.choice(MODALS)
        return f"{english} {base}", many if plural else one, german_many
    return f"{'do' if plural else 'does'} not {base}", german_many if plural else german_one, ""


def _joined(*parts: str) -> str:
    return " ".join(filter(None, parts))
