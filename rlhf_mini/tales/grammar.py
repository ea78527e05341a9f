"""Writes tales: an opening, and an ending that follows from it."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from rlhf_mini.errors import InputError
from rlhf_mini.tales.lexicon import FILLERS, GENDER, PLACE_TAGS, THING_TAGS, THREADS, tokenise
from rlhf_mini.tales.patterns import (
    COMPANY,
    ENDINGS,
    MOODS,
    NO_THREAD,
    OPENINGS,
    ORIGINS,
    THING_STATES,
    Pattern,
    Token,
    Variant,
)

MAX_SENTENCES = 5
MAX_WORDS = 44  # words and marks of an ending, and
MAX_CHARACTERS = 159  # its length as text: together they keep it within about 50 tokens
SENTENCES = {2: 0.15, 3: 0.5, 4: 0.2, 5: 0.15}  # how many are tried, and how often
MANY = 5  # from so many on, they are brief


@dataclass(frozen=True)
class Scene:
    """What is so at one point of a tale; an opening makes it and every sentence may change it."""

    hero: str
    thing: str
    adjective: str | None
    place: str
    friend: str | None
    state: str  # of the thing: one of THING_STATES
    mood: str  # one of MOODS
    origin: str = "own"  # one of ORIGINS
    thread: str = NO_THREAD  # the trouble that the tale is in

    @property
    def company(self) -> str:
        return "together" if self.friend else "alone"

    def meets(self, pattern: Pattern) -> bool:
        """Whether a sentence may follow here."""
        return not any(self.objections(pattern))

    def objections(self, pattern: Pattern) -> Iterator[str]:
        """Why a sentence may not follow here, in words for a person."""
        if pattern.thread != self.thread:
            yield (f"{THREADS[self.thread[1:]]} is forgotten" if pattern.thread == NO_THREAD
                   else f"nothing has been told of {THREADS[pattern.thread[1:]]}")
        for kind, now in zip(KINDS, (self.state, self.company, self.mood, self.origin), strict=True):
            wanted = kind & pattern.needs
            if wanted and now not in wanted:
                yield SO_IT_IS[now].format(thing=self.thing, hero=self.hero, friend=self.friend)
        if not self.suits(pattern):
            yield f"that is not done with a {self.thing}"

    def suits(self, pattern: Pattern) -> bool:
        """Whether the thing and the place are of the kind that a sentence is about."""
        return (not pattern.thing_tags or bool(pattern.thing_tags & THING_TAGS[self.thing])) and (
            not pattern.place_tags or bool(pattern.place_tags & PLACE_TAGS[self.place]))

    def after(self, pattern: Pattern, friend: str | None) -> Scene:
        """The scene once the sentence has been told."""
        state = next((s for s in THING_STATES if s in pattern.sets), self.state)
        mood = next((m for m in MOODS if m in pattern.sets), self.mood)
        return replace(self, state=state, mood=mood, friend=self.friend or friend,
                       thread=pattern.next_thread or self.thread)


KINDS = tuple(frozenset(kind) for kind in (THING_STATES, COMPANY, MOODS, ORIGINS))
SO_IT_IS = {
    "wanted": "{hero} has no {thing} yet", "here": "nothing has happened to the {thing}",
    "broken": "the {thing} is broken", "lost": "the {thing} is lost", "given": "the {thing} was given away",
    "eaten": "the {thing} was eaten", "alone": "nobody else has been named", "together": "{friend} is there",
    "calm": "nothing has stirred {hero} yet", "glad": "all is well", "sad": "{hero} is sad",
    "cross": "{hero} and {friend} are cross", "found": "the {thing} was found", "own": "the {thing} is {hero}'s own",
}


@cache
def _followers(state: str, company: str, mood: str, origin: str, thread: str, thing: str, closes: bool,
               brief: bool) -> tuple[Pattern, ...]:
    scene = Scene("", thing, None, "", "somebody" if company == "together" else None, state, mood, origin, thread)
    return tuple(p for p in ENDINGS if p.closes == closes and (p.brief or not brief) and scene.meets(p))


@cache
def _ways_to_say(pattern: Pattern, gender: str, has_adjective: bool) -> tuple[Variant, ...]:
    return tuple(v for v in pattern.variants
                 if v.gender in (None, gender) and (has_adjective or "ADJ" not in v.roles))


@dataclass(frozen=True)
class Sentence:
    """One written sentence with its derivation."""

    pattern: Pattern
    tokens: tuple[Token, ...]  # texts filled in

    @property
    def text(self) -> str:
        return "".join(t.text for t in self.tokens).strip()


@dataclass(frozen=True)
class Story:
    """A tale and how it was built."""

    opening: str
    scene: Scene  # after the opening
    sentences: tuple[Sentence, ...]
    log_probability: float  # of the choices that made the ending, natural log

    @property
    def ending(self) -> str:
        return " ".join(s.text for s in self.sentences)


def is_held_out(opening: str) -> bool:
    """One opening in eight never appears in training; which, only its text decides."""
    return zlib.crc32(opening.encode()) % 8 == 0


def _fill(variant: Variant, words: dict[str, str]) -> tuple[Token, ...]:
    return tuple(Token(" " + words[t.role], t.role, t.optional) if t.role in words else t for t in variant.tokens)


def write_opening(rng: random.Random) -> tuple[str, Scene]:
    """The text of an opening, and the scene that it sets."""
    pattern = rng.choices(OPENINGS, [p.weight for p in OPENINGS])[0]
    variant = rng.choice(pattern.variants)
    words: dict[str, str] = {}
    for role in ("HERO", "FRIEND", "THING", "PLACE", "SPECIES", "ADJC", "ADJV"):
        choices = [w for w in FILLERS[role] if w not in words.values()]
        if role == "HERO" and variant.gender:
            choices = [w for w in choices if GENDER[w] == variant.gender]
        if role == "THING" and pattern.thing_tags:
            choices = [w for w in choices if pattern.thing_tags & THING_TAGS[w]]
        if role == "PLACE" and pattern.place_tags:
            choices = [w for w in choices if pattern.place_tags & PLACE_TAGS[w]]
        words[role] = rng.choice(choices)
    adjective = next((words[r] for r in ("ADJC", "ADJV") if r in variant.roles), None)
    friend = words["FRIEND"] if "together" in pattern.needs else None
    state = next(s for s in THING_STATES if s in pattern.needs)
    text = _render(variant, words, rng)
    origin = next(o for o in ORIGINS if o in pattern.needs)
    return text, Scene(words["HERO"], words["THING"], adjective, words["PLACE"], friend, state, "calm", origin)


def _render(variant: Variant, words: dict[str, str], rng: random.Random) -> str:
    """The opening's text; two animals in it are of two kinds."""
    kinds = rng.sample(FILLERS["SPECIES"], 2)
    return "".join(" " + (kinds.pop() if t.role == "SPECIES" else words[t.role]) if t.role in words else t.text
                   for t in variant.tokens).strip()


