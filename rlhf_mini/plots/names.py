"""Names in any script in a picture: in a font that has them, or as numbers with a legend that the front end draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from rlhf_mini.errors import visible


def family_for(name: str) -> list[str] | None:
    """Installed font families that together have every character of a name, the usual one first; None without them."""
    usual = _characters(findfont(FontProperties()))
    missing = {ord(character) for character in name if not character.isspace()} - usual
    families = list(mpl.rcParams["font.family"])
    for font in fontManager.ttflist if missing else ():
        if found := missing & _characters(font.fname):
            families.append(font.name)
            missing -= found
        if not missing:
            break
    return None if missing else families


def numbered(names: Sequence[str]) -> dict[str, str]:
    """A number for each name that no installed font can draw, by its place among all the names."""
    return {name: f"no. {place}" for place, name in enumerate(names, start=1) if family_for(name) is None}


def show_legend(numbers: Mapping[str, str]) -> None:
    """Who is which number: as HTML in a notebook, for browsers have fonts for every script; elsewhere as text."""
    if not numbers:
        return
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        get_ipython = None
    if get_ipython is None or get_ipython() is None:
        print(*(f"{number}: {visible(name)}" for name, number in numbers.items()), sep="\n")
        return
    rows = "".join(f"<li>{number}: <bdi>{escape(name)}</bdi></li>" for name, number in numbers.items())
    display(HTML(f'<ul style="list-style: none; padding: 0">{rows}</ul>'))


@cache
def _characters(path: str) -> frozenset[int]:
    """The characters that a font file can draw as outlines; none for one that cannot be read or has boxes only."""
    try:
        font = get_font(path)
        has_letters = font.scalable and "lastresort" not in font.family_name.replace(" ", "").lower()
        return frozenset(font.get_charmap()) if has_letters else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
