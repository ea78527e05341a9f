"""Exercises on one person's taste: blind cards, and a win rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlhf_mini.checks.exercise import Result
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.teaching.measured import mean_error

Figures = tuple[float, float]  # a number and its error
Cards = tuple[list[list[str]], list[str]]


def check_blind(function: Any) -> Result:
    """Check f(endings_a, endings_b, coins), lists of N: the cards [left, right], and whose the left one is."""
    return check_plain(BLIND, function)


def check_win_rate(function: Any) -> Result:
    """Check f(choices), N times "after", "before" or "neither": the win rate and its standard error."""
    return check_plain(WIN_RATE, function)


# --- blind cards ----------------------------------------------------------------------------------------------------


def deal(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """The cards, where coin 1 puts b's ending on the left, and the key: who wrote the left card."""
    triples = list(zip(endings_a, endings_b, coins, strict=True))
    return ([[b, a] if coin else [a, b] for a, b, coin in triples],
            ["same" if a == b else "b" if coin else "a" for a, b, coin in triples])


def coins_ignored(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """the coins are ignored: a's ending is always on the left, so everybody can tell whose it is"""
    return deal(endings_a, endings_b, [0] * len(coins))


def coins_turned(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """the coins are read the other way round: coin 1 puts b's ending on the left"""
    return deal(endings_a, endings_b, [1 - coin for coin in coins])


def key_stays(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """the cards change sides, but the key does not: it has to follow the coin"""
    return deal(endings_a, endings_b, coins)[0], coins_ignored(endings_a, endings_b, coins)[1]


def key_of_the_right_card(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """the key names who wrote the right card: it should name who wrote the left one"""
    return deal(endings_a, endings_b, coins)[0], coins_turned(endings_a, endings_b, coins)[1]


def lists_swapped(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """the two lists are swapped on the cards: the key is right, but each text comes from the list of the other"""
    return deal(endings_b, endings_a, coins)


def equal_texts_owned(endings_a: Sequence[str], endings_b: Sequence[str], coins: Sequence[int]) -> Cards:
    """where both endings are the same text, nobody can prefer one: the key is "same" there"""
    return deal(endings_a, endings_b, coins)[0], ["b" if coin else "a" for coin in coins]


BLIND = PlainExercise(
    name="blind cards",
    right=deal,
    mistakes=[coins_ignored, coins_turned, key_stays, key_of_the_right_card, lists_swapped,
              equal_texts_owned],
    cases={
        "with two pairs": {"endings_a": ["It rained.", "He slept."], "endings_b": ["So.", "He sang."], "coins": [1, 0]},
        "with four pairs, one of equal texts": {
            "endings_a": ["It rained.", "He slept.", "They left.", "She sang."],
            "endings_b": ["So.", "He sang.", "They left.", "He wept."], "coins": [0, 1, 1, 0]},
    },
)


# --- the win rate ---------------------------------------------------------------------------------------------------

POINTS = {"after": 1.0, "neither": 0.5, "before": 0.0}


def win_rate(choices: Sequence[str]) -> Figures:
    found = mean_error([POINTS[choice] for choice in choices])
    return found.value, found.error


def ties_dropped(choices: Sequence[str]) -> Figures:
    """the ties are dropped: each is half a win, and counts among the n pairs"""
    return win_rate([choice for choice in choices if choice != "neither"])


def ties_won(choices: Sequence[str]) -> Figures:
    """a tie counts as a win: it is half of one"""
    return win_rate(["after" if choice == "neither" else choice for choice in choices])


def ties_lost(choices: Sequence[str]) -> Figures:
    """a tie counts as a loss: it is half a win"""
    return win_rate(["before" if choice == "neither" else choice for choice in choices])


def losses_counted(choices: Sequence[str]) -> Figures:
    """the wins of the wrong side are counted: "after" is a win, and "before" is a loss"""
    return 1 - win_rate(choices)[0], win_rate(choices)[1]


def root_missing(choices: Sequence[str]) -> Figures:
    """the standard deviation is divided by n: divide it by the root of n"""
    rate, error = win_rate(choices)
    return rate, error / math.sqrt(len(choices))


def spread_of_one(choices: Sequence[str]) -> Figures:
    """this is the standard deviation of one pair's points: divide it by the root of n"""
    rate, error = win_rate(choices)
    return rate, error * math.sqrt(len(choices))


def divided_by_n(choices: Sequence[str]) -> Figures:
    """the standard deviation is the biased one, divided by n: divide by n - 1 (correction=1, or ddof=1 in numpy)"""
    rate, error = win_rate(choices)
    return rate, error * math.sqrt((len(choices) - 1) / len(choices))


def as_a_coin(choices: Sequence[str]) -> Figures:
    """the error is that of a coin, which has no ties: take the standard deviation of the points"""
    rate = win_rate(choices)[0]
    return rate, math.sqrt(rate * (1 - rate) / len(choices))


WIN_RATE = PlainExercise(
    name="win rate", right=win_rate,
    mistakes=[ties_dropped, ties_won, ties_lost, losses_counted, root_missing, spread_of_one, divided_by_n,
              as_a_coin],
    cases={
        "with four ties": {"choices": ["after"] * 12 + ["neither"] * 4 + ["before"] * 4},
        "with one tie": {"choices": ["before", "after", "neither", "before", "after"]},
        "without ties": {"choices": ["after", "before", "after"]},
    },
)