def write_ending(scene: Scene, rng: random.Random) -> tuple[tuple[Sentence, ...], float]:
    """A random walk over the sentences that may follow, closed at the end; None of them twice."""
    while True:
        length = rng.choices(list(SENTENCES), list(SENTENCES.values()))[0]
        sentences, log_probability = _walk(scene, length, rng)
        words = sum(len(s.tokens) for s in sentences)
        characters = sum(len(t.text) for s in sentences for t in s.tokens)
        if sentences and words <= MAX_WORDS and characters <= MAX_CHARACTERS:
            return tuple(sentences), log_probability + math.log(SENTENCES[length])


def _walk(scene: Scene, length: int, rng: random.Random) -> tuple[list[Sentence], float]:
    told: list[Sentence] = []
    log_probability = 0.0
    for i in range(length):
        used = {s.pattern.text for s in told}
        followers = _followers(scene.state, scene.company, scene.mood, scene.origin, scene.thread,
                               scene.thing, i == length - 1, length >= MANY)
        patterns = [p for p in followers if p.text not in used]
        if not patterns:
            return [], 0.0
        weights = [p.weight for p in patterns]
        pattern = rng.choices(patterns, weights)[0]
        variants = _ways_to_say(pattern, GENDER[scene.hero], scene.adjective is not None)
        variant = rng.choice(variants)
        log_probability += math.log(pattern.weight / (sum(weights) * len(variants)))
        sentence, friend, ways = _say(scene, pattern, variant, rng)
        log_probability -= math.log(ways)
        told.append(sentence)
        scene = scene.after(pattern, friend)
    return told, log_probability


def _say(scene: Scene, pattern: Pattern, variant: Variant, rng: random.Random) -> tuple[Sentence, str | None, int]:
    """Fill the roles; returns the sentence, a newly named friend, and among how many fillings it was chosen."""
    words = {"HERO": scene.hero, "THING": scene.thing, "ADJ": scene.adjective or "", "FRIEND": scene.friend or ""}
    if "NEW" not in variant.roles:
        return Sentence(pattern, _fill(variant, words)), None, 1
    strangers = [name for name in FILLERS["NEW"] if name != scene.hero]
    words["NEW"] = rng.choice(strangers)
    return Sentence(pattern, _fill(variant, words)), words["NEW"], len(strangers)


def compose(seed: int, split: str | None = None) -> Story:
    """A tale with its derivation; `split` is "train", "held_out" or None for either.

    Raises: InputError for another split.
    """
    if split not in (None, "train", "held_out"):
        raise InputError(f'split is {split!r}: give "train", "held_out" or None')
    rng = random.Random(seed)
    while True:
        opening, scene = write_opening(rng)
        if split is None or is_held_out(opening) == (split == "held_out"):
            break
    sentences, log_probability = write_ending(scene, rng)
    return Story(opening, scene, sentences, log_probability)


def write(seed: int, split: str | None = None) -> tuple[str, str]:
    """A tale: (opening, ending)."""
    story = compose(seed, split)
    return story.opening, story.ending


def openings(count: int, seed: int, split: str | None = None) -> list[str]:
    """`count` different openings."""
    found: dict[str, None] = {}
    rng = random.Random(f"openings {seed}")
    while len(found) < count:
        opening, _ = write_opening(rng)
        if split is None or is_held_out(opening) == (split == "held_out"):
            found[opening] = None
    return list(found)


def skeleton(ending: str) -> str:
    """The ending with names, things and places as slots: what is left when only the nouns are swapped."""
    slots = {**dict.fromkeys(FILLERS["HERO"], "NAME"), **dict.fromkeys(FILLERS["THING"], "THING"),
             **dict.fromkeys(FILLERS["PLACE"], "PLACE")}
    return "".join(t[: len(t) - len(w)] + slots.get(w, w) for t in tokenise(ending) for w in [t.lstrip()])
