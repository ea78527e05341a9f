"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_mini import files, plots, team
from rlhf_mini.plots import STYLES, number
from rlhf_mini.plots.backend import Figure, default_settings
from rlhf_mini.report import text
from rlhf_mini.report.html import Html, document, inline_svg, join, tag
from rlhf_mini.report.text import format_number, is_known
from rlhf_mini.tables import COLUMNS, MODELS

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

Metrics = Mapping[str, Any]
History = Sequence[Mapping[str, Any]]
UNITS = {"gold_mean": "mean ± s.d.", "proxy_mean": "mean", "kl": "nats per ending",
         "length_tokens": "per ending"}  # a column without an entry is a share of the endings
STORY_ARMS = ("sft", "ppo", "ppo_no_kl")
LARGE, SMALL = (5.6, 3.5), (3.9, 2.9)  # inches


@team.once
def write_report(folder: str | Path, metrics: Metrics, history: History, samples: Mapping[str, Any],
                 looks: History = ()) -> Path:
    """Write `report.html` into the folder and return its path; the page names what is not measured yet.

    Raises: NotSavedError.
    """
    css = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    html = document("A run of rlhf_mini", css, tag(
        "main", _header(metrics), _results(metrics), _reward_model(metrics), _training(metrics, history),
        _stories(samples.get("stories") or []), _seconds(metrics), _footer(metrics)))
    path = Path(folder) / "report.html"
    files.write(path, html.encode(errors="replace"))  # UTF-8 cannot encode an unpaired surrogate
    return path


def _header(metrics: Metrics) -> Html:
    facts = ["A run of rlhf_mini"]
    if metrics.get("seed") is not None:
        facts.append(f"seed {metrics['seed']}")
    total = number((metrics.get("seconds") or {}).get("total"))
    if is_known(total):
        facts.append(text.duration(total))
    cards = [_card(arm, metrics[arm]) for arm in STORY_ARMS if metrics.get(arm)]
    return join(tag("p", " · ".join(facts), class_="kicker"), tag("h1", "A language model trained on rankings"),
                _unfinished(metrics), tag("div", *cards, class_="cards") if cards else "")


def _unfinished(metrics: Metrics) -> Html:
    missing = [style.label for arm, style in STYLES.items() if not metrics.get(arm)]
    if not missing:
        return Html("")
    return tag("p", "This run is not finished. Not measured yet: ", ", ".join(missing), ". The results so "
               "far are below. The same command with ", tag("code", "--resume"), " continues the run.",
               class_="warning")


def _card(arm: str, row: Mapping[str, Any]) -> Html:
    """The mean reward of one arm: gold where it is known, otherwise the proxy."""
    reward = "gold" if is_known(row.get("gold_mean")) else "proxy"
    facts = [f"mean {reward} reward", f"{format_number(row.get('kl'), '{:.1f}')} nats from the reference"]
    if is_known(row.get("coherent")):
        facts.append(f"{format_number(row['coherent'], '{:.0%}')} coherent")
    return tag("div", STYLES[arm].label, tag("b", format_number(row.get(f"{reward}_mean"), "{:+.2f}")),
               tag("p", ", ".join(facts)), class_=f"card {arm}")


def _results(metrics: Metrics) -> Html:
    introduction = join(tag("h2", "The task and the results"), tag("p", text.TASK))
    if not any(metrics.get(arm) for arm in STYLES):
        return join(introduction, tag("p", "No model has been measured yet.", class_="note"))
    key = plots.reward_to_compare(metrics)
    figure = _figure("mean-rewards", lambda ax: plots.mean_rewards(metrics, key, ax), LARGE,
                     text.means_caption(metrics, key))
    return join(introduction, _table(metrics), _reasons(metrics), tag("div", figure, class_="figures large"))


def _table(metrics: Metrics) -> Html:
    arms = [arm for arm in STYLES if metrics.get(arm)]
    head = [tag("th", name, tag("small", UNITS.get(key, "of endings")), scope="col")
            for key, (name, _) in COLUMNS.items()]
    body = [tag("tr", tag("th", STYLES[arm].label, scope="row"),
                *(tag("td", _cell(arm, metrics[arm], key)) for key in COLUMNS), class_=arm) for arm in arms]
    return tag("div", tag("table", tag("thead", tag("tr", tag("th", "model", scope="col"), *head)),
                          tag("tbody", *body)), class_="wide")


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


