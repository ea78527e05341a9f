"""The words of the tales, read once from data/lexicon.toml."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files

DATA = files("rlhf_mini.tales") / "data"
_lexicon = tomllib.loads((DATA / "lexicon.toml").read_text(encoding="utf-8"))

GIRLS: tuple[str, ...] = tuple(_lexicon["girls"])
BOYS: tuple[str, ...] = tuple(_lexicon["boys"])
NAMES = GIRLS + BOYS
PLACES: tuple[str, ...] = tuple(_lexicon["places"])
SPECIES: tuple[str, ...] = tuple(_lexicon["species"])
ADJECTIVES: tuple[str, ...] = tuple(_lexicon["adjectives"])
ADJECTIVES_AN: tuple[str, ...] = tuple(_lexicon["adjectives_an"])  # these take "an"

PLACE_TAGS = {place: frozenset(tag for tag in ("water", "building") if place in _lexicon[tag]) for place in PLACES}
THING_TAGS: dict[str, frozenset[str]] = {}
for _thing, _tags in _lexicon["things"].items():
    THING_TAGS[_thing] = frozenset(_tags.split()) | {_thing} | (set() if "living" in _tags else {"object"})
THINGS = tuple(THING_TAGS)
THREADS: dict[str, str] = _lexicon["threads"]  # the threads of a tale, and what each is about, as text for a person

GENDER = dict.fromkeys(GIRLS, "f") | dict.fromkeys(BOYS, "m")
PRONOUNS = {"f": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
            "m": {"he": "he", "him": "him", "his": "his", "himself": "himself"}}

# For each role in a pattern, the words that can fill it.
FILLERS: dict[str, tuple[str, ...]] = {
    "HERO": NAMES, "FRIEND": NAMES, "NEW": NAMES, "THING": THINGS, "PLACE": PLACES, "SPECIES": SPECIES,
    "ADJ": ADJECTIVES + ADJECTIVES_AN, "ADJC": ADJECTIVES, "ADJV": ADJECTIVES_AN,
}
# The reader looks up words by class: every name has the class NAME until the logic decides whose it is.
CLASS_OF_ROLE = {role: "NAME" if role in ("HERO", "FRIEND", "NEW") else role for role in FILLERS}
CLASSES: dict[str, tuple[str, ...]] = {}
for _role, _words in FILLERS.items():
    for _word in _words:
        CLASSES[_word] = tuple(dict.fromkeys((*CLASSES.get(_word, ()), CLASS_OF_ROLE[_role])))

# A token includes the space before it, as in GPT-2, so that joining the tokens restores the text.
_TOKEN = re.compile(r" ?[^\W\d_]+|'[a-z]+| ?[^\w\s]| ?[\d_]+|\s")


def tokenise(text: str) -> list[str]:
    """Split text into words and punctuation marks, each with the space before it; `"".join` restores the text."""
    return _TOKEN.findall(text)
