"""What callers give to training, scoring and sampling: several lists of texts, tuples of texts, streams, token rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rlhf_mini.errors import InputError, shown
from rlhf_mini.rankings.record import are_tie_groups
from rlhf_mini.texts import listed, text, texts

RankedExample = tuple[str, Sequence[str], Sequence[Sequence[int]]]  # prompt, completions, tie groups (best first)


def text_lists(**lists: Iterable[str]) -> list[list[str]]:
    """Several lists of texts that belong together. Raises: InputError where one is no list, or has another length."""
    read = {name: texts(name, values) for name, values in lists.items()}
    if len({len(values) for values in read.values()}) > 1:
        counts = ", ".join(f"{len(values)} {name}" for name, values in read.items())
        raise InputError(f"there are {counts}: give equally many of each")
    return list(read.values())


def text_tuples(name: str, values: Iterable[Any], *parts: str) -> list[Any]:
    """A list of tuples of texts, such as (opening, ending). Raises: InputError naming the first that is none."""
    wanted = f"({', '.join(parts)})"
    found: list[Any] = []
    for number, entry in enumerate(listed(name, values, f"a list of {wanted}")):
        entries = entry.tolist() if hasattr(entry, "tolist") else entry
        if not isinstance(entries, tuple | list) or len(entries) != len(parts):
            raise InputError(f"{name}[{number}] is {shown(entry)}: give {wanted}")
        if not all(type(one) is str for one in entries):
            entries = [text(f"{name}[{number}], {part},", one) for part, one in zip(parts, entries, strict=True)]
        found.append(tuple(entries))
    return found


def ranked_examples(name: str, values: Iterable[Any]) -> list[RankedExample]:
    """A list of (prompt, completions, ranking), each ranking with every index once.

    Raises: InputError naming the first that is none.
    """
    wanted = "(prompt, completions, ranking)"
    found: list[RankedExample] = []
    for number, entry in enumerate(listed(name, values, f"a list of {wanted}")):
        if not isinstance(entry, tuple | list) or len(entry) != 3:
            raise InputError(f"{name}[{number}] is {shown(entry)}: give {wanted}")
        prompt, completions, ranking = entry
        completions = texts(f"{name}[{number}], completions,", completions)
        found.append((text(f"{name}[{number}], prompt,", prompt), completions,
                      checked_ranking(ranking, len(completions))))
    return found


def checked_ranking(ranking: Sequence[Sequence[int]], size: int) -> Sequence[Sequence[int]]:
    """The ranking itself. Raises: InputError where it is not tie groups of 0 to size - 1, each index once."""
    if size == 0 or not are_tie_groups(ranking, size):
        raise InputError(f"{shown(ranking)} is not a ranking of {size} completions: give tie groups, best first, that "
                         f"hold each index from 0 to {size - 1} once, such as [[1], [0, 2]]")
    return ranking


def text_stream(name: str, values: Iterable[str]) -> Iterator[str]:
    """The same texts one by one, which may be too many for a list.

    Raises: InputError at once for what is no list or stream of texts, and later for an entry that is no text.
    """
    return (text(f"{name}[{number}]", value) for number, value in enumerate(stream(name, values, "a list of texts")))


def stream(name: str, values: Iterable[Any], wanted: str) -> Iterable[Any]:
    """The values themselves. Raises: InputError for one text, a dict, a set, a table, or no several values at all."""
    if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(values, Iterable) \
            or hasattr(values, "columns"):
        listed(name, values, wanted)  # raises
    return values


def check_rows(name: str, rows: Sequence[Sequence[int]]) -> None:
    """Raises: InputError where the rows are not rows of tokens, or one is empty."""
    wanted = "rows of tokens, such as those of `encode_prompts`"
    stream(name, rows, wanted)
    for number, row in enumerate(rows):
        if isinstance(row, str | bytes) or not hasattr(row, "__len__"):
            raise InputError(f"{name}[{number}] is {shown(row)}: give {wanted}")
        if len(row) == 0:
            raise InputError(f"{name}[{number}] is empty: give one token or more")
