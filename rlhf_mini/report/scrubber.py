"""The scrubber: the texts of both arms and a dot on score against gold, moved together through the run's updates.

It stands at the last look; a few lines of script move it. Without scripts the last texts stand there, and a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_mini import plots
from rlhf_mini.plots import ARMS
from rlhf_mini.report import figures, text
from rlhf_mini.report.figures import Place
from rlhf_mini.report.first_screen import ending, worth
from rlhf_mini.report.html import Html, join, tag
from rlhf_mini.report.terms import Terms
from rlhf_mini.report.text import format_number, is_known

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

Metrics = Mapping[str, Any]
History = Sequence[Mapping[str, Any]]
Means = Mapping[tuple[str, int], tuple[Any, Any]]  # arm and updates -> score and gold
NAMES = {"ppo": "with KL", "ppo_no_kl": "without KL"}


def scrubber(metrics: Metrics, history: History, looks: History, terms: Terms) -> Html:
    """The section; one sentence where the run has kept no looks."""
    heading = tag("h2", "The stories while the models train")
    if not looks:
        return join(heading, tag("p", text.NO_LOOKS, class_="note"))
    openings = _openings(looks[-1])
    looks = [look for look in looks if _openings(look) == openings]  # another version may have had others
    means = {(look["arm"], look["updates"]): mean_of(metrics, history, look["arm"], look["updates"]) for look in looks}
    is_gold_known = any(is_known(gold) for _, gold in means.values())
    updates = sorted({look["updates"] for look in looks})
    svg, place = figures.drawing("watch", lambda ax: _draw(history, looks, is_gold_known, ax), (4.6, 3.9))
    at: dict[str, Any] = {"updates": updates, "openings": openings,
                          "arms": {arm: [_stop(look, means, is_gold_known, place) for look in _at(looks, arm, updates)]
                                   for arm in ARMS if any(look["arm"] == arm for look in looks)}}
    svg = Html(svg.replace("</svg>", join(*(_dots(arm, stops[-1]) for arm, stops in at["arms"].items())) + "</svg>"))
    frame = figures.framed(svg, terms.linked(text.DOTS if is_gold_known else text.DOTS_WITHOUT_GOLD),
                           _points(history, is_gold_known, place))
    shown = tag("div", tag("p", openings[0], class_="opening"),
                *(ending(arm, _at(looks, arm, updates)[-1]["stories"][0]) for arm in at["arms"]), class_="texts")
    return tag("div", heading, tag("p", terms.linked(text.looks_text(updates, len(openings)))),
               _controls(updates, len(openings)), tag("div", shown, frame, class_="beside"),
               _table(at["arms"], updates, means), id="watch", data_looks=json.dumps(at, ensure_ascii=False))


def mean_of(metrics: Metrics, history: History, arm: str, updates: int) -> tuple[Any, Any]:
    """Mean score and gold after so many updates: of the next batch; after the last update, of the evaluation."""
    rows = {row["iteration"]: row for row in history if row.get("arm") == arm and "iteration" in row}
    if updates + 1 in rows:
        return rows[updates + 1].get("score"), rows[updates + 1].get("gold")
    measured = (metrics.get(arm) or {}) if updates == max(rows, default=None) else {}
    return measured.get("proxy_mean"), measured.get("gold_mean")


def _openings(look: Mapping[str, Any]) -> list[str]:
    return [story["opening"] for story in look["stories"]]


def _at(looks: History, arm: str, updates: Sequence[int]) -> list[Mapping[str, Any]]:
    """The arm's look at each number of updates; where it has none, the one before, or else its first."""
    own = sorted((look for look in looks if look["arm"] == arm), key=lambda look: int(look["updates"]))
    return [next((look for look in reversed(own) if look["updates"] <= n), own[0]) for n in updates]


def _stop(look: Mapping[str, Any], means: Means, is_gold_known: bool, place: Place) -> dict[str, Any]:
    """What the script shows of one arm at one look: where the dot is, and text, rewards, verdict and ring of each."""
    def at(score: Any, gold: Any) -> list[float] | None:
        x, y = _position(look["updates"], score, gold, is_gold_known)
        return [round(v, 1) for v in place(x, y)] if is_known(x) and is_known(y) else None

    return {"dot": at(*means[look["arm"], look["updates"]]),
            "stories": [[story["ending"], worth(story), *text.verdict(story), at(story.get("proxy"), story.get("gold"))]
                        for story in look["stories"]]}


def _position(updates: int, score: Any, gold: Any, is_gold_known: bool) -> tuple[Any, Any]:
    return (score, gold) if is_gold_known else (updates + 1, score)


def _draw(history: History, looks: History, is_gold_known: bool, ax: Axes) -> Axes:
    """The paths of both arms, with room for every story."""
    drawn = plots.score_against_gold(history, ax) if is_gold_known else plots.curve(history, "score", ax)
    rings = [_position(look["updates"], story.get("proxy"), story.get("gold"), is_gold_known)
             for look in looks for story in look["stories"]]
    drawn.update_datalim([(x, y) for x, y in rings if is_known(x) and is_known(y)] or [(0, 0)])
    drawn.autoscale_view()
    if is_gold_known and (legend := drawn.get_legend()) is not None:
        legend.set_loc("lower left")  # a low score with low gold: no policy goes there
    return drawn


def _points(history: History, is_gold_known: bool, place: Place) -> list[figures.Point]:
    found = []
    for row in history:
        x, y = _position(row["iteration"] - 1, row.get("score"), row.get("gold"), is_gold_known)
        if is_known(x) and is_known(y):
            gold = f", gold {format_number(row.get('gold'), '{:+.2f}')}" if is_gold_known else ""
            found.append((*place(x, y), f"{figures.said(row['arm'], row['iteration'])}: score "
                          f"{format_number(row.get('score'), '{:+.2f}')}{gold}"))
    return found


def _dots(arm: str, stop: Mapping[str, Any]) -> Html:
    """The mean of an arm and, as a ring, the story that is shown."""
    marks = {"dot": (stop["dot"], "5"), "ring": (stop["stories"][0][-1], "5")}
    return join(*(tag("circle", cx=str((at or [-99])[0]), cy=str((at or [-99])[-1]), r=r, class_=f"{name} {arm}")
                  for name, (at, r) in marks.items()))


def _controls(updates: Sequence[int], openings: int) -> Html:
    """What moves the scrubber; the script shows it."""
    numbers = [tag("button", str(n), type="button", aria_label=f"opening {n} of {openings}",
                   aria_pressed=str(n == 1).lower()) for n in range(1, openings + 1)]
    return tag("div", tag("button", "Play", type="button", class_="play"),
               Html(f'<input type="range" min="0" max="{len(updates) - 1}" value="{len(updates) - 1}" '
                    'aria-label="updates of the models">'),
               tag("output", text.after_updates(updates[-1])),
               tag("div", tag("span", "opening"), *numbers, class_="numbers", role="group"),
               class_="controls", hidden="")


def _table(arms: Mapping[str, Any], updates: Sequence[int], means: Means) -> Html:
    head = [tag("th", f"{reward}, {NAMES[arm]}", scope="col") for arm in arms for reward in ("score", "gold")]
    rows = [tag("tr", tag("th", str(n), scope="row"),
                *(tag("td", format_number(value, "{:+.2f}")) for arm in arms
                  for value in means.get((arm, n), (None, None)))) for n in updates]
    return tag("details", tag("summary", "The same as a table"),
               tag("table", tag("thead", tag("tr", tag("th", "updates", scope="col"), *head)), tag("tbody", *rows),
                   class_="narrow"), open="")
