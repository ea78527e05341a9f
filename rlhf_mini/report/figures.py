"""Plots in the page: in the colours of a light or dark page, with values that appear below the pointer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_mini import plots
from rlhf_mini.plots import ARMS, STYLES
from rlhf_mini.plots.backend import Figure, default_settings
from rlhf_mini.report.html import Html, inline_svg, tag
from rlhf_mini.report.text import format_number, is_known

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, Any]]
Point = tuple[float, float, str]  # x and y in the plot's units, and what to say of it
Place = Callable[[float, float], tuple[float, float]]  # from the plot's units to those of the drawing
LARGE, SMALL = (4.6, 3.5), (3.9, 2.9)  # inches
COLOUR = re.compile(r"\b(fill|stroke): (#[0-9a-f]{6})\b")


def figure(name: str, draw: Callable[[Axes], Axes], size: tuple[float, float], caption: str | Html = "",
           points: Iterable[Point] = ()) -> Html:
    """A plot and its caption; `points` can be looked up with the pointer."""
    svg, place = drawing(name, draw, size)
    return framed(svg, caption, [(*place(x, y), text) for x, y, text in points])


def framed(svg: Html, caption: str | Html, points: Iterable[Point]) -> Html:
    """A drawing with its caption; `points` are in its own units."""
    found = json.dumps([[round(x, 1), round(y, 1), text] for x, y, text in points], ensure_ascii=False)
    return tag("figure", svg, tag("figcaption", caption) if caption else "", data_points=found)


def drawing(name: str, draw: Callable[[Axes], Axes], size: tuple[float, float]) -> tuple[Html, Place]:
    """A plot as <svg>, and where in it a point of the plot stands."""
    with default_settings():
        made = Figure(figsize=size, layout="constrained")  # without pyplot, which needs a backend
        ax = draw(made.add_subplot())
        svg = inline_svg(made, name, f"Plot: {ax.get_title(loc='left')}")
    to_pixels, dots, height = ax.transData.transform, made.dpi / 72, 72 * size[1]

    def place(x: float, y: float) -> tuple[float, float]:
        right, up = to_pixels((x, y)) / dots
        return float(right), float(height - up)  # in an SVG, y counts from the top

    return Html(COLOUR.sub(lambda found: f"{found[1]}: var(--plot-{found[2][1:]}, {found[2]})", svg)), place


def curve(history: History, key: str) -> Html:
    """One quantity over the iterations, both arms; only the first of the curves has a legend."""
    def draw(ax: Axes) -> Axes:
        plots.curve(history, key, ax)
        return ax if key == plots.OVERVIEW[0] else plots.without_legend(ax)

    points = [(i, value, f"{said(arm, i)}: {short(value)}") for arm in ARMS
              for i, value in zip(*plots.series(history, arm, key), strict=True) if is_known(float(value))]
    return figure(key, draw, SMALL, points=points)


def proxy_against_gold(history: History, caption: str | Html) -> Html:
    """Both rewards over the distance from the reference."""
    points = [(max(row["kl"], 0) ** 0.5, row[key], f"{said(row['arm'], row['iteration'])}: {kind} {short(row[key])}, "
               f"KL {format_number(row['kl'], '{:.1f}')}")
              for row in history for key, kind in (("score", "proxy"), ("gold", "gold"))
              if row.get("arm") in ARMS and is_known(row.get("kl")) and is_known(row.get(key))]
    return figure("proxy-gold", lambda ax: plots.proxy_against_gold(history, ax), LARGE, caption, points)


def calibration(bins: Sequence[Mapping[str, Any]], caption: str | Html) -> Html:
    """Predicted against observed preferences."""
    points = [(b["predicted"], b["observed"], f"predicted {format_number(b['predicted'], '{:.0%}')}, observed "
               f"{format_number(b['observed'], '{:.0%}')} of {format_number(b.get('count'), '{:,.0f}')} pairs")
              for b in bins if is_known(b.get("predicted")) and is_known(b.get("observed"))]
    return figure("calibration", lambda ax: plots.calibration(bins, ax), LARGE, caption, points)


def said(arm: str, iteration: Any) -> str:
    """An arm at an iteration, in words."""
    return f"{STYLES[arm].label}, iteration {iteration:.0f}"


def short(value: Any) -> str:
    """A value in three digits."""
    return format_number(value, "{:.3g}")
