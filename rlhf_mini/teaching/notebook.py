"""What every notebook uses: the package's own source, and a picture that follows a training loop."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

Row = TypeVar("Row")


def show(*objects: Any) -> None:
    """Print the source of functions, classes or modules as the package runs it."""
    print("\n\n".join(inspect.getsource(thing).rstrip() for thing in objects))


def live(steps: Iterable[Row], draw: Callable[[list[Row]], Any], seconds: float = 2.0) -> list[Row]:
    """Collect what a training loop yields, and redraw one picture of it in place; returns the rows.

    `draw` gets the rows so far and returns the Axes it drew on. A new picture comes after `seconds` at the earliest,
    the last always. The stop button ends the loop; all that was yielded until then is returned and usable.
    """
    rows: list[Row] = []
    picture, drawn = None, -math.inf  # a clock may start at 0 when the machine does
    try:
        for row in steps:
            rows.append(row)
            if time.monotonic() - drawn > seconds:
                picture, drawn = _picture(draw(rows), picture), time.monotonic()
    except KeyboardInterrupt:
        print(f"stopped after {len(rows)} steps; they are kept")
    if rows:
        _picture(draw(rows), picture)
    return rows


def _picture(axes: Any, handle: Any) -> Any:
    """Show the figure of these Axes (or replace the one shown before), and close it, or it would appear once more."""
    first = next(iter(getattr(axes, "flat", [axes])))
    figure: Figure = first.figure
    if handle is None:
        handle = display(figure, display_id=True)
    else:
        handle.update(figure)
    plt.close(figure)
    return handle
