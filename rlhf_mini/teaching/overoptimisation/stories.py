"""The story against the price: one opening as policies of several KL coefficients tell it, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets

from rlhf_mini.errors import InputError
from rlhf_mini.plots import STYLES
from rlhf_mini.teaching.story_cards import Card, StoryCards, colour_of

WIDTH, HEIGHT, MARGIN = 330, 200, 34


class StoryAgainstPrice(ipywidgets.VBox):
    """Sliders for the KL coefficient, the iteration and the opening; the story and a dot on gold over score move.

    `runs`: a recorded sweep by the coefficient; each has `history` and `told`, the stories of some iterations.
    """

    def __init__(self, runs: Mapping[str, Mapping[str, Any]], price: str | None = None, opening: int = 0) -> None:
        self.runs = {price: run for price, run in runs.items() if run.get("told")}
        if not self.runs:
            raise InputError("no run of these holds stories: give runs with 'told', such as the first seed's")
        prices = sorted(self.runs, key=float, reverse=True)
        iterations = list(next(iter(self.runs.values()))["told"])
        openings = next(iter(self.runs.values()))["told"][iterations[0]]
        slider = ipywidgets.SelectionSlider
        self.price = slider(options=prices, value=price or prices[-1], description="KL coefficient",
                            style={"description_width": "8em"})
        self.iteration = slider(options=iterations, value=iterations[-1], description="iteration",
                                style={"description_width": "8em"})
        self.opening = slider(options=[(str(i + 1), i) for i in range(len(openings))], value=opening,
                              description="opening", style={"description_width": "8em"})
        self.card = ipywidgets.HTML()
        for one in (self.price, self.iteration, self.opening):
            one.observe(lambda _: self._show(), "value")
        self._show()
        super().__init__([ipywidgets.HBox([self.price, self.iteration, self.opening],
                                          layout={"flex_flow": "row wrap"}), self.card])

    def _show(self) -> None:
        run = self.runs[self.price.value]
        story = run["told"][self.iteration.value][self.opening.value]
        card = Card(f"KL coefficient {self.price.value}, iteration {self.iteration.value}", story["ending"],
                    {"score": story["proxy"], "gold": story["gold"]}, colour_of("ppo"))
        told = StoryCards([(story["opening"], [card])])._repr_html_()
        self.card.value = (f'<div style="display: flex; flex-wrap: wrap; gap: 1.5em"><div style="flex: 1 1 22em">{told}'
                           f'</div>{path_picture(run["history"], int(self.iteration.value))}</div>')

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """As any widget; without a kernel, the card as it stands."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        data["text/plain"], data["text/html"] = "The story against the price", self.card.value
        return bundle


def path_picture(history: Mapping[str, Sequence[float]], iteration: int) -> str:
    """Gold over score, a run's way through its iterations, with a dot at one of them: an SVG that fits any theme."""
    x_of, y_of = _scale((0.0, 2.0), (MARGIN, WIDTH - 8)), _scale((-3.6, 2.0), (HEIGHT - MARGIN, 8))
    points = [(x_of(score), y_of(gold)) for score, gold in zip(history["score"], history["gold"], strict=True)]
    way = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
    x, y = points[iteration - 1]
    ticks = "".join(f'<text x="{MARGIN - 5}" y="{y_of(v) + 4:.0f}" text-anchor="end">{name}</text>'
                    for v, name in ((-3, "−3"), (0, "0"), (2, "+2")))
    ticks += "".join(f'<text x="{x_of(v):.0f}" y="{HEIGHT - MARGIN + 14}" text-anchor="middle">{v}</text>'
                     for v in (0, 1, 2))
    line = 'stroke="currentColor" stroke-opacity="0.4"'
    return (f'<svg width="{WIDTH}" height="{HEIGHT}" font-size="11" fill="currentColor" role="img" '
            f'aria-label="gold over score; the dot is iteration {iteration}">'
            f'<path d="M{MARGIN} 8 V{HEIGHT - MARGIN} H{WIDTH - 8}" fill="none" {line}/>'
            f'<path d="M{MARGIN} {y_of(0):.0f} H{WIDTH - 8}" stroke-dasharray="2 3" {line}/>{ticks}'
            f'<polyline points="{way}" fill="none" stroke="{STYLES["best_of_16"].color}" stroke-width="1.5"/>'
            f'<circle cx="{x:.0f}" cy="{y:.0f}" r="6" fill="{STYLES["ppo_no_kl"].color}"/>'
            f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">score (s.d.)</text>'
            f'<text x="{MARGIN + 6}" y="18">gold (s.d.)</text></svg>')


def _scale(values: tuple[float, float], places: tuple[float, float]) -> Any:
    """A function from values to places; what lies outside is drawn at the edge."""
    low, high = values

    def place(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return places[0] + share * (places[1] - places[0])
    return place
