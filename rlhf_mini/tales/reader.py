"""Reads tales: whether an ending is grammatical and follows from its opening, and what its attributes are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rlhf_mini.tales.grammar import MAX_SENTENCES, Scene
from rlhf_mini.tales.lexicon import FILLERS, GENDER, tokenise
from rlhf_mini.tales.patterns import ENDINGS, OPENINGS, ORIGINS, THING_STATES, Pattern, Trie, tokens_and_classes
from rlhf_mini.texts import text

_OPENINGS, _ENDINGS = Trie(OPENINGS), Trie(ENDINGS)
MAX_PARSES = 64  # parses of one text that are tried; a tale has one or two


@dataclass(frozen=True)
class Match:
    """A pattern found in a text, with the words that fill its roles."""

    pattern: Pattern
    words: tuple[tuple[str, str], ...]  # (role, word)
    gender: str | None  # shown by its pronouns; None if it has none


@dataclass(frozen=True)
class Attributes:
    """The attributes of a tale, by which the panel judges."""

    kindness: float  # kind deeds and words, 0 to 4
    mood: float  # of the ending: -1 sad, 0 calm, 1 glad
    vividness: float  # descriptions that appeal to the senses, 0 to 3
    speech: float  # 1 if somebody speaks
    length: float  # words and punctuation marks


@dataclass(frozen=True)
class Reading:
    """The reader's verdict on an ending; `reasons` says what is wrong, as text for a person."""

    grammatical: bool
    coherent: bool
    reasons: tuple[str, ...]
    attributes: Attributes


def parses_of(ending: str) -> list[list[Match]]:
    """Every way to parse an ending as a row of sentences."""
    return _parses(_ENDINGS, ending)[0]


def _parses(trie: Trie, text: str) -> tuple[list[list[Match]], str]:
    """Every way to parse a text as a row of patterns, and the place where parsing stopped."""
    tokens, classes = tokens_and_classes(text)
    parses: list[list[Match]] = []
    stack: list[tuple[int, list[Match]]] = [(0, [])]
    furthest = 0
    while stack and len(parses) < MAX_PARSES:
        start, matches_so_far = stack.pop()
        if start == len(tokens):
            parses.append(matches_so_far)
            continue
        found, reached = trie.matches(tokens, start, classes)
        furthest = max(furthest, reached)
        stack += [(end, [*matches_so_far, Match(pattern, words, gender)]) for end, pattern, words, gender in found]
    return parses, "".join(tokens[max(0, furthest - 3) : furthest + 3]).strip()


@lru_cache(maxsize=65_536)
def read_opening(opening: str) -> Scene | None:
    """The scene that an opening sets, or None if it is not the opening of a tale."""
    for parse in _parses(_OPENINGS, opening)[0]:
        if len(parse) != 1:
            continue
        match = parse[0]
        words = dict(match.words)
        adjective = words.get("ADJC", words.get("ADJV"))
        gender_fits = match.gender in (None, GENDER[words["HERO"]])
        named_once = words["HERO"] != words.get("FRIEND")
        state = next(s for s in THING_STATES if s in match.pattern.needs)
        origin = next(o for o in ORIGINS if o in match.pattern.needs)
        scene = Scene(words["HERO"], words["THING"], adjective, words["PLACE"], words.get("FRIEND"), state, "calm",
                      origin)
        if gender_fits and named_once and scene.suits(match.pattern) and _one_each(match.words):
            return scene
    return None


def _one_each(words: tuple[tuple[str, str], ...]) -> bool:
    """Whether a role that occurs twice has the same word; two animals may differ."""
    seen: dict[str, str] = {}
    return all(seen.setdefault(role, word) == word for role, word in words if role != "SPECIES")


def _faults(scene: Scene, parse: list[Match]) -> Iterator[str]:
    """What does not follow from the scene, sentence by sentence."""
    matches_so_far: set[str] = set()
    for number, match in enumerate(parse):
        pattern, words = match.pattern, dict(match.words)
        if pattern.text in matches_so_far:
            yield "the same thing is told twice"
        matches_so_far.add(pattern.text)
        if pattern.closes and number + 1 < len(parse):
            yield "the tale goes on after it has ended"
        yield from scene.objections(pattern)
        yield from wrong_words(scene, match)
        scene = scene.after(pattern, words.get("NEW"))


def wrong_words(scene: Scene, match: Match) -> Iterator[str]:
    """Names, pronouns and nouns that are not those of the tale."""
    if match.gender not in (None, GENDER[scene.hero]):
        yield f"the pronoun does not fit {scene.hero}"
    of_scene = {"HERO": scene.hero, "FRIEND": scene.friend, "THING": scene.thing, "ADJ": scene.adjective}
    for role, word in match.words:
        if role == "NEW" and word == scene.hero:
            yield f"{word} meets {word}"
        elif role == "FRIEND" and scene.friend is None:
            yield f"{word} was never introduced"
        elif role in of_scene and word != of_scene[role]:
            expected = of_scene[role]
            yield f"{word!r} stands where {expected!r} was expected" if expected else f"{word!r} is new here"


def _attributes(ending: str, parse: list[Match]) -> Attributes:
    tokens, _ = tokens_and_classes(ending)
    sets = parse[-1].pattern.sets if parse else frozenset()
    return Attributes(
        kindness=min(4.0, sum(m.pattern.kindness for m in parse)),
        mood=float(("glad" in sets) - ("sad" in sets)),
        vividness=min(3.0, sum(m.pattern.vividness for m in parse)),
        speech=float('"' in ending),
        length=float(len(tokens)),
    )


def read(opening: str, ending: str) -> Reading:
    """Judge an ending: its sentences must be grammatical, and the whole tale must be coherent.

    Coherent implies grammatical. An ending that does not end, has fewer than two or more than five
    sentences, or whose opening is not of this world, is not grammatical.
    Raises: InputError where one of the two is no text.
    """
    return _read(text("opening", opening), text("ending", ending))


@lru_cache(maxsize=65_536)  # the same endings are read many times
def _read(opening: str, ending: str) -> Reading:
    parses, stuck = _parses(_ENDINGS, ending)
    scene = read_opening(opening)
    whole = [p for p in parses if p and p[-1].pattern.closes and 2 <= len(p) <= MAX_SENTENCES]
    if scene is None or not whole:
        parse = parses[0] if parses else []
        return Reading(False, False, (_why_ungrammatical(scene, parse, stuck),), _attributes(ending, parse))
    faults, best = min(((list(_faults(scene, p)), p) for p in whole), key=lambda pair: len(pair[0]))
    return Reading(True, not faults, tuple(faults), _attributes(ending, best))


def _why_ungrammatical(scene: Scene | None, parse: list[Match], stuck: str) -> str:
    if scene is None:
        return "the opening is not the opening of a tale"
    if not parse:
        return f"no sentence of a tale fits at '… {stuck} …'" if stuck else "there is no ending"
    if not parse[-1].pattern.closes:
        return "the ending does not end"
    return f"an ending has 2 to {MAX_SENTENCES} sentences, this one {len(parse)}"


def skeleton(ending: str) -> str:
    """The ending with names, things and places replaced by slots: equal for endings that differ in these alone."""
    slots = {**dict.fromkeys(FILLERS["HERO"], "NAME"), **dict.fromkeys(FILLERS["THING"], "THING"),
             **dict.fromkeys(FILLERS["PLACE"], "PLACE")}
    tokens = tokenise(text("ending", ending))
    return "".join(t[: len(t) - len(w)] + slots.get(w, w) for t in tokens for w in [t.lstrip()])
