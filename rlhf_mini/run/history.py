"""The history of a run: one line for each iteration of PPO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_mini import team


class History:
    """history.jsonl: one line for each iteration of PPO, appended when the iteration ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; a last line that was cut off by a crash is left out."""
        if not self.path.exists():
            return []
        whole = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [json.loads(line) for line in whole]

    @team.once
    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @team.once
    def truncate(self, arm: str, iterations: int) -> None:
        """Remove the lines of `arm` after its first `iterations` iterations, which a resumed run does again."""
        lines = self.read()
        of_arm = [line for line in lines if line["arm"] == arm]
        kept = [line for line in lines if line["arm"] != arm] + of_arm[:iterations]
        scratch = self.path.with_name(self.path.name + ".tmp")
        scratch.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        scratch.replace(self.path)
