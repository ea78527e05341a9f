"""What a recording was made of: the content of its inputs, its settings, and the digits of the learning core.

A stamp holds all three. Source code is not in it: whether a change of the code matters is asked of the micro-run (see
`micro_run`), whose numbers are compared with a tolerance, so that another processor or number of threads makes nothing
out of date, and a rename neither. Notebooks print source, so they name the package's folder as an input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Stamp = dict[str, Any]  # inputs: {path: hash}, settings: JSON values, micro_run: {figure: number}
CLOSE = 3e-4  # of a number, or of 1 if that is more; threads and processors differ by 2e-5 at most, where tried
NOTHING = "nothing"


def stamp_of(inputs: Iterable[str], settings: Any, micro_run: Mapping[str, float]) -> Stamp:
    """The stamp of something that is made now."""
    stamp = {"inputs": {path: content(Path(path)) for path in inputs}, "settings": settings,
             "micro_run": dict(micro_run)}
    return json.loads(json.dumps(stamp))  # tuples become lists, as in a file


def content(path: Path) -> str:
    """A hash of a file, of all files in a folder but its card, or of a notebook's code."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts
                       and file.name != "README.md")
        return _hash(f"{file.relative_to(path).as_posix()} {content(file)}\n".encode() for file in files)
    if not path.exists():
        return NOTHING
    if path.suffix == ".ipynb":
        return _hash(source.encode() + b"\0" for source in code_cells(path))
    return _hash([path.read_bytes()])


def code_cells(notebook: Path) -> list[str]:
    """The source of a notebook's code cells: prose and outputs do not count."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def _hash(pieces: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()[:16]


def difference(old: Stamp | None, new: Stamp) -> str | None:
    """The first thing in which two stamps differ, in words; None where they say the same."""
    if not isinstance(old, dict) or set(old) != set(new):
        return "nobody knows what it was made of"
    for path in (*new["inputs"], *old["inputs"]):
        if old["inputs"].get(path) != new["inputs"].get(path):
            return f"{path} has changed"
    for kind, prefix, same in (("settings", "", _equal), ("micro_run", "the micro-run's ", _close)):
        was, now = dict(_leaves(old[kind])), dict(_leaves(new[kind]))
        for name in (*now, *was):
            if name not in was or name not in now or not same(was[name], now[name]):
                return f"{prefix}{name} is {now.get(name, NOTHING)}, was {was.get(name, NOTHING)}"
    return None


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in nested dicts and lists, with its dotted name."""
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inner:
            yield from _leaves(each, f"{name}.{key}" if name else str(key))
    else:
        yield name or "value", value


def _equal(was: Any, now: Any) -> bool:
    return bool(was == now)


def _close(was: Any, now: Any) -> bool:
    return abs(was - now) <= CLOSE * max(1.0, abs(was))
