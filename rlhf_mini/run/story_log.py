"""The stories of a run: what each arm made of a few fixed openings, look by look, while it trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_mini import files, strict_json, team
from rlhf_mini.errors import InputError
from rlhf_mini.run.history import ARMS
from rlhf_mini.run.json_files import read_file

TEXTS, NUMBERS = ("opening", "ending"), ("proxy", "gold", "grammatical", "coherent")
Look = dict[str, Any]


class StoryLog:
    """stories.jsonl: one line for each look at an arm, with the endings that it wrote after so many updates.

    No stage depends on it: lines that are damaged or missing are missing in the report, and nothing is done again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Look]:
        """Every line that can be used, by arm and updates, each once. Raises: InputError where it cannot be opened."""
        try:
            content = read_file(self.path) if self.path.exists() else b""
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}): remove it, the run needs it only for "
                             "its report") from None
        looks: dict[tuple[str, int], Look] = {}
        for number, line in enumerate(content.split(b"\n"), start=1):
            try:
                looks |= {(look["arm"], look["updates"]): look for look in ([_parsed(line)] if line else [])}
            except ValueError as error:
                warnings.warn(f"{self.path}, line {number} is left out: {error}", stacklevel=2)
        return [looks[place] for place in sorted(looks)]

    @team.once
    def append(self, look: Mapping[str, Any]) -> None:
        """Add one line, which is on the disk on return. Raises: NotSavedError."""
        files.append(self.path, strict_json.written(look))

    @team.once
    def keep(self, arm: str, updates: int) -> None:
        """Remove the looks at `arm` after `updates` updates or more, which are taken again, and all damage."""
        self._write([look for look in self.read() if look["arm"] != arm or look["updates"] < updates])

    @team.once
    def tidy(self) -> None:
        """Keep each look once, by arm and updates, and nothing else: both arms are finished."""
        self._write(self.read())

    def _write(self, looks: list[Look]) -> None:
        content = b"".join(map(strict_json.written, looks))
        if self.path.exists() and content != self.path.read_bytes():
            files.write(self.path, content)


def _parsed(content: bytes) -> Look:
    """The line as a run writes it. Raises: ValueError, saying what it is instead."""
    found = strict_json.read(content)
    if not isinstance(found, dict) or found.get("arm") not in ARMS or type(found.get("updates")) is not int:
        raise ValueError("it is not a look at an arm of PPO")
    stories = found.get("stories")
    if not isinstance(stories, list) or not stories or not all(map(_is_story, stories)):
        raise ValueError("its stories are not endings with their rewards")
    return found


def _is_story(story: Any) -> bool:
    return (isinstance(story, dict) and all(isinstance(story.get(name), str) for name in TEXTS)
            and all(story.get(name) is None or type(story[name]) in (int, float) for name in NUMBERS))
