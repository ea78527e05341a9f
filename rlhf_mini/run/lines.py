"""Lines of progress that fit into a terminal."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

WIDTH = 80  # columns that a line has at most, the last of them left empty


def columns(stream: Any) -> int:
    """How many columns a line may fill: at most 79, and one less than the terminal has."""
    with suppress(OSError, ValueError, AttributeError):
        return min(WIDTH, os.get_terminal_size(stream.fileno()).columns or WIDTH) - 1
    return WIDTH - 1


def fitting(parts: list[str], room: int, left: str = "") -> str:
    """The time left and as many whole parts as fit: a number that is cut would be another number."""
    for kept in range(len(parts), -1, -1):
        text = "  ".join(filter(None, [left, ", ".join(parts[:kept])]))
        if len(text) < room:
            return f" {text}" if text else ""
    return ""


def clock(seconds: float) -> str:
    """Seconds as 0:52, 12:03 or 1:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def joined(head: str, parts: list[str], width: int) -> list[str]:
    """The parts after the head, in as few lines as they fit into."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 2 <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(f"{head} {part}")
    return lines


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits and an ellipsis."""
    return text if len(text) <= width else text[:max(0, width - 1)] + "…"


def escaped(text: str) -> str:
    """The text as a part of a format string."""
    return text.replace("{", "{{").replace("}", "}}")
