"""Exercises on judgements: tie groups from ratings, pairs from a ranking, agreement, and wins of the first card."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, groupby, pairwise
from statistics import fmean
from typing import Any

from rlhf_mini.checks.exercise import Result
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.rankings import agreement, ranking_from_ratings
from rlhf_mini.rankings.comparison import ordered_alike
from rlhf_mini.teaching.judging import pairs_of

TieGroups = Sequence[Sequence[int]]
Pairs = list[tuple[int, int]]


def check_tie_groups(function: Any) -> Result:
    """Check f(ratings): tie groups of the endings' numbers, best first."""
    return check_plain(TIE_GROUPS, function)


def check_pairs(function: Any) -> Result:
    """Check f(ranking): (better, worse) for every two endings that are not tied, in any order."""
    return check_plain(PAIRS, function)


def check_agreement(function: Any) -> Result:
    """Check f(ranks_a, ranks_b): of the pairs that both order, the share ordered alike; None without such a pair."""
    return check_plain(AGREEMENT, function)


def check_first_wins(function: Any) -> Result:
    """Check f(shown_orders, rankings): how often the first card on the screen wins; 1/g of a win in a tie of g."""
    return check_plain(FIRST_WINS, function)


# --- tie groups -------------------------------------------------------------------------------------------------


def worst_first(ratings: Sequence[int]) -> list[list[int]]:
    """the worst group comes first: more points are better, so begin with the highest rating"""
    return ranking_from_ratings(ratings)[::-1]


def ratings_themselves(ratings: Sequence[int]) -> list[list[int]]:
    """the groups hold the ratings: put the numbers of the endings there, which are their places in the list"""
    return [[ratings[i] for i in group] for group in ranking_from_ratings(ratings)]


def no_ties(ratings: Sequence[int]) -> list[list[int]]:
    """every ending has a group of its own: endings with equal ratings belong in one group"""
    return [[i] for group in ranking_from_ratings(ratings) for i in group]


def neighbours_tie(ratings: Sequence[int]) -> list[list[int]]:
    """only neighbours in the list are tied: look for equal ratings in the whole list"""
    runs = [(mark, [i for i, _ in run]) for mark, run in groupby(enumerate(ratings), key=lambda pair: pair[1])]
    return [group for _, group in sorted(runs, key=lambda run: -run[0])]


def empty_groups(ratings: Sequence[int]) -> list[list[int]]:
    """some groups are empty: leave out the ratings that nobody gave"""
    return [[i for i, rating in enumerate(ratings) if rating == level] for level in range(7, 0, -1)]


TIE_GROUPS = PlainExercise(
    name="tie groups",
    right=ranking_from_ratings,
    mistakes=[worst_first, ratings_themselves, no_ties, neighbours_tie, empty_groups],
    cases={"with a tie for best": {"ratings": [6, 3, 6, 1]}, "without a tie": {"ratings": [2, 7, 5]},
           "with two ties": {"ratings": [4, 4, 1, 7, 1]}, "with all equal": {"ratings": [5, 5, 5, 5]}},
)


# --- pairs ------------------------------------------------------------------------------------------------------


def tied_pairs(ranking: TieGroups) -> Pairs:
    """tied endings give pairs, too: take the two endings of a pair from different groups"""
    return list(combinations([i for group in ranking for i in group], 2))


def worse_first(ranking: TieGroups) -> Pairs:
    """the two are the wrong way round: (better, worse), and the better ending stands in the earlier group"""
    return [(worse, better) for better, worse in pairs_of(ranking)]


def next_group_only(ranking: TieGroups) -> Pairs:
    """only neighbouring groups are compared: each ending is better than those of all later groups"""
    return [(i, j) for group, lower in pairwise(ranking) for i in group for j in lower]


def places(ranking: TieGroups) -> Pairs:
    """the pairs hold the places of the groups: put the numbers of the endings there"""
    return list(combinations(range(len(ranking)), 2))


def first_group_only(ranking: TieGroups) -> Pairs:
    """only the endings of the first group are compared: those of later groups are better than the ones below them"""
    return [(i, j) for i in ranking[0] for group in ranking[1:] for j in group]


PAIRS = PlainExercise(
    name="pairs",
    right=pairs_of,
    mistakes=[tied_pairs, worse_first, next_group_only, first_group_only, places],
    cases={"without a tie": {"ranking": [[1], [2], [0]]}, "with a tie for best": {"ranking": [[2, 3], [1], [0]]},
           "with two ties": {"ranking": [[3, 0], [1, 2]]}, "with all tied": {"ranking": [[0, 1, 2]]}},
    any_order=True,
)


# --- agreement --------------------------------------------------------------------------------------------------


def _orders(a: Sequence[float], b: Sequence[float]) -> list[tuple[float, float]]:
    """For each pair of endings, how far the second is below the first, for one annotator and for the other."""
    return [(a[j] - a[i], b[j] - b[i]) for i, j in combinations(range(len(a)), 2)]


