"""The history of a run: one line for each iteration of PPO."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_mini import files, strict_json, team
from rlhf_mini.errors import InputError
from rlhf_mini.run.json_files import read_file

ARMS = ("ppo", "ppo_no_kl")
Line = dict[str, Any]


class History:
    """history.jsonl: one line for each iteration of PPO, appended when the iteration ends.

    A line that is damaged, or that no run writes, is left out with a warning that names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Line]:
        """Every line that can be used, in the order of the file. Raises: InputError where it cannot be opened."""
        try:
            content = read_file(self.path) if self.path.exists() else b""
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}): remove it: it is made again") from None
        lines = []
        for number, line in enumerate(content.split(b"\n"), start=1):
            try:
                lines += [_parsed(line)] if line else []
            except ValueError as error:
                warnings.warn(f"{self.path}, line {number} is left out: {error}", stacklevel=2)
        return lines

    def of_arm(self, arm: str) -> list[Line]:
        """The first iterations of an arm, up to the first that is missing."""
        found = {line["iteration"]: line for line in self.read() if line["arm"] == arm}
        whole: list[Line] = []
        while len(whole) + 1 in found:
            whole.append(found[len(whole) + 1])
        return whole

    def digest(self, arm: str, iterations: int | None = None) -> str:
        """The SHA-256 of the arm's first iterations, by default of all; seconds do not count."""
        lines = [{**line, "seconds": None} for line in self.of_arm(arm)[:iterations]]
        return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()

    @team.once
    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line, which is on the disk on return. Raises: NotSavedError."""
        files.append(self.path, _written(line))

    @team.once
    def keep(self, arm: str, iterations: int) -> None:
        """Remove the lines of `arm` after its first `iterations`, which a resumed run does again, and all damage."""
        if not self.path.exists():
            return
        others = [line for line in self.read() if line["arm"] != arm]
        self._write([*others, *self.of_arm(arm)[:iterations]])

    @team.once
    def tidy(self) -> None:
        """Keep each arm's iterations, each once and in order, and nothing else: both arms are finished."""
        self._write([line for arm in ARMS for line in self.of_arm(arm)])

    def _write(self, lines: list[Line]) -> None:
        content = b"".join(map(_written, lines))
        if content != self.path.read_bytes():
            files.write(self.path, content)


def _written(line: Mapping[str, Any]) -> bytes:
    """The line in JSON, which has no infinite numbers: they become null."""
    finite = {name: None if isinstance(value, float) and not math.isfinite(value) else value
              for name, value in line.items()}
    return strict_json.written(finite)


def _parsed(content: bytes) -> Line:
    """The line as a run writes it: an arm, and numbers by name. Raises: ValueError, saying what it is instead."""
    line = strict_json.read(content)
    if not isinstance(line, dict) or line.get("arm") not in ARMS or type(line.get("iteration")) is not int:
        raise ValueError("it is not an iteration of PPO")
    for name, value in line.items():
        if name != "arm" and value is not None and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError(f"its {name} is not a number")
    return line
