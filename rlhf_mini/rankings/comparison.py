"""Compare annotators: agreement, Kendall's tau, Krippendorff's alpha, position bias, time per item."""

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

ItemKey = tuple[str, tuple[str, ...]]  # what was judged: the prompt, and the completions in sorted order
Ranks = tuple[float, ...]  # one rank for each completion of an item: 0 is the best, ties share their mean


@dataclass(frozen=True)
class Statistic:
    """A number and the count of cases it is computed from, or the reason why there is no number."""

    value: float | None
    count: int = 0
    reason: str = ""

    def text(self, form: str = "{:.2f}") -> str:
        """The number, or "n/a"."""
        return "n/a" if self.value is None else form.format(self.value)


@dataclass(frozen=True)
class AnnotatorSummary:
    """One annotator, compared with all the others."""

    judged: int  # number of items
    with_others: Statistic  # share of pairs that the other annotators' mean rank orders in the same way
    tau_with_others: Statistic
    first_wins: Statistic  # share of items whose first shown completion is ranked first; a tie counts in part
    first_by_chance: Statistic  # the same share if positions did not matter
    first_p: Statistic  # p-value of first_wins, if positions did not matter
    seconds: Statistic  # median time per item


@dataclass(frozen=True)
class Agreement:
    """How far annotators agree; `agreement` and `tau` have one entry for every two of them."""

    annotators: dict[str, AnnotatorSummary]
    alpha: Statistic  # Krippendorff's, ordinal: 1 is full agreement, 0 is chance
    agreement: dict[tuple[str, str], Statistic]  # share of pairs that both order in the same way
    tau: dict[tuple[str, str], Statistic]  # Kendall's tau-b, -1 to 1


def agreement(records: Iterable[Ranking | Mapping[str, Any]]) -> Agreement:
    """Compare the current judgements; ratings are compared by the ranking that follows from them.

    A statistic that cannot be computed (one annotator, nothing judged by both) has the value None and a reason.
    Sources: Kendall 1945 (tau-b, over all pairs within an item); Krippendorff 2011 (alpha, ordinal).
    """
    judged = [record for record in current(records) if record.ranking]
    ranks: dict[str, dict[ItemKey, Ranks]] = defaultdict(dict)
    for record in judged:
        ranks[record.annotator][record.item] = ranks_of(record)
    names = sorted(ranks)
    both = {(a, b): [(ranks[a][item], ranks[b][item]) for item in ranks[a] if item in ranks[b]]
            for a, b in combinations(names, 2)}
    return Agreement(
        {name: _summary(name, ranks, [r for r in judged if r.annotator == name]) for name in names},
        _alpha(ranks),
        {pair: ordered_alike(common) for pair, common in both.items()},
        {pair: tau_b(common) for pair, common in both.items()})


def ranks_of(record: Ranking) -> Ranks:
    """The rank of each completion, in the sorted order of their texts; the members of a tie share their mean rank.

    Completions with the same text share their mean rank, too.
    """
    by_text: dict[str, list[float]] = defaultdict(list)
    better = 0
    for group in record.ranking:
        for index in group:
            by_text[record.completions[index]].append(better + (len(group) - 1) / 2)
        better += len(group)
    return tuple(statistics.fmean(by_text[text]) for text in sorted(record.completions))


def ordered_alike(common: Sequence[tuple[Ranks, Ranks]]) -> Statistic:
    """Of the pairs of completions that neither annotator ties, the share that both order in the same way."""
    alike, opposite, _, _ = _pairs(common)
    if not common:
        return Statistic(None, 0, "no item was judged by both")
    if not alike + opposite:
        return Statistic(None, 0, "no pair was ordered by both")
    return Statistic(alike / (alike + opposite), alike + opposite)


def tau_b(common: Sequence[tuple[Ranks, Ranks]]) -> Statistic:
    """Kendall's tau-b over all pairs of completions within an item."""
    alike, opposite, only_first, only_second = _pairs(common)
    if not common:
        return Statistic(None, 0, "no item was judged by both")
    product = (alike + opposite + only_first) * (alike + opposite + only_second)
    if not product:
        return Statistic(None, 0, "one of them ties all completions")
    return Statistic((alike - opposite) / math.sqrt(product), alike + opposite + only_first + only_second)


