"""The stages of a run: what each was made from, what it made, and how long it took."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf_mini.errors import InputError
from rlhf_mini.run.json_files import read_json, write_json

Contents = Callable[[], dict[str, str]]  # a digest of each thing that a stage makes, by name


@dataclass
class Stage:
    """One stage. It is done when it says what it made, and counts as done while exactly that is on the disk."""

    seconds: float = 0.0  # summed over all attempts
    read: str = ""  # a digest of what it was, or is being, made from
    made: dict[str, str] | None = None  # what it made; None while it is not done

    def damage(self, contents: Contents) -> str | None:
        """The first thing it made that is not there any more as it was made; None if there is none."""
        if not self.made:
            return None
        here = contents()
        return next((name for name, digest in self.made.items() if here.get(name) != digest), None)


class Stages:
    """state/stages.json: the stages of a run by name, and its seconds so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_name: dict[str, Stage] = {}
        self.seconds = 0.0

    def load(self) -> None:
        """Read the file; one that no run has written counts as none, with a warning."""
        try:
            values = read_json(self.path, {"seconds": 0.0, "stages": {}})
            self.seconds = _number(values["seconds"])
            self.by_name = {name: _stage(**entry) for name, entry in values["stages"].items()}
        except (InputError, ValueError, TypeError, KeyError, AttributeError):
            self.seconds, self.by_name = 0.0, {}
            warnings.warn(f"{self.path} cannot be read: every stage of this run is done again", stacklevel=3)

    def save(self, seconds: float) -> None:
        """Write the file. Raises: NotSavedError."""
        write_json(self.path, {"seconds": seconds, "stages": {k: asdict(v) for k, v in self.by_name.items()}})

    def digest(self, names: Iterable[str], *settings: bytes) -> str:
        """A digest of what these stages made and of the settings: what a stage is made from."""
        made = [self.by_name[name].made for name in names]
        return hashlib.sha256(b"\0".join([json.dumps(made, sort_keys=True).encode(), *settings])).hexdigest()


def _stage(seconds: Any, read: Any, made: Any) -> Stage:
    texts = [read, *made, *made.values()] if isinstance(made, dict) else [read]
    if not all(isinstance(text, str) for text in texts) or not isinstance(made, dict | None):
        raise ValueError("a stage is made of texts")
    return Stage(_number(seconds), read, made)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value < math.inf:
        raise ValueError("seconds are a number")
    return float(value)
