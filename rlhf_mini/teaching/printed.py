"""Print endings so that no line is too long to read."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

WIDTH = 100  # characters


def print_endings(openings: Iterable[str], endings: Iterable[str], notes: Iterable[str] = ()) -> None:
    """Print each opening with its ending below it, then its note, if there are notes; a slash is a line break."""
    left = iter(notes)
    for opening, ending in zip(openings, endings, strict=False):
        note = next(left, "")
        text = " / ".join(ending.splitlines()).strip() or "(nothing)"
        print(_wrapped(opening), _wrapped(f"→ {text}", "   "), sep="\n")
        if note:
            print(_wrapped(f"   reader: {note}", "   "))
        print()


def _wrapped(text: str, later: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=later and "  ", subsequent_indent=later and "    ")
