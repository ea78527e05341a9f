"""What a person judges: a prompt with its completions, and the order in which they are shown."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_mini.errors import InputError, shown
from rlhf_mini.rankings.record import MOST_COMPLETIONS, item_key
from rlhf_mini.texts import listed, texts

PAIR = "(prompt, completions), with a list of completions"


@dataclass(frozen=True)
class Item:
    """A prompt and its completions; `shown_order[i]` is the completion shown at position i."""

    prompt: str
    completions: list[str]
    shown_order: list[int]

    @property
    def shown(self) -> list[str]:
        """The completions in the order in which they are shown."""
        return [self.completions[index] for index in self.shown_order]

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """What is judged, in whatever order."""
        return item_key(self.prompt, self.completions)


def make_items(items: Iterable[Any], annotator: str, seed: int) -> list[Item]:
    """The items of a session, each with its completions shuffled for this annotator.

    Raises: InputError, one line, unless each is a prompt with 2 to 9 completions, given once.
    """
    made: dict[Any, Item] = {}
    for number, given in enumerate(listed("items", items, f"a list of items, each {PAIR}")):
        prompt, completions = _parts(number, given)
        if not isinstance(prompt, str):
            raise InputError(f"item {number} is not text: its prompt is {shown(prompt)}; give {PAIR}")
        found = texts(f"item {number}: completions", completions)
        if not 2 <= len(found) <= MOST_COMPLETIONS:
            raise InputError(f"item {number} has {len(found)} completions: give 2 to {MOST_COMPLETIONS}")
        prompt = str.__str__(prompt)  # a text of NumPy becomes one of Python
        item = Item(prompt, found, _shuffled(prompt, found, annotator, seed))
        if item.key in made:
            raise InputError(f"item {number} is given twice: give each prompt with its completions once")
        made[item.key] = item
    return list(made.values())


def _parts(number: int, given: Any) -> tuple[Any, Any]:
    """The prompt and the completions of a pair, or of what has fields of these names."""
    fields = given if isinstance(given, Mapping) else getattr(given, "__dict__", {})
    if {"prompt", "completions"} <= fields.keys():
        return fields["prompt"], fields["completions"]
    if isinstance(given, Mapping):
        raise InputError(f"item {number} is a dict with the keys {shown(list(given))}: give {PAIR}, such as "
                         '(row["prompt"], [row["chosen"], row["rejected"]])')
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise InputError(f"item {number} is {shown(given)}: give {PAIR}")
    return given[0], given[1]


def _shuffled(prompt: str, completions: list[str], annotator: str, seed: int) -> list[int]:
    order = list(range(len(completions)))
    random.Random(repr((seed, annotator, prompt, completions))).shuffle(order)
    return order
