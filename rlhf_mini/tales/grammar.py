"""Writes tales: an opening, and an ending that follows from it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from rlhf_mini.errors import InputError
from rlhf_mini.tales.lexicon import FILLERS, GENDER, PLACE_TAGS, THING_TAGS, THREADS
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
from rlhf_mini.texts import text

MAX_SENTENCES = 5
MAX_WORDS = 44  # words and punctuation marks of an ending
MAX_CHARACTERS = 159  # with MAX_WORDS, this keeps an ending within about 50 tokens
SENTENCES = {2: 0.15, 3: 0.5, 4: 0.2, 5: 0.15}  # numbers of sentences that are tried, and their probabilities
BRIEF_FROM = 5  # an ending of so many sentences or more has only brief ones


@dataclass(frozen=True)
class Scene:
    """The facts at one point of a tale. The opening sets them, and every sentence may change them."""

    hero: str
    thing: str
    adjective: str | None
    place: str
    friend: str | None
    state: str  # of the thing: one of THING_STATES
    mood: str  # one of MOODS
    origin: str = "own"  # one of ORIGINS
    thread: str = NO_THREAD  # the current thread of the tale

    @property
    def company(self) -> str:
        return "together" if self.friend else "alone"

    def meets(self, pattern: Pattern) -> bool:
        """Whether a sentence may follow here."""
        return not any(self.objections(pattern))

    def objections(self, pattern: Pattern) -> Iterator[str]:
        """The reasons why a sentence may not follow here, as text for a person."""
        if pattern.thread != self.thread:
            yield (f"{THREADS[self.thread[1:]]} is forgotten" if pattern.thread == NO_THREAD
                   else f"nothing has been told of {THREADS[pattern.thread[1:]]}")
        for kind, now in zip(STATE_KINDS, (self.state, self.company, self.mood, self.origin), strict=True):
            allowed = kind & pattern.needs
            if allowed and now not in allowed:
                yield FACTS[now].format(thing=self.thing, hero=self.hero, friend=self.friend)
        if not self.suits(pattern):
            yield f"that is not done with a {self.thing}"

    def suits(self, pattern: Pattern) -> bool:
        """Whether the thing and the place have the tags that a sentence needs."""
        return (not pattern.thing_tags or bool(pattern.thing_tags & THING_TAGS[self.thing])) and (
            not pattern.place_tags or bool(pattern.place_tags & PLACE_TAGS[self.place]))

    def after(self, pattern: Pattern, friend: str | None) -> Scene:
        """The scene after the sentence."""
        state = next((s for s in THING_STATES if s in pattern.sets), self.state)
        mood = next((m for m in MOODS if m in pattern.sets), self.mood)
        return replace(self, state=state, mood=mood, friend=self.friend or friend,
                       thread=pattern.next_thread or self.thread)


STATE_KINDS = tuple(frozenset(kind) for kind in (THING_STATES, COMPANY, MOODS, ORIGINS))
FACTS = {
    "wanted": "{hero} has no {thing} yet", "here": "nothing has happened to the {thing}",
    "broken": "the {thing} is broken", "lost": "the {thing} is lost", "given": "the {thing} was given away",
    "eaten": "the {thing} was eaten", "alone": "nobody else has been named", "together": "{friend} is there",
    "calm": "nothing has stirred {hero} yet", "glad": "all is well", "sad": "{hero} is sad",
    "cross": "{hero} and {friend} are cross", "found": "the {thing} was found", "own": "the {thing} is {hero}'s own",
}


def followers(scene: Scene, closes: bool, brief: bool, told: set[str]) -> list[Pattern]:
    """The sentences that may come next: closing ones or others, brief ones or all, and none that was told."""
    state = (scene.state, scene.company, scene.mood, scene.origin, scene.thread, scene.thing)
    return [p for p in _followers(*state, closes, brief) if p.text not in told]


@cache
def _followers(state: str, company: str, mood: str, origin: str, thread: str, thing: str, closes: bool,
               brief: bool) -> tuple[Pattern, ...]:
    scene = Scene("", thing, None, "", "somebody" if company == "together" else None, state, mood, origin, thread)
    return tuple(p for p in ENDINGS if p.closes == closes and (p.brief or not brief) and scene.meets(p))


@cache
def usable_variants(pattern: Pattern, gender: str, has_adjective: bool) -> tuple[Variant, ...]:
    """The ways to say a sentence of a hero of this gender."""
    return tuple(v for v in pattern.variants
                 if v.gender in (None, gender) and (has_adjective or "ADJ" not in v.roles))


def strangers(scene: Scene) -> list[str]:
    """Whom the hero may meet."""
    return [name for name in FILLERS["NEW"] if name != scene.hero]


def fits(tokens: list[str]) -> bool:
    """Whether an ending is short enough, given its words and marks with the spaces before them."""
    return len(tokens) <= MAX_WORDS and sum(map(len, tokens)) <= MAX_CHARACTERS


@dataclass(frozen=True)
class Sentence:
    """A sentence, with the pattern and the tokens that made it."""

    pattern: Pattern
    tokens: tuple[Token, ...]  # with the roles filled in

    @property
    def text(self) -> str:
        return "".join(t.text for t in self.tokens).strip()


@dataclass(frozen=True)
class Story:
    """A tale, and the choices that made it."""

    opening: str
    scene: Scene  # after the opening
    sentences: tuple[Sentence, ...]

    @property
    def ending(self) -> str:
        return " ".join(s.text for s in self.sentences)


def is_held_out(opening: str) -> bool:
    """Whether an opening is held out: one in eight, chosen by a hash of its text, never occurs in training."""
    return zlib.crc32(text("opening", opening).encode(errors="surrogatepass")) % 8 == 0


def _fill(variant: Variant, words: dict[str, str]) -> tuple[Token, ...]:
    return tuple(Token(" " + words[t.role], t.role, t.optional) if t.role in words else t for t in variant.tokens)


def write_opening(rng: random.Random) -> tuple[str, Scene]:
    """A random opening, and the scene that it sets."""
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
    """The text of the opening; two animals in it are of different species."""
    kinds = rng.sample(FILLERS["SPECIES"], 2)
    return "".join(" " + (kinds.pop() if t.role == "SPECIES" else words[t.role]) if t.role in words else t.text
                   for t in variant.tokens).strip()


def write_ending(scene: Scene, rng: random.Random) -> tuple[Sentence, ...]:
    """Try until a try is kept."""
    while not (sentences := try_ending(scene, rng)):
        pass
    return sentences


def try_ending(scene: Scene, rng: random.Random) -> tuple[Sentence, ...]:
    """A random walk over the sentences that may follow, none twice; none at all where it is stuck or too long."""
    length = rng.choices(list(SENTENCES), list(SENTENCES.values()))[0]
    sentences: list[Sentence] = []
    for i in range(length):
        told = {s.pattern.text for s in sentences}
        patterns = followers(scene, i == length - 1, length >= BRIEF_FROM, told)
        if not patterns:
            return ()
        pattern = rng.choices(patterns, [p.weight for p in patterns])[0]
        variant = rng.choice(usable_variants(pattern, GENDER[scene.hero], scene.adjective is not None))
        sentence, friend = _fill_in(scene, pattern, variant, rng)
        sentences.append(sentence)
        scene = scene.after(pattern, friend)
    return tuple(sentences) if fits([t.text for s in sentences for t in s.tokens]) else ()


def _fill_in(scene: Scene, pattern: Pattern, variant: Variant, rng: random.Random) -> tuple[Sentence, str | None]:
    """Fill the roles; returns the sentence, and the newly named friend."""
    words = {"HERO": scene.hero, "THING": scene.thing, "ADJ": scene.adjective or "", "FRIEND": scene.friend or ""}
    if "NEW" in variant.roles:
        words["NEW"] = rng.choice(strangers(scene))
    return Sentence(pattern, _fill(variant, words)), words.get("NEW")


def compose(seed: int, split: str | None = None) -> Story:
    """A tale with its derivation; `split` is "train", "held_out" or None for either.

    Raises: InputError for another split.
    """
    _check_split(split)
    rng = random.Random(seed)
    while True:
        opening, scene = write_opening(rng)
        if split is None or is_held_out(opening) == (split == "held_out"):
            break
    return Story(opening, scene, write_ending(scene, rng))


def _check_split(split: str | None) -> None:
    if split not in (None, "train", "held_out"):
        raise InputError(f'split is {split!r}: give "train", "held_out" or None')


def write(seed: int, split: str | None = None) -> tuple[str, str]:
    """A tale: (opening, ending)."""
    story = compose(seed, split)
    return story.opening, story.ending


def openings(count: int, seed: int, split: str | None = None) -> list[str]:
    """`count` different openings, of one split or of both. Raises: InputError for another split."""
    _check_split(split)
    found: dict[str, None] = {}
    rng = random.Random(f"openings {seed}")
    while len(found) < count:
        opening, _ = write_opening(rng)
        if split is None or is_held_out(opening) == (split == "held_out"):
            found[opening] = None
    return list(found)
