"""Shares that a full run has recorded, with their errors."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rlhf_mini.assets import asset
from rlhf_mini.teaching.measured import Measured, share_of


def recorded_shares(name: str, columns: Sequence[str], run: str = "run-3") -> dict[str, Measured]:
    """The shares of one model of a recorded run, such as "sft", with the error of as many endings as it sampled."""
    row = json.loads((asset(run) / "metrics.json").read_text(encoding="utf-8"))[name]
    count = row["samples"]
    return {column: share_of([i < round(row[column] * count) for i in range(count)]) for column in columns}