def share_alike(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Of the pairs that both order, the share ordered alike; None where there is none."""
    return ordered_alike([(tuple(a), tuple(b))]).value


def ties_are_unlike(a: Sequence[float], b: Sequence[float]) -> float | None:
    """pairs that one of them ties are counted: divide by the number of pairs that both order"""
    return fmean(x * y > 0 for x, y in _orders(a, b))


def ties_are_alike(a: Sequence[float], b: Sequence[float]) -> float | None:
    """a pair that one of them ties counts as alike: leave it out, because a tie is no order"""
    return fmean(x * y >= 0 for x, y in _orders(a, b))


def kendall(a: Sequence[float], b: Sequence[float]) -> float | None:
    """this is alike less unlike, as in Kendall's tau, from -1 to 1: divide the pairs alike by all that both order"""
    share = share_alike(a, b)
    return None if share is None else 2 * share - 1


def equal_ranks(a: Sequence[float], b: Sequence[float]) -> float | None:
    """this compares the rank of each ending: compare the order of each two endings"""
    return fmean(x == y for x, y in zip(a, b, strict=True))


def ties_of_one_counted(a: Sequence[float], b: Sequence[float]) -> float | None:
    """pairs that the first annotator ties are counted: leave a pair out if either of the two ties it"""
    ordered = [x * y > 0 for x, y in _orders(a, b) if y]
    return fmean(ordered) if ordered else None


def zero_without_pairs(a: Sequence[float], b: Sequence[float]) -> float:
    """where both order no pair, this returns 0, as if they disagreed on everything: return None, for no number"""
    return share_alike(a, b) or 0.0


AGREEMENT = PlainExercise(
    name="agreement",
    right=share_alike,
    mistakes=[ties_are_unlike, ties_are_alike, ties_of_one_counted, kendall, equal_ranks, zero_without_pairs],
    cases={"without ties": {"ranks_a": [0, 1, 2], "ranks_b": [0, 2, 1]},
           "with a tie": {"ranks_a": [0, 1, 2, 3], "ranks_b": [1, 0, 2.5, 2.5]},
           "with a tie and falling ranks": {"ranks_a": [2, 3, 0.5, 0.5], "ranks_b": [0.5, 2, 0.5, 3]},
           "with ties of both": {"ranks_a": [0.5, 0.5, 2, 3], "ranks_b": [3, 1, 1, 1]},
           "with no pair that both order": {"ranks_a": [0, 1, 2], "ranks_b": [1, 1, 1]}},
)


# --- the first card ---------------------------------------------------------------------------------------------


def first_wins(shown_orders: Sequence[Sequence[int]], rankings: Sequence[TieGroups]) -> float:
    """How often the ending that was shown first is ranked best; in a tie of g it has 1/g of a win."""
    records = [{"id": str(i), "annotator": "toy", "prompt": f"{i}", "completions": [str(j) for j in order],
                "shown_order": order, "ranking": ranking}
               for i, (order, ranking) in enumerate(zip(shown_orders, rankings, strict=True))]
    return agreement(records).annotators["toy"].first_wins.value or 0.0


def ending_zero(shown_orders: Sequence[Sequence[int]], rankings: Sequence[TieGroups]) -> float:
    """this counts the wins of ending 0: the first card on the screen is ending shown_order[0]"""
    return first_wins([sorted(order) for order in shown_orders], rankings)


def whole_wins(shown_orders: Sequence[Sequence[int]], rankings: Sequence[TieGroups]) -> float:
    """a tie for best counts as a whole win: of g tied endings, each has 1/g"""
    return fmean(order[0] in ranking[0] for order, ranking in zip(shown_orders, rankings, strict=True))


def ties_lose(shown_orders: Sequence[Sequence[int]], rankings: Sequence[TieGroups]) -> float:
    """a tie for best counts as no win: of g tied endings, each has 1/g"""
    return fmean([order[0]] == list(ranking[0]) for order, ranking in zip(shown_orders, rankings, strict=True))


def wins_in_all(shown_orders: Sequence[Sequence[int]], rankings: Sequence[TieGroups]) -> float:
    """this is the number of wins: divide by the number of rankings"""
    return first_wins(shown_orders, rankings) * len(rankings)


FIRST_WINS = PlainExercise(
    name="first wins",
    right=first_wins,
    mistakes=[ending_zero, whole_wins, ties_lose, wins_in_all],
    cases={"without ties": {"shown_orders": [[2, 0, 1], [1, 2, 0]], "rankings": [[[2], [0], [1]], [[0], [1], [2]]]},
           "with a tie for best": {"shown_orders": [[1, 2, 0], [0, 2, 1], [2, 1, 0]],
                                   "rankings": [[[0, 1], [2]], [[1], [0, 2]], [[0, 1, 2]]]},
           "with two tied, of four": {"shown_orders": [[3, 1, 0, 2]], "rankings": [[[2, 3], [0], [1]]]}},
)
