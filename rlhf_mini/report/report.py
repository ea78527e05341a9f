"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_mini import files, plots, team
from rlhf_mini.plots import STYLES, number
from rlhf_mini.report import figures, text
from rlhf_mini.report.figures import LARGE
from rlhf_mini.report.first_screen import first_screen, three_ways
from rlhf_mini.report.html import Html, document, join, tag
from rlhf_mini.report.scrubber import scrubber
from rlhf_mini.report.terms import Terms
from rlhf_mini.report.text import format_number, is_known
from rlhf_mini.tables import COLUMNS, MODELS

Metrics = Mapping[str, Any]
History = Sequence[Mapping[str, Any]]
UNITS = {"gold_mean": "mean ± s.d.", "proxy_mean": "mean", "kl": "nats per ending",
         "length_tokens": "per ending"}  # a column without an entry is a share of the endings


@team.once
def write_report(folder: str | Path, metrics: Metrics, history: History, samples: Mapping[str, Any],
                 looks: History = ()) -> Path:
    """Write `report.html` into the folder and return its path; the page names what is not measured yet.

    `looks` are the lines of stories.jsonl; without them the page has no scrubber, and says why.
    Raises: NotSavedError.
    """
    css, script = (Path(__file__).with_suffix(end).read_text(encoding="utf-8") for end in (".css", ".js"))
    terms, stories = Terms(), samples.get("stories") or []
    html = document("A run of rlhf_mini", css, script, tag(
        "main", first_screen(metrics, stories, terms), scrubber(metrics, history, looks, terms),
        _results(metrics, history, terms), _training(metrics, history, terms), _reward_model(metrics, terms),
        _stories(stories, terms), _seconds(metrics), _footer(metrics, terms)))
    path = Path(folder) / "report.html"
    files.write(path, html.encode(errors="replace"))  # UTF-8 cannot encode an unpaired surrogate
    return path


def _results(metrics: Metrics, history: History, terms: Terms) -> Html:
    introduction = join(tag("h2", "The task and the results"), tag("p", terms.linked(text.TASK)))
    if not any(metrics.get(arm) for arm in STYLES):
        return join(introduction, tag("p", "No model has been measured yet.", class_="note"))
    key = plots.reward_to_compare(metrics)
    notes = [_reasons(metrics), tag("p", terms.linked(text.COLUMNS_TEXT), class_="note")]
    means = figures.figure("mean-rewards", lambda ax: plots.mean_rewards(metrics, key, ax), LARGE,
                           terms.linked(text.means_caption(metrics, key)))
    distance = figures.proxy_against_gold(history, terms.linked(text.PROXY_GOLD)) if history else ""
    return join(introduction, _table(metrics), *notes, tag("div", means, distance, class_="beside"))


def _table(metrics: Metrics) -> Html:
    """The figures of all models; where the page is narrow, each row becomes a list with the names of the columns."""
    arms = [arm for arm in STYLES if metrics.get(arm)]
    head = [tag("th", name, tag("small", UNITS.get(key, "of endings")), scope="col")
            for key, (name, _) in COLUMNS.items()]
    body = [tag("tr", tag("th", STYLES[arm].label, scope="row"),
                *(tag("td", _cell(arm, metrics[arm], key), data_name=name) for key, (name, _) in COLUMNS.items()),
                class_=arm) for arm in arms]
    return tag("table", tag("thead", tag("tr", tag("th", "model", scope="col"), *head)), tag("tbody", *body),
               class_="results")


def _cell(arm: str, row: Mapping[str, Any], key: str) -> str:
    shown = format_number(row.get(key), COLUMNS[key][1])
    if key == "gold_mean" and is_known(row.get(key)) and is_known(row.get("gold_std")):
        return f"{shown} ± {row['gold_std']:.2f}"
    if key == "kl" and arm.startswith("best_of") and is_known(row.get(key)):
        return f"≤ {shown}"  # ln n − (n − 1)/n is a bound
    return shown


def _reasons(metrics: Metrics) -> Html:
    """The reasons that the run gives for missing numbers."""
    names: dict[str, list[str]] = {}
    for name, reason in (metrics.get("reasons") or {}).items():
        names.setdefault(str(reason), []).append(name.replace("_", " "))
    return join(*(tag("p", tag("b", ", ".join(group)), " not known: ", reason, class_="note")
                  for reason, group in names.items()))


def _training(metrics: Metrics, history: History, terms: Terms) -> Html:
    arms = [tag("div", tag("h3", heading), tag("p", terms.linked(text.arm_text(metrics, arm)))) for arm, heading in
            (("ppo", "With the KL penalty"), ("ppo_no_kl", "Without the KL penalty"))]
    changes = join(tag("h2", "How PPO changed the two policies"), tag("div", *arms, class_="beside"))
    if not history:
        return join(changes, tag("p", "No iteration of PPO has been recorded yet.", class_="note"))
    return join(changes, tag("div", *(figures.curve(history, key) for key in plots.OVERVIEW), class_="figures"))


def _reward_model(metrics: Metrics, terms: Terms) -> Html:
    heading, model = tag("h2", "How well the reward model predicts judgements"), metrics.get("reward_model") or {}
    if not model:
        return join(heading, tag("p", "The reward model has not been fitted yet.", class_="note"))
    figure = figures.calibration(model.get("calibration") or [], terms.linked(text.CALIBRATION))
    return join(heading, tag("div", tag("p", terms.linked(text.reward_model_text(model))), figure, class_="beside"))


def _stories(stories: Sequence[Mapping[str, Any]], terms: Terms) -> Html:
    heading = tag("h2", "The same openings, continued by three models")
    if not stories:
        return join(heading, tag("p", "No endings have been sampled yet.", class_="note"))
    return join(heading, tag("p", terms.linked(text.STORIES)), *map(three_ways, stories))


def _seconds(metrics: Metrics) -> Html:
    seconds = {stage: number(value) for stage, value in (metrics.get("seconds") or {}).items()}
    stages = {stage: value for stage, value in seconds.items() if stage != "total" and is_known(value)}
    if not stages:
        return Html("")
    longest = max([*stages.values(), 1e-9])
    rows = [tag("tr", tag("th", MODELS.get(stage, stage.replace("_", " ")), scope="row"),
                tag("td", text.duration(value)),
                tag("td", tag("span", class_="bar", style=f"width:{100 * value / longest:.1f}%"),
                    class_="wide")) for stage, value in stages.items()]
    return join(tag("h2", "Where the time went"), tag("table", tag("tbody", *rows), class_="seconds"))


def _footer(metrics: Metrics, terms: Terms) -> Html:
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    return join(tag("h2", "Glossary"), terms.entries(),
                tag("footer", tag("p", f"Made with {versions}." if versions else "Made with rlhf_mini.")))
