"""How probable an ending is after its opening; the mean of -ln P over tales is their entropy."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from statistics import fmean

from rlhf_mini.errors import InputError
from rlhf_mini.tales.grammar import (
    BRIEF_FROM,
    SENTENCES,
    Scene,
    fits,
    followers,
    strangers,
    try_ending,
    usable_variants,
)
from rlhf_mini.tales.lexicon import GENDER
from rlhf_mini.tales.patterns import tokens_and_classes
from rlhf_mini.tales.reader import Match, parses_of, read_opening, wrong_words
from rlhf_mini.texts import text

ROUNDS = 40  # rounds of tries by which `log_kept` counts, with an error of about 0.15


def log_probability(opening: str, ending: str) -> float:
    """ln P(ending | opening): minus infinity for what the grammar never writes. Units: nats per ending.

    It sums over all ways to write the text, and divides by the share of tries that the writer keeps. That share is
    estimated, by tries that depend on the opening alone, so that the result is right on average.
    Raises: InputError where the opening is not the opening of a tale, or one of the two is no text.
    """
    scene = read_opening(text("opening", opening))
    if scene is None:
        raise InputError(f"{opening!r} is not the opening of a tale: give one, as `tales.openings` does")
    tokens, _ = tokens_and_classes(text("ending", ending))
    kept = math.fsum(_probability(scene, parse) for parse in parses_of(ending)) if fits(tokens) else 0.0
    return math.log(kept) - log_kept(scene) if kept else -math.inf


def _probability(scene: Scene, parse: list[Match]) -> float:
    """That the writer tries to write this row of sentences, in this way."""
    probability, told = SENTENCES.get(len(parse), 0.0), set[str]()
    for number, match in enumerate(parse, 1):
        patterns = followers(scene, number == len(parse), len(parse) >= BRIEF_FROM, told)
        met = {word for role, word in match.words if role == "NEW"}
        if match.pattern not in patterns or any(wrong_words(scene, match)) or len(met) > 1:
            return 0.0
        variants = usable_variants(match.pattern, GENDER[scene.hero], scene.adjective is not None)
        choices = len(variants) * (len(strangers(scene)) if met else 1)
        probability *= match.pattern.weight / (sum(p.weight for p in patterns) * choices)
        told.add(match.pattern.text)
        scene = scene.after(match.pattern, next(iter(met), None))
    return probability


@lru_cache(maxsize=65_536)
def log_kept(scene: Scene, rounds: int = ROUNDS) -> float:
    """ln of the share of tries that the writer keeps: others get stuck or too long, and it tries again.

    In a round tries are made until one is kept. If n were dropped, 1 + 1/2 + ... + 1/n has the mean -ln of the share.
    """
    rng = random.Random(repr(scene))
    dropped = []
    for _ in range(rounds):
        dropped.append(0)
        while not try_ending(scene, rng):
            dropped[-1] += 1
    return -fmean(sum(1 / i for i in range(1, n + 1)) for n in dropped)
