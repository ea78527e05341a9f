"""How recordings are kept: their JSON, the parts that are finished, and `made.json`, which says what each was made of.

A part is `parts/RECORDING/PART.json`: its value, and the stamp of what it was made of (see `freshness`). A part with
another stamp counts for nothing, and so does a file that cannot be read. Nothing else reads the parts: when a set of
them is whole, it is gathered into the recording's own files, `made.json` gets an entry, and the parts are removed.

An entry of `made.json` that says `{"kept": REASON}` leaves a recording as it is until it is named on the command line.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freshness import Stamp, difference

MADE = Path("assets/record/made.json")
PARTS = Path("assets/record/parts")
WIDTH = 120
DIGITS = 5  # significant ones: more than any table or picture shows


@dataclass(frozen=True)
class Recording:
    """Something that takes long to make and is stored: what it reads, what it is made of, and how.

    All paths are relative to the top folder. Parts are made in processes of their own, in any order that `parts`
    allows; `gather` turns the values of all of them into the files, and what it returns is printed.
    """

    name: str
    files: tuple[str, ...]
    reads: tuple[str, ...]  # what its parts are made of
    settings: Any = None  # JSON values
    parts: Mapping[str, Sequence[str]] | None = None  # each with the parts that have to be finished before it
    make: Callable[[str, Path], Any] | None = None  # a part, and a folder for what is made on the way -> a JSON value
    gather: Callable[[dict[str, Any]], str | None] | None = None  # None where a part has written the files itself
    gather_reads: tuple[str, ...] = ()  # what `gather` reads besides
    core: bool = True  # whether it is out of date when the digits of the learning core change
    alone: bool = False  # measures time: all threads, and nothing else beside it


# --- JSON -------------------------------------------------------------------------------------------------------


def read(path: Path) -> Any:
    """What a JSON file holds; None where there is none, or not a whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write(path: Path, value: Any) -> None:
    """Write a JSON file so that a reader finds the old one or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(as_text(value) + "\n", encoding="utf-8")
    scratch.replace(path)


def as_text(value: Any, indent: str = "") -> str:
    """JSON that people can read and compare: what fits stands on one line, and so does a list of numbers or words."""
    line = json.dumps(value, ensure_ascii=False, allow_nan=False)
    nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(x, dict | list) for x in value))
    if not nested or len(indent) + len(line) <= WIDTH:
        return line
    inner = indent + " "
    if isinstance(value, dict):
        lines = [f"{inner}{json.dumps(str(name))}: {as_text(each, inner)}" for name, each in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + as_text(each, inner) for each in value) + f"\n{indent}]"


def rounded(value: Any) -> Any:
    """The same value with every float in it rounded."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


# --- parts ------------------------------------------------------------------------------------------------------


def part_path(recording: Recording, part: str) -> Path:
    """Where a finished part is kept."""
    return PARTS / recording.name / f"{part}.json"


def keep_part(recording: Recording, part: str, stamp: Stamp, value: Any, seconds: float) -> None:
    """Keep a finished part."""
    write(part_path(recording, part), {"stamp": stamp, "seconds": round(seconds, 1), "value": value})


def kept_parts(recording: Recording, stamp: Stamp) -> dict[str, Any]:
    """The finished parts that were made of what this stamp says, in the order of their declaration."""
    found = {part: read(part_path(recording, part)) for part in recording.parts or {}}
    return {part: kept for part, kept in found.items()
            if isinstance(kept, dict) and "value" in kept and difference(kept.get("stamp"), stamp) is None}


def remove_parts(recording: Recording) -> None:
    """Remove a recording's parts, and the folders that this leaves empty."""
    folder = PARTS / recording.name
    shutil.rmtree(folder, ignore_errors=True)
    while (folder := folder.parent) != PARTS.parent and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