def _pairs(common: Sequence[tuple[Ranks, Ranks]]) -> tuple[int, int, int, int]:
    """Numbers of pairs: ordered by both alike, by both oppositely, by the first alone, by the second alone."""
    alike = opposite = only_first = only_second = 0
    for first, second in common:
        for i, j in combinations(range(len(first)), 2):
            one, other = first[i] - first[j], second[i] - second[j]
            alike += one * other > 0
            opposite += one * other < 0
            only_first += one != 0 and other == 0
            only_second += one == 0 and other != 0
    return alike, opposite, only_first, only_second


def _summary(name: str, ranks: Mapping[str, Mapping[ItemKey, Ranks]], own: Sequence[Ranking]) -> AnnotatorSummary:
    others = [of_one for other, of_one in ranks.items() if other != name]
    common = [(mine, pooled) for item, mine in ranks[name].items()
              if (pooled := _mean_ranks([of_one[item] for of_one in others if item in of_one]))]
    reason = "there is one annotator" if len(ranks) == 1 else "no other annotator judged the same items"
    with_others = ordered_alike(common) if common else Statistic(None, 0, reason)
    tau = tau_b(common) if common else Statistic(None, 0, reason)
    return AnnotatorSummary(len(own), with_others, tau, *_first_wins(own), _seconds(own))


def _mean_ranks(others: Sequence[Ranks]) -> Ranks | None:
    """The mean of several annotators' ranks; None for no annotator."""
    return tuple(map(statistics.fmean, zip(*others, strict=True))) if others else None


def _first_wins(own: Sequence[Ranking]) -> tuple[Statistic, Statistic, Statistic]:
    """Position bias: how often the first card wins, how often it would by chance, and the p-value of the gap."""
    shown = [record for record in own if record.shown_order]
    if not shown:
        nothing = Statistic(None, 0, "no record has a shown_order")
        return nothing, nothing, nothing
    wins = [(record.shown_order[0] in record.ranking[0]) / len(record.ranking[0]) for record in shown]
    chances = [1 / len(record.completions) for record in shown]
    # If positions do not matter, each of the K cards is shown first equally often. g of them share the first rank:
    # the win is 1/g in g of K cases, and 0 in the others.
    variance = sum(chance / len(record.ranking[0]) - chance**2 for chance, record in zip(chances, shown, strict=True))
    gap = abs(sum(wins) - sum(chances))
    p = Statistic(math.erfc(gap / math.sqrt(2 * variance)), len(shown)) if variance > 1e-12 else Statistic(
        None, 0, "all completions are tied")
    return (Statistic(statistics.fmean(wins), len(shown)), Statistic(statistics.fmean(chances), len(shown)), p)


def _seconds(own: Sequence[Ranking]) -> Statistic:
    times = [record.seconds for record in own if record.seconds]
    return Statistic(statistics.median(times), len(times)) if times else Statistic(None, 0, "no time was recorded")


def _alpha(ranks: Mapping[str, Mapping[ItemKey, Ranks]]) -> Statistic:
    """Krippendorff's alpha over the ranks of all completions that at least two annotators judged."""
    if len(ranks) < 2:
        return Statistic(None, 0, "there is one annotator" if ranks else "there are no judgements")
    items = [item for item in dict.fromkeys(item for own in ranks.values() for item in own)
             if sum(item in own for own in ranks.values()) > 1]
    if not items:
        return Statistic(None, 0, "no item was judged by two annotators")
    table = [[rank for item in items for rank in own.get(item, (math.nan,) * len(item[1]))] for own in ranks.values()]
    if len({rank for row in table for rank in row if not math.isnan(rank)}) < 2:
        return Statistic(None, 0, "every annotator ties all completions")
    import krippendorff
    import numpy as np

    return Statistic(float(krippendorff.alpha(np.array(table), level_of_measurement="ordinal")), len(items))
