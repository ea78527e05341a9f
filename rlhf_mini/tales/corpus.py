"""The pretraining corpus: pages from the world of the tales, where a tale is one form of text among several."""

from __future__ import annotations

import random
from collections.abc import Iterator

from rlhf_mini.tales.grammar import is_held_out, write_ending, write_opening
from rlhf_mini.tales.lexicon import FILLERS
from rlhf_mini.tales.patterns import Pattern, load

FORMS: tuple[Pattern, ...] = load("forms.txt")


def write_form(rng: random.Random) -> str:
    """A notice, a letter, a rhyme, a recipe …"""
    variant = rng.choice(rng.choice(FORMS).variants)
    hero, friend = rng.sample(FILLERS["HERO"], 2)
    words = {"HERO": hero, "FRIEND": friend}
    return "".join(
        t.text if t.role is None else " " + words.get(t.role, rng.choice(FILLERS[t.role]))
        for t in variant.tokens).strip()


def _piece(rng: random.Random) -> str:
    """A tale, an opening followed by another form, or another form alone."""
    kind = rng.random()
    if kind > 0.93:
        return write_form(rng)
    opening, scene = write_opening(rng)
    while is_held_out(opening):
        opening, scene = write_opening(rng)
    if kind > 0.86:
        return opening + "\n" + write_form(rng)
    return opening + " " + " ".join(s.text for s in write_ending(scene, rng))


def corpus(documents: int, seed: int) -> Iterator[str]:
    """Pages of two pieces each, without held-out openings."""
    rng = random.Random(f"corpus {seed}")
    for _ in range(documents):
        yield _piece(rng) + "\n" + _piece(rng)
