"""What a run prints at its end: where the time went, what came out, and where to read more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MODELS = {"base": "base model", "sft": "after SFT", "best_of_4": "best of 4", "best_of_16": "best of 16",
          "ppo": "PPO with KL", "ppo_no_kl": "PPO without KL"}
COLUMNS = {"gold_mean": ("gold", "{:+.2f}"), "proxy_mean": ("proxy", "{:+.2f}"), "kl": ("KL", "{:.2f}"),
           "grammatical": ("grammatical", "{:.1%}"), "coherent": ("coherent", "{:.1%}"),
           "ended": ("ended", "{:.1%}"), "distinct": ("distinct", "{:.1%}"),
           "length_tokens": ("tokens", "{:.1f}")}


def summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """Time, results and the reward model's accuracy as text."""
    seconds = metrics["seconds"]
    times = [[stage, f"{value:.1f}", f"{value / max(seconds['total'], 1e-9):.0%}"]
             for stage, value in seconds.items()]
    results = [[name, *(_cell(metrics[model].get(key), form) for key, (_, form) in COLUMNS.items())]
               for model, name in MODELS.items() if model in metrics]
    reward = metrics["reward_model"]
    return "\n".join([
        "", *aligned([["where the time went", "seconds", "share"], *times]), "",
        *aligned([["model", *(head for head, _ in COLUMNS.values())], *results]), "",
        f"reward model: accuracy {_cell(reward.get('accuracy'), '{:.1%}')} on {reward.get('pairs_test', 0)} "
        f"held-out pairs (ceiling {_cell(reward.get('accuracy_ceiling'), '{:.1%}')})",
        *(f"{name} not known: {reason}" for name, reason in (metrics.get("reasons") or {}).items()),
        f"report: {folder / 'report.html'}"])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                  zip(row[1:], widths[1:], strict=True))]) for row in rows]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
