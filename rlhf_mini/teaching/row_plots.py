"""Pictures of rows of tokens: what is read, learnt and padding, and which position predicts which token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf_mini.plots.backend import picture, plt, subplots

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

COLORS = {"prompt": "#D9D9D9", "ending": "#56B4E9", "EOS": "#E69F00", "padding": "#FFFFFF"}
NOTES = {"prompt": "read, not learnt", "ending": "learnt", "EOS": "learnt", "padding": "ignored"}
EDGE, ARROW = "#555555", "#D55E00"


def kinds_of(start: int, length: int, longest: int) -> list[str]:
    """What each place of a row holds: the prompt before `start`, then the ending, its EOS, and padding."""
    return ["prompt"] * start + ["ending"] * (length - start - 1) + ["EOS"] + ["padding"] * (longest - length)


@picture
def row_diagram(words: Sequence[str], start: int, padding: int = 2, ax: Axes | None = None) -> Axes:
    """One row as cells: its tokens, its loss mask, its positions; arrows lead from a position to what it predicts.

    `words` are the tokens of prompt, ending and EOS; the ending begins at `start`.
    """
    longest = len(words) + padding
    ax = _blank(ax, (1.0 * longest + 1.2, 3.1), "One row of a batch", (-1.7, longest), (-1.75, 3.95))
    kinds = kinds_of(start, len(words), longest)
    for x, (word, kind) in enumerate(zip([*words, *["pad"] * padding], kinds, strict=True)):
        learnt = kind in ("ending", "EOS")
        _cell(ax, x, 1.0, word, COLORS[kind], 10)
        _cell(ax, x, -0.15, "1" if learnt else "0", COLORS[kind] if learnt else "#FFFFFF", 10)
        ax.text(x + 0.46, -1.0, str(x), ha="center", va="center", fontsize=10, color="#333333")
        if learnt:
            ax.annotate("", (x + 0.5, 2.02), (x - 0.5, 2.02), arrowprops={
                "arrowstyle": "-|>", "color": ARROW, "linewidth": 1.2, "connectionstyle": "arc3,rad=-0.55"})
    for y, name in ((1.46, "tokens"), (0.31, "loss mask"), (-1.0, "position")):
        ax.text(-0.2, y, name, ha="right", va="center", fontsize=10)
    for kind in COLORS:
        if (places := [x for x, found in enumerate(kinds) if found == kind]):
            middle = (places[0] + places[-1]) / 2 + 0.46
            ax.text(middle, -1.62, kind, ha="center", va="center", fontsize=10, fontweight="bold")
    ax.text(start + 0.1, 3.3, f"position {start - 1} predicts token {start}, the first that is learnt; "
            f"position {len(words) - 2} predicts the EOS", ha="center", va="center", fontsize=10, color=ARROW)
    return ax


@picture
def batch_diagram(rows: Sequence[tuple[int, int]], ax: Axes | None = None) -> Axes:
    """Rows of unequal length as one rectangle; of each row, where its ending begins and how long it is."""
    longest = max(length for _, length in rows)
    ax = _blank(ax, (10, 0.42 * len(rows) + 0.9), f"{len(rows)} rows of a batch, padded to {longest} tokens",
                (-0.3, longest + 9), (-1.0, 1.15 * len(rows)))
    for number, (start, length) in enumerate(rows):
        y = 1.15 * (len(rows) - 1 - number)
        for x, kind in enumerate(kinds_of(start, length, longest)):
            _cell(ax, x, y, "", COLORS[kind], 8)
        note = f"{length - start} learnt, {longest - length} padding"
        ax.text(longest + 0.6, y + 0.46, note, va="center", fontsize=9)
    for number, kind in enumerate(COLORS):
        left = number * longest / 4
        ax.add_patch(plt.Rectangle((left, -0.95), 0.92, 0.6, facecolor=COLORS[kind], edgecolor=EDGE, linewidth=0.6))
        ax.text(left + 1.3, -0.65, f"{kind}: {NOTES[kind]}", va="center", fontsize=9)
    return ax


def _blank(ax: Axes | None, size: tuple[float, float], title: str, xlim: Any, ylim: Any) -> Axes:
    """Axes without axes: a drawing."""
    if ax is None:
        _, ax = subplots(figsize=size, layout="constrained")
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold")
    ax.set(xlim=xlim, ylim=ylim)
    ax.axis("off")
    return ax


def _cell(ax: Axes, x: float, y: float, text: str, color: str, size: float) -> None:
    dashed = "--" if color == COLORS["padding"] else "-"
    ax.add_patch(plt.Rectangle((x, y), 0.92, 0.92, facecolor=color, edgecolor=EDGE, linewidth=0.6, linestyle=dashed))
    ax.text(x + 0.46, y + 0.46, text, ha="center", va="center", fontsize=size, parse_math=False, color="#111111")
