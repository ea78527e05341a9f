"""Stories side by side, as cards in a notebook. What a model wrote is data: all of it is escaped."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any, NamedTuple

from rlhf_mini import tales
from rlhf_mini.plots import STYLES

WIDE = 110  # characters of a line where there is no browser
ROW = "display: flex; flex-wrap: wrap; gap: 0.6em; margin: 0.2em 0 1em 0"
CARD = ("flex: 1 1 15em; max-width: 26em; overflow-wrap: anywhere; padding: 0.3em 0.7em; "
        "border-left: 4px solid {colour}; line-height: 1.35")


class Card(NamedTuple):
    """One ending, who wrote it, and what it is worth."""

    title: str
    ending: str
    worth: Mapping[str, float]
    colour: str


class StoryCards:
    """One row of cards for each opening. Underlined are the words that the card to the left does not have there."""

    def __init__(self, rows: Sequence[tuple[str, Sequence[Card]]], compare: bool = False) -> None:
        self.rows, self.compare = list(rows), compare

    def _repr_html_(self) -> str:
        return "".join(f"<p><i>{escape(opening)}</i></p><div style='{ROW}'>{self._cards(cards)}</div>"
                       for opening, cards in self.rows)

    def _cards(self, cards: Sequence[Card]) -> str:
        before = [None, *(card.ending for card in cards[:-1])] if self.compare else [None] * len(cards)
        return "".join(
            f"<div style='{CARD.format(colour=escape(card.colour))}'><b>{escape(card.title)}</b><br>"
            f"{underlined(card.ending, old)}{'<br>' * bool(card.worth)}<small>{escape(worth(card))}</small></div>"
            for card, old in zip(cards, before, strict=True))

    def __repr__(self) -> str:
        """The same as plain text, which nbval compares."""
        lines = []
        for opening, cards in self.rows:
            lines.append(textwrap.fill(opening, WIDE))
            lines += [textwrap.fill(f"{card.title}: {card.ending}{f' ({worth(card)})' * bool(card.worth)}", WIDE,
                                    initial_indent="  ", subsequent_indent="    ") for card in cards]
        return "\n".join(lines)


def colour_of(name: str) -> str:
    """The colour of a model; grey for the fine-tuned one, whose black cannot be seen in the dark."""
    return STYLES["base" if name == "sft" else name].color


def worth(card: Card) -> str:
    """The numbers of a card in one line."""
    return ", ".join(f"{name} {value:+.2f}" for name, value in card.worth.items())


def underlined(text: str, before: str | None) -> str:
    """The text as HTML; where there is a text before it, the words that are new are underlined."""
    if before is None:
        return escape(text)
    words, old = text.split(), before.split()
    parts = []
    for kind, _, _, start, end in SequenceMatcher(None, old, words, autojunk=False).get_opcodes():
        part = escape(" ".join(words[start:end]))
        parts += [part if kind == "equal" else f"<u>{part}</u>"] if part else []
    return " ".join(parts)


def told_over_iterations(opening: str, rows: Sequence[Mapping[str, Any]]) -> StoryCards:
    """A card for each new story of a run's rows, with the iteration after which it was first told."""
    first: dict[str, Any] = {}
    for row in rows:
        first.setdefault(row["story"], row["iteration"])
    cards = [Card(f"iteration {number}", story, {"gold": tales.gold_reward(opening, story)}, colour_of("ppo"))
             for story, number in first.items()]
    return StoryCards([(opening, cards)], compare=True)


def of_arms(runs: Mapping[str, Mapping[str, Any]], arms: Mapping[str, str], iterations: Sequence[int],
            opening: int = 0) -> StoryCards:
    """One opening as the arms of a recorded sweep tell it at some iterations; `arms`: the price -> the style's name."""
    rows = []
    for price, name in arms.items():
        told = {number: runs[price]["told"][str(number)][opening] for number in iterations}
        cards = [Card(f"iteration {number}", story["ending"], {"score": story["proxy"], "gold": story["gold"]},
                      colour_of(name)) for number, story in told.items()]
        rows.append((f"{STYLES[name].label}: {told[iterations[0]]['opening']}", cards))
    return StoryCards(rows, compare=True)


def of_samples(models: Mapping[str, tuple[str, Any]], shown: Sequence[int]) -> StoryCards:
    """What several models made of some openings, by their places: title -> (name of its style, samples)."""
    openings = next(iter(models.values()))[1].prompts
    return StoryCards([(openings[i], [
        Card(title, samples.endings[i], {"score": float(samples.proxy[i]),
                                         "gold": tales.gold_reward(openings[i], samples.endings[i])}, colour_of(style))
        for title, (style, samples) in models.items()]) for i in shown])
