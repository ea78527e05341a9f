"""Do several people judge alike? Agreement, Kendall's tau, Krippendorff's alpha, position bias, time per item."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rlhf_mini.rankings.judgements import current
from rlhf_mini.rankings.record import Ranking

Item = tuple[str, tuple[str, ...]]  # what was judged: prompt, completions in sorted order
Ranks = tuple[float, ...]  # of those completions, the best is 0, ties share their mean


@dataclass(frozen=True)
class Figure:
    """A number, from how many cases it comes, or why there is none."""

    value: float | None
    count: int = 0
    reason: str = ""

    def text(self, form: str = "{:.2f}") -> str:
        """The number, or "n/a"."""
        return "n/a" if self.value is None else form.format(self.value)


@dataclass(frozen=True)
class Annotator:
    """One annotator beside all the others."""

    judged: int  # items
    with_others: Figure  # share of pairs ordered as the other annotators' mean rank orders them
    tau_with_others: Figure
    first_wins: Figure  # share of items in which the completion shown first is ranked first; ties count in part
    first_by_chance: Figure  # the same for somebody who does not look at positions
    first_p: Figure  # chance of a first_wins at least as far from first_by_chance, if positions did not matter
    seconds: Figure  # per item, median


@dataclass(frozen=True)
class Agreement:
    """How alike annotators judge; `agreement` and `tau` have one entry for every two of them."""

    annotators: dict[str, Annotator]
    alpha: Figure  # Krippendorff's, ordinal: 1 is full agreement, 0 is chance
    agreement: dict[tuple[str, str], Figure]  # share of pairs ordered alike
    tau: dict[tuple[str, str], Figure]  # Kendall's tau-b, -1 to 1


def agreement(records: Iterable[Ranking | Mapping[str, Any]]) -> Agreement:
    """Compare the judgements that hold now, ratings by the ranking that follows from them.

    Where a figure cannot be known (one annotator, nothing judged by both), its value is None and it says why.
    Sources: Kendall 1945 (tau-b, over all pairs within an item); Krippendorff 2011 (alpha, ordinal).
    """
    judged = [record for record in current(records) if record.ranking]
    ranks: dict[str, dict[Item, Ranks]] = defaultdict(dict)
    for record in judged:
        ranks[record.annotator][record.item] = ranks_of(record)
    names = sorted(ranks)
    both = {(a, b): [(ranks[a][item], ranks[b][item]) for item in ranks[a] if item in ranks[b]]
            for a, b in combinations(names, 2)}
    return Agreement(
        {name: _annotator(name, ranks, [r for r in judged if r.annotator == name]) for name in names},
        _alpha(ranks),
        {pair: ordered_alike(common) for pair, common in both.items()},
        {pair: tau_b(common) for pair, common in both.items()})


def ranks_of(record: Ranking) -> Ranks:
    """The rank of each completion, in the sorted order of their texts; members of a tie share their mean.

    Completions with the same text are one and the same, and share theirs too.
    """
    by_text: dict[str, list[float]] = defaultdict(list)
    better = 0
    for group in record.ranking:
        for index in group:
            by_text[record.completions[index]].append(better + (len(group) - 1) / 2)
        better += len(group)
    return tuple(statistics.fmean(by_text[text]) for text in sorted(record.completions))


def ordered_alike(common: Sequence[tuple[Ranks, Ranks]]) -> Figure:
    """Of the pairs of completions that neither ties, the share that both order alike."""
    alike, unlike, _, _ = _pairs(common)
    if not common:
        return Figure(None, 0, "nothing judged by both")
    if not alike + unlike:
        return Figure(None, 0, "no pair that both put in an order")
    return Figure(alike / (alike + unlike), alike + unlike)


def tau_b(common: Sequence[tuple[Ranks, Ranks]]) -> Figure:
    """Kendall's tau-b over all pairs of completions within an item."""
    alike, unlike, only_first, only_second = _pairs(common)
    if not common:
        return Figure(None, 0, "nothing judged by both")
    product = (alike + unlike + only_first) * (alike + unlike + only_second)
    if not product:
        return Figure(None, 0, "one of them ties everything")
    return Figure((alike - unlike) / math.sqrt(product), alike + unlike + only_first + only_second)


