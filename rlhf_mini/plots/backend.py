"""Matplotlib for all pictures of the package: with its default settings, whatever those of a person or a shell are."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from rlhf_mini.errors import InputError

Draw = TypeVar("Draw", bound=Callable[..., Any])
FORMATS = ("svg.", "pdf.", "ps.", "pgf.")  # settings of a kind of file, which whoever saves a picture chooses
INLINE = "module://matplotlib_inline.backend_inline"  # shows a figure below the cell of a notebook that made it


def import_matplotlib() -> None:
    """Import matplotlib, also where MPLBACKEND names no backend: the import fails then, and what needs no backend too.

    Raises: InputError where matplotlib cannot read a person's settings file.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", "")
    try:
        import matplotlib
    except ValueError as error:
        raise InputError(f"matplotlib cannot read its settings file matplotlibrc ({error}): fix or remove that "
                         "file") from None
    finally:
        if backend:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = backend


import_matplotlib()

import matplotlib.figure  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import matplotlib.style  # noqa: E402


@contextlib.contextmanager
def default_settings(changes: Any = ()) -> Iterator[None]:
    """Matplotlib's default settings for the block, with a few changes; the backend stays."""
    with matplotlib.rc_context():
        matplotlib.style.use("default")
        matplotlib.rcParams.update(changes)
        yield


class Figure(matplotlib.figure.Figure):
    """A figure that is drawn with the default settings too: labels at ticks are made as late as that."""

    def draw(self, renderer: Any) -> None:
        formats = {name: value for name, value in matplotlib.rcParams.items() if name.startswith(FORMATS)}
        with default_settings(formats):
            super().draw(renderer)


def subplots(*shape: int, **options: Any) -> tuple[Any, Any]:
    """A new figure and its Axes, as `pyplot.subplots` makes them, but with default settings."""
    load_backend()
    with default_settings():
        return plt.subplots(*shape, FigureClass=Figure, **options)


def load_backend() -> None:
    """Load the chosen backend now, or one that shows nothing where it is not installed or has no screen.

    This may change settings, so it comes before they are set aside.
    """
    try:
        plt.draw_if_interactive()
    except Exception:  # an import fails, or whatever a library for windows raises
        plt.switch_backend(INLINE if "ipykernel" in sys.modules else "agg")


def picture(draw: Draw) -> Draw:
    """Let a function draw with the default settings, except on Axes that it is given."""
    @functools.wraps(draw)
    def drawn(*args: Any, **named: Any) -> Any:
        given = signature.bind(*args, **named).arguments
        if given.get("ax") is not None or given.get("axes") is not None:
            return draw(*args, **named)
        load_backend()
        with default_settings():
            return draw(*args, **named)

    signature = inspect.signature(draw)
    return drawn  # type: ignore[return-value]