def _reward_model(metrics: Metrics) -> Html:
    heading, model = tag("h2", "How well the reward model predicts judgements"), metrics.get("reward_model") or {}
    if not model:
        return join(heading, tag("p", "The reward model has not been fitted yet.", class_="note"))
    bins = model.get("calibration") or []
    figure = _figure("calibration", lambda ax: plots.calibration(bins, ax), (5.6, 4.0), text.CALIBRATION)
    return join(heading, tag("p", text.reward_model_text(model)), tag("div", figure, class_="figures large"))


def _training(metrics: Metrics, history: History) -> Html:
    changes = join(tag("h2", "PPO with the KL penalty"), tag("p", text.arm_text(metrics, "ppo")),
                   tag("h2", "PPO without the KL penalty"), tag("p", text.arm_text(metrics, "ppo_no_kl")))
    if not history:
        return join(changes, tag("p", "No iteration of PPO has been recorded yet.", class_="note"))
    both = _figure("proxy-gold", lambda ax: plots.proxy_against_gold(history, ax), LARGE, text.PROXY_GOLD)
    curves = [_figure(key, _curve(history, key), SMALL) for key in plots.OVERVIEW]
    return join(changes, tag("div", both, class_="figures large"), tag("div", *curves, class_="figures"))


def _curve(history: History, key: str) -> Callable[[Axes], Axes]:
    def draw(ax: Axes) -> Axes:
        plots.curve(history, key, ax)
        return ax if key == plots.OVERVIEW[0] else plots.without_legend(ax)
    return draw


def _stories(stories: Sequence[Mapping[str, Any]]) -> Html:
    heading = tag("h2", "The same openings, continued by three models")
    if not stories:
        return join(heading, tag("p", "No endings have been sampled yet.", class_="note"))
    return join(heading, tag("p", text.STORIES), *(_story(story) for story in stories))


def _story(story: Mapping[str, Any]) -> Html:
    endings = [_ending(arm, story[arm]) for arm in STORY_ARMS if story.get(arm)]
    return tag("article", tag("h3", story.get("opening", "")), tag("div", *endings, class_="three"),
               class_="story")


def _ending(arm: str, ending: Mapping[str, Any]) -> Html:
    verdict, complaint = text.verdict(ending)
    rewards = " · ".join(f"{name} {format_number(ending.get(name), '{:+.2f}')}" for name in ("gold", "proxy"))
    return tag("section", tag("p", STYLES[arm].label, class_="facts"), tag("p", ending.get("ending", "")),
               tag("p", rewards, tag("span", verdict, class_="verdict broken" if complaint else "verdict"),
                   class_="facts"), class_=f"ending {arm}")


def _seconds(metrics: Metrics) -> Html:
    seconds = {stage: number(value) for stage, value in (metrics.get("seconds") or {}).items()}
    stages = {stage: value for stage, value in seconds.items() if stage != "total" and is_known(value)}
    if not stages:
        return Html("")
    longest = max([*stages.values(), 1e-9])
    rows = [tag("tr", tag("th", MODELS.get(stage, stage.replace("_", " ")), scope="row"),
                tag("td", text.duration(value)),
                tag("td", tag("span", class_="bar", style=f"width:{100 * value / longest:.1f}%"),
                    class_="bars")) for stage, value in stages.items()]
    return join(tag("h2", "Where the time went"),
                tag("div", tag("table", tag("tbody", *rows)), class_="wide"))


def _footer(metrics: Metrics) -> Html:
    entries = [join(tag("dt", word), tag("dd", meaning)) for word, meaning in text.GLOSSARY.items()]
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    return join(tag("h2", "Glossary"), tag("dl", *entries),
                tag("footer", tag("p", f"Made with {versions}." if versions else "Made with rlhf_mini.")))


def _figure(name: str, draw: Callable[[Axes], Axes], size: tuple[float, float], caption: str = "") -> Html:
    """A plot on a white card, which is readable in light and dark mode."""
    with default_settings():
        figure = Figure(figsize=size, layout="constrained")  # without pyplot, which needs a backend
        ax = draw(figure.add_subplot())
        svg = inline_svg(figure, name, f"Plot: {ax.get_title(loc='left')}")
    return tag("figure", svg, tag("figcaption", caption) if caption else "")
