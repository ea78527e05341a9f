"""The first screen of a report: score beside gold, one sentence, and one story told by three models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_mini.plots import STYLES, number
from rlhf_mini.report import findings, text
from rlhf_mini.report.findings import MEASURED
from rlhf_mini.report.html import Html, join, tag
from rlhf_mini.report.terms import Terms
from rlhf_mini.report.text import format_number, is_known

Metrics = Mapping[str, Any]
Story = Mapping[str, Any]
REWARDS = {"score": "proxy", "gold": "gold"}


def first_screen(metrics: Metrics, stories: Sequence[Story], terms: Terms) -> Html:
    """What a run found, for somebody who reads nothing else."""
    facts = ["A run of rlhf_mini"]
    if metrics.get("seed") is not None:
        facts.append(f"seed {metrics['seed']}")
    total = number((metrics.get("seconds") or {}).get("total"))
    if is_known(total):
        facts.append(text.duration(total))
    said = [findings.headline(metrics), findings.remark(metrics)]
    return tag("header", tag("p", " · ".join(facts), class_="kicker"),
               tag("h1", "A language model trained on rankings"), _unfinished(metrics),
               *(tag("p", terms.linked(sentence), class_=name)
                 for name, sentence in zip(("lead", "remark"), said, strict=True) if sentence),
               _bars(metrics, terms), _one_story(stories, terms))


def _unfinished(metrics: Metrics) -> Html:
    missing = [style.label for arm, style in STYLES.items() if not metrics.get(arm)]
    if not missing:
        return Html("")
    return tag("p", "This run is not finished. Not measured yet: ", ", ".join(missing), ". The results so "
               "far are below. The same command with ", tag("code", "--resume"), " continues the run.",
               class_="warning")


def _bars(metrics: Metrics, terms: Terms) -> Html:
    """Score beside gold for each model, as numbers and as bars on one scale."""
    rows = {arm: metrics[arm] for arm in MEASURED if metrics.get(arm)}
    if not rows:
        return Html("")
    known = [v for row in rows.values() for reward in REWARDS.values() if is_known(v := row.get(f"{reward}_mean"))]
    low, high = min([0.0, *known]), max([0.0, *known])
    body = [tag("tr", tag("th", STYLES[arm].label, scope="row"),
                *(_bar(name, row.get(f"{reward}_mean"), low, high) for name, reward in REWARDS.items()), class_=arm)
            for arm, row in rows.items()]
    head = tag("tr", tag("th", "model", scope="col"), *(tag("th", name, scope="col") for name in REWARDS))
    return join(tag("table", tag("thead", head), tag("tbody", *body), class_="bars"),
                tag("p", terms.linked(text.SCORE_AND_GOLD), class_="note"))


def _bar(name: str, value: Any, low: float, high: float) -> Html:
    shown = tag("span", format_number(value, "{:+.2f}"), class_="value")
    if not is_known(value):
        return tag("td", shown)
    scale = 100 / max(high - low, 1e-9)
    left, width = (min(value, 0.0) - low) * scale, abs(value) * scale
    return tag("td", shown, tag("span", tag("i", class_=name, style=f"left:{left:.1f}%;width:{width:.1f}%"),
                                tag("i", class_="zero", style=f"left:{-low * scale:.1f}%"), class_="track"))


def _one_story(stories: Sequence[Story], terms: Terms) -> Html:
    story = findings.telling_story(stories)
    if story is None:
        return Html("")
    if findings.is_fooled(story):
        return join(tag("h2", "One story, told three ways: the worst has the highest score"), three_ways(story))
    caption = terms.linked(findings.story_caption(story, len(stories)))
    return join(tag("h2", "One story, told three ways"), three_ways(story), tag("p", caption, class_="caption"))


def three_ways(story: Story) -> Html:
    """An opening, and beside one another the endings of the three models."""
    endings = [ending(arm, story[arm]) for arm in MEASURED if story.get(arm)]
    return tag("article", tag("p", story.get("opening", ""), class_="opening"),
               tag("div", *endings, class_="three"), class_="story")


def ending(arm: str, told: Mapping[str, Any]) -> Html:
    """A card: who wrote it, the ending, its rewards and what the reader program makes of it."""
    verdict, complaint = text.verdict(told)
    return tag("section", tag("p", STYLES[arm].label, class_="facts"), tag("p", told.get("ending", ""), class_="told"),
               tag("p", tag("span", worth(told), class_="worth"),
                   tag("span", verdict, class_="verdict broken" if complaint else "verdict"), class_="facts"),
               class_=f"ending {arm}")


def worth(told: Mapping[str, Any]) -> str:
    """The score and the gold reward of an ending."""
    return " · ".join(f"{name} {format_number(told.get(reward), '{:+.2f}')}" for name, reward in REWARDS.items())
