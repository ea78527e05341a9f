"""Let programs rank for notebook 03, spoil one of them on purpose, and measure agreement and position bias."""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from rlhf_mini.rankings import Ranking, RankingSession, answer, to_pairs
from rlhf_mini.rankings.comparison import ItemKey, Ranks, ordered_alike, ranks_of
from rlhf_mini.tales import Annotator
from rlhf_mini.teaching.measured import Measured, resampled

Items = Sequence[tuple[str, Sequence[str]]]
RanksOf = Mapping[ItemKey, Ranks]  # one annotator's ranks, by what was ranked
EXAMPLE = ("Kaya heard a small sound near the fountain. It was an ordinary duckling, all alone.", (
    "She fed it milk from a spoon. She fed it milk from her hand. But in the night it slipped away. "
    'She called its name until dark. "Gone," whispered Kaya.',
    '"I was a baker once," sighed the ordinary duckling. Kaya kissed it, and there stood a tall young man.',
    "Kofi was there, with straw in both pockets. They built it a house of straw together. "
    "That evening they drank cocoa on the roof.",
    '"This is for the mayor\'s prize," said Kaya at the fair. '
    "It sat, rolled over and shook hands with the mayor. The ribbon hangs over Kaya's bed."))


@dataclass(frozen=True)
class Spoilt(Annotator):
    """An annotator with extra noise, and a bonus for the first card, both in points."""

    noise: float = 0.0
    first: float = 0.0

    def impressions(self, opening: str, completions: Sequence[str], rng: random.Random) -> list[float]:
        points = [x + rng.gauss(0, self.noise) for x in super().impressions(opening, completions, rng)]
        return [points[0] + self.first, *points[1:]]


# --- sessions of programs ---------------------------------------------------------------------------------------
# With the same annotator, opening and seed the impressions are the same, whatever is asked of them.


def _noise(annotator: Annotator, prompt: str, seed: int) -> random.Random:
    return random.Random(f"{seed} {annotator.name} {prompt}")


def ranked_by(annotator: Annotator, items: Items, seed: int = 0) -> list[Ranking]:
    """The annotator ranks the items, in the session that a person uses; `seed` shuffles the cards, too."""
    session = RankingSession(items, annotator.name, seed=seed, simulated=True)
    return answer(session, lambda prompt, shown: annotator.rank(prompt, shown, _noise(annotator, prompt, seed)))


def forced_to_choose(annotator: Annotator, items: Items, seed: int = 0) -> list[Ranking]:
    """The same without ties: the order of the impressions, however close they are."""
    def order(prompt: str, shown: Sequence[str]) -> list[list[int]]:
        points = annotator.impressions(prompt, shown, _noise(annotator, prompt, seed))
        return [[i] for i in sorted(range(len(shown)), key=lambda i: -points[i])]
    return answer(RankingSession(items, annotator.name, seed=seed, simulated=True), order)


def rated_by(annotator: Annotator, items: Items, seed: int = 0) -> list[Ranking]:
    """The same with 1 to 7 points for each ending."""
    session = RankingSession(items, annotator.name, seed=seed, simulated=True)
    while item := session.current:
        session.rate(annotator.rate(item.prompt, item.shown, _noise(annotator, item.prompt, seed)))
    return session.records


def print_record(record: Ranking) -> None:
    """The fields of a record that 03 explains, one on a line."""
    line = json.loads(record.to_line())
    for key in ("annotator", "prompt"):
        print(f"{key:15} {json.dumps(line[key])}")
    for i, ending in enumerate(line["completions"]):
        rows = textwrap.wrap(ending, 108, initial_indent=f"completions[{i}]  ", subsequent_indent=" " * 16)
        print("\n".join(rows))
    for key in ("shown_order", "ranking"):
        print(f"{key:15} {json.dumps(line[key])}")


# --- what is measured -------------------------------------------------------------------------------------------


def pairs_of(ranking: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(better, worse) for every two endings of a ranking that are not tied."""
    texts = [str(i) for i in range(sum(map(len, ranking)))]
    record = {"id": "1", "annotator": "toy", "prompt": "", "completions": texts, "ranking": ranking}
    return [(int(better), int(worse)) for _, better, worse in to_pairs([record])]


def ranks(records: Sequence[Ranking]) -> dict[ItemKey, Ranks]:
    """Ranks of the endings, for each item: 0 is the best, and ties share their mean."""
    return {record.item: ranks_of(record) for record in records}


def mean_ranks(panel: Sequence[RanksOf]) -> dict[ItemKey, Ranks]:
    """The mean of several annotators' ranks, for each item that all have ranked."""
    return {item: tuple(map(fmean, zip(*(of_one[item] for of_one in panel), strict=True)))
            for item in panel[0] if all(item in of_one for of_one in panel)}


def alike(*couples: tuple[RanksOf, RanksOf]) -> Measured | str:
    """Of the pairs that both of a couple order, the share ordered alike, ± one standard error over the items.

    The pairs of an item belong together, so whole items are drawn anew for the error. "n/a" for fewer than two items.
    """
    each = [[ordered_alike([(first[item], second[item])]) for first, second in couples
             if item in first and item in second] for item in couples[0][0]]
    pairs = [sum(couple.count for couple in item) for item in each]
    same = [sum((couple.value or 0) * couple.count for couple in item) for item in each]
    kept = np.array(pairs) > 0
    if kept.sum() < 2:
        return "n/a"
    return resampled(lambda x, n: x.sum() / n.sum(), np.array(same)[kept], np.array(pairs)[kept], form="%")


def wins_of(records: Sequence[Ranking], ending: int | None = None) -> list[float]:
    """The wins of the first card on the screen, or of one ending of the file, record by record: 1/g in a tie of g."""
    found = []
    for record in records:
        winner = record.shown_order[0] if ending is None else ending
        found.append((winner in record.ranking[0]) / len(record.ranking[0]))
    return found


def truly(annotator: Annotator, pairs: Sequence[tuple[str, str, str]]) -> dict[str, list[bool]]:
    """For each pair: does the annotator, without noise, like the chosen ending better, worse, or the same?"""
    gaps: Any = np.round([annotator.utility(prompt, chosen) - annotator.utility(prompt, rejected)
                          for prompt, chosen, rejected in pairs], 6)
    return {"right": list(gaps > 0), "wrong": list(gaps < 0), "truly equal": list(gaps == 0)}
