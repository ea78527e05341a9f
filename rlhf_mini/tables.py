"""Tables as text: what a run prints at its end, and how far annotators agree."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_mini.errors import LONGEST, shown, visible
from rlhf_mini.rankings import Agreement, Statistic

MODELS = {"base": "base model", "sft": "after SFT", "best_of_4": "best of 4", "best_of_16": "best of 16",
          "ppo": "PPO with KL", "ppo_no_kl": "PPO without KL"}
COLUMNS = {"gold_mean": ("gold", "{:+.2f}"), "proxy_mean": ("proxy", "{:+.2f}"), "kl": ("KL", "{:.2f}"),
           "grammatical": ("grammatical", "{:.1%}"), "coherent": ("coherent", "{:.1%}"),
           "ended": ("ended", "{:.1%}"), "distinct": ("distinct", "{:.1%}"),
           "length_tokens": ("tokens", "{:.1f}")}

UNLIKE_A_NAME = re.compile(r"^[\s']|\s\s|\s$|[:%|]| and ")  # in a table, such a name could be read as other cells


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
        *align_columns([["model", *(head for head, _ in COLUMNS.values())], *results], " "), "",
        f"reward model: accuracy {_cell(reward.get('accuracy'), '{:.1%}')} on {reward.get('pairs_test', 0)} "
        f"held-out pairs (ceiling {_cell(reward.get('accuracy_ceiling'), '{:.1%}')})",
        *(f"{name} is not known: {reason}" for name, reason in (metrics.get("reasons") or {}).items()),
        f"report: {visible(folder / 'report.html')}"])


def agreement_table(found: Agreement) -> str:
    """Items, agreement, position bias and time of each annotator, as text; every n/a is followed by its reason."""
    rows = [["annotator", "items", "with others", "tau", "first wins", "by chance", "p", "s/item"]]
    for name, row in found.annotators.items():
        rows.append([_name(name), str(row.judged), row.with_others.text("{:.0%}"), row.tau_with_others.text(),
                     row.first_wins.text("{:.0%}"), row.first_by_chance.text("{:.0%}"), row.first_p.text("{:.3f}"),
                     row.seconds.text("{:.1f}")])
    pairs = [["pair", "agreement", "pairs", "tau"]]
    for (a, b), share in found.agreement.items():
        pairs.append([f"{_name(a)} and {_name(b)}", share.text("{:.0%}"), str(share.count), found.tau[a, b].text()])
    alpha = found.alpha.text() + (f" over {found.alpha.count} items" if found.alpha.value is not None else "")
    reasons = dict.fromkeys(
        f"{what}: n/a, {statistic.reason}" for what, statistic in _statistics(found) if statistic.value is None)
    return "\n".join(["", *align_columns(rows), "", *(align_columns(pairs) if len(pairs) > 1 else []), "",
                      f"Krippendorff's alpha (ordinal): {alpha}", *reasons])


def _statistics(found: Agreement) -> Iterator[tuple[str, Statistic]]:
    yield "alpha", found.alpha
    for name, row in found.annotators.items():
        yield f"{_name(name)} with the others", row.with_others
        yield f"position bias of {_name(name)}", row.first_wins
        yield f"time of {_name(name)}", row.seconds
    for (a, b), share in found.agreement.items():
        yield f"{_name(a)} and {_name(b)}", share


def _name(name: str) -> str:
    """An annotator's name as a table shows it: in quotes where it could be read as something else."""
    plain = visible(name) == name and len(name) <= LONGEST and not UNLIKE_A_NAME.search(name)
    return name if plain else shown(name)


def align_columns(rows: Sequence[Sequence[str]], between: str = "  ") -> list[str]:
    """Rows of cells as lines of text: the first column is left-aligned, the others are right-aligned."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    gaps = [[" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return [between.join([row[0] + gap[0], *(space + cell for cell, space in zip(row[1:], gap[1:], strict=True))])
            for row, gap in zip(rows, gaps, strict=True)]


def _width(cell: str) -> int:
    """How many columns of a terminal a cell fills: Chinese characters fill two, an accent of its own none."""
    return sum(0 if unicodedata.category(letter) in ("Mn", "Me", "Cf") else
               1 + (unicodedata.east_asian_width(letter) in "WF") for letter in cell)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
