"""Tables as text: what a run prints at its end, and how far annotators agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_mini.rankings import Agreement, Statistic

MODELS = {"base": "base model", "sft": "after SFT", "best_of_4": "best of 4", "best_of_16": "best of 16",
          "ppo": "PPO with KL", "ppo_no_kl": "PPO without KL"}
COLUMNS = {"gold_mean": ("gold", "{:+.2f}"), "proxy_mean": ("proxy", "{:+.2f}"), "kl": ("KL", "{:.2f}"),
           "grammatical": ("grammatical", "{:.1%}"), "coherent": ("coherent", "{:.1%}"),
           "ended": ("ended", "{:.1%}"), "distinct": ("distinct", "{:.1%}"),
           "length_tokens": ("tokens", "{:.1f}")}


def summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """Seconds, results, the reward model's accuracy and the path of the report, as text."""
    seconds = metrics["seconds"]
    times = [[stage, f"{value:.1f}", f"{value / max(seconds['total'], 1e-9):.0%}"]
             for stage, value in seconds.items()]
    results = [[name, *(_cell(metrics[model].get(key), form) for key, (_, form) in COLUMNS.items())]
               for model, name in MODELS.items() if model in metrics]
    reward = metrics["reward_model"]
    return "\n".join([
        "", *align_columns([["where the time went", "seconds", "share"], *times]), "",
        *align_columns([["model", *(head for head, _ in COLUMNS.values())], *results]), "",
        f"reward model: accuracy {_cell(reward.get('accuracy'), '{:.1%}')} on {reward.get('pairs_test', 0)} "
        f"held-out pairs (ceiling {_cell(reward.get('accuracy_ceiling'), '{:.1%}')})",
        *(f"{name} is not known: {reason}" for name, reason in (metrics.get("reasons") or {}).items()),
        f"report: {folder / 'report.html'}"])


def agreement_table(found: Agreement) -> str:
    """Items, agreement, position bias and time of each annotator, as text; every n/a is followed by its reason."""
    rows = [["annotator", "items", "with others", "tau", "first wins", "by chance", "p", "s/item"]]
    for name, row in found.annotators.items():
        rows.append([name, str(row.judged), row.with_others.text("{:.0%}"), row.tau_with_others.text(),
                     row.first_wins.text("{:.0%}"), row.first_by_chance.text("{:.0%}"), row.first_p.text("{:.3f}"),
                     row.seconds.text("{:.1f}")])
    pairs = [["pair", "agreement", "pairs", "tau"]]
    for (a, b), share in found.agreement.items():
        pairs.append([f"{a} and {b}", share.text("{:.0%}"), str(share.count), found.tau[a, b].text()])
    alpha = found.alpha.text() + (f" over {found.alpha.count} items" if found.alpha.value is not None else "")
    reasons = dict.fromkeys(
        f"{what}: n/a, {statistic.reason}" for what, statistic in _statistics(found) if statistic.value is None)
    return "\n".join(["", *align_columns(rows), "", *(align_columns(pairs) if len(pairs) > 1 else []), "",
                      f"Krippendorff's alpha (ordinal): {alpha}", *reasons])


def _statistics(found: Agreement) -> Iterator[tuple[str, Statistic]]:
    yield "alpha", found.alpha
    for name, row in found.annotators.items():
        yield f"{name} with the others", row.with_others
        yield f"position bias of {name}", row.first_wins
        yield f"time of {name}", row.seconds
    for (a, b), share in found.agreement.items():
        yield f"{a} and {b}", share


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text: the first column is left-aligned, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                  zip(row[1:], widths[1:], strict=True))]) for row in rows]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