def _pairs(common: Sequence[tuple[Ranks, Ranks]]) -> tuple[int, int, int, int]:
    """How many pairs both order alike, both order but differ, only the first orders, only the second."""
    alike = unlike = only_first = only_second = 0
    for first, second in common:
        for i, j in combinations(range(len(first)), 2):
            one, other = first[i] - first[j], second[i] - second[j]
            alike += one * other > 0
            unlike += one * other < 0
            only_first += one != 0 and other == 0
            only_second += one == 0 and other != 0
    return alike, unlike, only_first, only_second


def _annotator(name: str, ranks: Mapping[str, Mapping[Item, Ranks]], own: Sequence[Ranking]) -> Annotator:
    common = [(ranks[name][item], pooled) for item in ranks[name]
              if (pooled := _pooled([ranks[other][item] for other in ranks if other != name and item in ranks[other]]))]
    alone = "one annotator" if len(ranks) == 1 else "nothing that another annotator judged"
    with_others = ordered_alike(common) if common else Figure(None, 0, alone)
    tau = tau_b(common) if common else Figure(None, 0, alone)
    return Annotator(len(own), with_others, tau, *_first_wins(own), _seconds(own))


def _pooled(others: Sequence[Ranks]) -> Ranks | None:
    """The mean of several annotators' ranks."""
    return tuple(map(statistics.fmean, zip(*others, strict=True))) if others else None


def _first_wins(own: Sequence[Ranking]) -> tuple[Figure, Figure, Figure]:
    """Position bias: how often the first card wins, how often it would by chance, and how likely that gap is."""
    shown = [record for record in own if record.shown_order]
    if not shown:
        nothing = Figure(None, 0, "no record says in which order completions were shown")
        return nothing, nothing, nothing
    wins = [(record.shown_order[0] in record.ranking[0]) / len(record.ranking[0]) for record in shown]
    chances = [1 / len(record.completions) for record in shown]
    # By chance each of the K cards is first as often as any other: the win is 1/g in g of K cases, else 0.
    variance = sum(chance / len(record.ranking[0]) - chance**2 for chance, record in zip(chances, shown, strict=True))
    gap = abs(sum(wins) - sum(chances))
    p = Figure(math.erfc(gap / math.sqrt(2 * variance)), len(shown)) if variance > 1e-12 else Figure(
        None, 0, "all completions tie")
    return (Figure(statistics.fmean(wins), len(shown)), Figure(statistics.fmean(chances), len(shown)), p)


def _seconds(own: Sequence[Ranking]) -> Figure:
    known = [record.seconds for record in own if record.seconds]
    return Figure(statistics.median(known), len(known)) if known else Figure(None, 0, "no time was recorded")


def _alpha(ranks: Mapping[str, Mapping[Item, Ranks]]) -> Figure:
    """Krippendorff's alpha over the ranks of all completions that at least two annotators judged."""
    if len(ranks) < 2:
        return Figure(None, 0, "one annotator" if ranks else "no judgements")
    items = [item for item in dict.fromkeys(item for own in ranks.values() for item in own)
             if sum(item in own for own in ranks.values()) > 1]
    if not items:
        return Figure(None, 0, "nothing judged by two annotators")
    table = [[rank for item in items for rank in own.get(item, (math.nan,) * len(item[1]))] for own in ranks.values()]
    if len({rank for row in table for rank in row if not math.isnan(rank)}) < 2:
        return Figure(None, 0, "everybody ties everything")
    import krippendorff
    import numpy as np

    return Figure(float(krippendorff.alpha(np.array(table), level_of_measurement="ordinal")), len(items))
