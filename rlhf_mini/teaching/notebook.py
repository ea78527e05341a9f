"""Helpers for all notebooks: show figures below their cells, print the package's source, and plot while a model trains.

`%load_ext rlhf_mini.teaching.notebook` is in the first cell of each.
"""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from IPython.display import display

from rlhf_mini.plots.backend import INLINE, Figure, matplotlib, plt

Row = TypeVar("Row")


def load_ipython_extension(shell: Any) -> None:
    """Show figures below their cells and with matplotlib's default settings, whatever a shell or a person has set."""
    os.environ["MPLBACKEND"] = INLINE  # the processes that a notebook starts have the same
    shell.enable_matplotlib("inline")
    matplotlib.style.use("default")


def show(*objects: Any) -> None:
    """Print the source of functions, classes or modules of the package."""
    print("\n\n".join(inspect.getsource(thing).rstrip() for thing in objects))


def live_plot(steps: Iterable[Row], draw: Callable[[list[Row]], Any], seconds: float = 2.0) -> list[Row]:
    """Collect the rows that a training loop yields, and update one plot of them in place; returns the rows.

    `draw` gets the rows so far and returns the Axes it drew on. The plot is updated at most every `seconds`, and at the
    end. The stop button ends the loop; the rows until then are returned and can be used.
    """
    rows: list[Row] = []
    shown, drawn = None, -math.inf  # a clock may start at 0 when the machine does
    try:
        for row in steps:
            rows.append(row)
            if time.monotonic() - drawn > seconds:
                shown, drawn = _show_figure(draw(rows), shown), time.monotonic()
    except KeyboardInterrupt:
        print(f"stopped after {len(rows)} steps; their rows are kept")
    if rows:
        _show_figure(draw(rows), shown)
    return rows


def _show_figure(axes: Any, handle: Any) -> Any:
    """Show the figure of these Axes, or replace the one shown before; close it, or it would be shown a second time."""
    first = next(iter(getattr(axes, "flat", [axes])))
    figure: Figure = first.figure
    if handle is None:
        handle = display(figure, display_id=True)
    else:
        handle.update(figure)
    plt.close(figure)
    return handle
