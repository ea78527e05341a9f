"""The exception for user input that cannot be used, and how foreign text is shown in messages and tables."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

LONGEST = 60  # characters of a value that a message shows
HIDDEN = ("Cc", "Cf", "Cn", "Cs", "Zl", "Zp")  # categories: a terminal obeys such characters, or does not show them
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters, marks and symbols that show nothing
JOINERS = "\u200c\u200d"  # they shape words of some scripts, and emoji


class InputError(ValueError):
    """Some input cannot be used; the message says in one line what it is, why, and what to do."""

    def __init__(self, message: object) -> None:
        super().__init__(visible(message))


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Say where an InputError happened, such as in which iteration."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def visible(text: object) -> str:
    r"""The text with an escape, such as \x1b or \u2028, for each character that acts on a terminal or is not shown.

    So it is one line, and cannot look like several, or run backwards. Letters of all scripts and emoji stay.
    """
    whole = str(text)
    if whole.isascii() and whole.isprintable():
        return whole
    return "".join(letter if _is_shown(before, letter) else letter.encode("unicode_escape").decode()
                   for before, letter in pairwise("\n" + whole))


def _is_shown(before: str, letter: str) -> bool:
    if letter in JOINERS:  # they are seen after an Arabic letter, a virama, an emoji, or an emoji's variant or colour
        return (unicodedata.bidirectional(before) == "AL" or unicodedata.combining(before) == 9
                or unicodedata.category(before) in ("So", "Sk") or before == "\ufe0f")
    return unicodedata.category(letter) not in HIDDEN and letter not in FILLERS


def shown(value: Any) -> str:
    """A value as a message shows it: in one line, shortened, a text in quotes and with the letters of its script."""
    if not isinstance(value, str):
        try:
            return visible(" ".join(_SHORT.repr(value).split()))
        except ValueError:  # Python writes no whole number of more than 4,300 digits
            return "a huge number"
    half = LONGEST // 2 - 2
    text = value if len(value) <= LONGEST else f"{value[:half]}...{value[-half:]}"
    return "'" + visible(text.replace("\\", r"\\").replace("'", r"\'")) + "'"


_SHORT = reprlib.Repr()
_SHORT.maxother = LONGEST


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
