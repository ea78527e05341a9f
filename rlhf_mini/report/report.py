"""The page a run leaves behind: one self-contained HTML file that tells what happened, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_mini import plots
from rlhf_mini.plots import LOOKS, number
from rlhf_mini.report import text as words
from rlhf_mini.report.html import Html, document, inline_svg, join, tag
from rlhf_mini.report.text import known, show
from rlhf_mini.tables import COLUMNS, MODELS

Metrics = Mapping[str, Any]
History = Sequence[Mapping[str, Any]]
UNITS = {"gold_mean": "mean ± s.d.", "proxy_mean": "mean", "kl": "nats per ending",
         "length_tokens": "per ending"}  # the others are shares of the endings
STORY_ARMS = ("sft", "ppo", "ppo_no_kl")
LARGE, SMALL = (5.6, 3.5), (3.9, 2.9)  # inches


def write_report(folder: str | Path, metrics: Metrics, history: History, samples: Mapping[str, Any]) -> Path:
    """Write `report.html` into the folder and return its path; what is not measured yet is named."""
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    page = document("A run of rlhf_mini", style, tag(
        "main", _header(metrics), _asked(metrics), _taste(metrics), _training(metrics, history),
        _stories(samples.get("stories") or []), _seconds(metrics), _footer(metrics)))
    path = Path(folder) / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")  # half a character has no place in UTF-8
    return path


def _header(metrics: Metrics) -> Html:
    facts = ["A run of rlhf_mini"]
    if metrics.get("seed") is not None:
        facts.append(f"seed {metrics['seed']}")
    total = number((metrics.get("seconds") or {}).get("total"))
    if known(total):
        facts.append(words.duration(total))
    cards = [_card(arm, metrics[arm]) for arm in STORY_ARMS if metrics.get(arm)]
    return join(tag("p", " · ".join(facts), class_="kicker"), tag("h1", "What a taste does to a storyteller"),
                _unfinished(metrics), tag("div", *cards, class_="cards") if cards else "")


def _unfinished(metrics: Metrics) -> Html:
    missing = [look.label for arm, look in LOOKS.items() if not metrics.get(arm)]
    if not missing:
        return Html("")
    return tag("p", "This run is not finished. Not measured yet: ", ", ".join(missing), ". What there is "
               "stands below; the same command with ", tag("code", "--resume"), " continues it.",
               class_="warning")


def _card(arm: str, row: Mapping[str, Any]) -> Html:
    """The one number that sums an arm up: gold where it is known, the proxy where it is not."""
    reward = "gold" if known(row.get("gold_mean")) else "proxy"
    facts = [f"mean {reward} reward", f"{show(row.get('kl'), '{:.1f}')} nats from the reference"]
    if known(row.get("coherent")):
        facts.append(f"{show(row['coherent'], '{:.0%}')} coherent")
    return tag("div", LOOKS[arm].label, tag("b", show(row.get(f"{reward}_mean"), "{:+.2f}")),
               tag("p", ", ".join(facts)), class_=f"card {arm}")


def _asked(metrics: Metrics) -> Html:
    text = join(tag("h2", "What was asked of the model"), tag("p", words.ASKED))
    if not any(metrics.get(arm) for arm in LOOKS):
        return join(text, tag("p", "No model has been measured yet.", class_="note"))
    key = plots.known_reward(metrics)
    figure = _figure("stages", lambda ax: plots.stages(metrics, key, ax), LARGE, words.means(metrics, key))
    return join(text, _table(metrics), _reasons(metrics), tag("div", figure, class_="figures large"))


def _table(metrics: Metrics) -> Html:
    arms = [arm for arm in LOOKS if metrics.get(arm)]
    head = [tag("th", name, tag("small", UNITS.get(key, "of endings")), scope="col")
            for key, (name, _) in COLUMNS.items()]
    body = [tag("tr", tag("th", LOOKS[arm].label, scope="row"),
                *(tag("td", _cell(arm, metrics[arm], key)) for key in COLUMNS), class_=arm) for arm in arms]
    return tag("div", tag("table", tag("thead", tag("tr", tag("th", "model", scope="col"), *head)),
                          tag("tbody", *body)), class_="wide")


def _cell(arm: str, row: Mapping[str, Any], key: str) -> str:
    text = show(row.get(key), COLUMNS[key][1])
    if key == "gold_mean" and known(row.get(key)) and known(row.get("gold_std")):
        return f"{text} ± {row['gold_std']:.2f}"
    if key == "kl" and arm.startswith("best_of") and known(row.get(key)):
        return f"≤ {text}"  # ln n − (n − 1)/n is a bound
    return text


def _reasons(metrics: Metrics) -> Html:
    """Why numbers are missing, where the run has said so."""
    names: dict[str, list[str]] = {}
    for name, reason in (metrics.get("reasons") or {}).items():
        names.setdefault(str(reason), []).append(name.replace("_", " "))
    return join(*(tag("p", tag("b", ", ".join(group)), " not known: ", reason, class_="note")
                  for reason, group in names.items()))


def _taste(metrics: Metrics) -> Html:
    heading, model = tag("h2", "How the reward model learned the taste"), metrics.get("reward_model") or {}
    if not model:
        return join(heading, tag("p", "The reward model has not been fitted yet.", class_="note"))
    bins = model.get("calibration") or []
    figure = _figure("calibration", lambda ax: plots.calibration(bins, ax), (5.6, 4.0), words.CALIBRATION)
    return join(heading, tag("p", words.taste(model)), tag("div", figure, class_="figures large"))


def _training(metrics: Metrics, history: History) -> Html:
    text = join(tag("h2", "What PPO did with the KL penalty"), tag("p", words.arm(metrics, "ppo")),
                tag("h2", "What happened without it"), tag("p", words.arm(metrics, "ppo_no_kl")))
    if not history:
        return join(text, tag("p", "No iteration of PPO has been recorded yet.", class_="note"))
    both = _figure("proxy-gold", lambda ax: plots.proxy_against_gold(history, ax), LARGE, words.PROXY_GOLD)
    curves = [_figure(key, _curve(history, key), SMALL) for key in plots.OVERVIEW]
    return join(text, tag("div", both, class_="figures large"), tag("div", *curves, class_="figures"))


def _curve(history: History, key: str) -> Callable[[Axes], Axes]:
    def draw(ax: Axes) -> Axes:
        plots.curve(history, key, ax)
        return ax if key == plots.OVERVIEW[0] else plots.without_legend(ax)
    return draw


def _stories(stories: Sequence[Mapping[str, Any]]) -> Html:
    heading = tag("h2", "The same openings, told three ways")
    if not stories:
        return join(heading, tag("p", "No endings have been sampled yet.", class_="note"))
    return join(heading, tag("p", words.STORIES), *(_story(story) for story in stories))


def _story(story: Mapping[str, Any]) -> Html:
    endings = [_ending(arm, story[arm]) for arm in STORY_ARMS if story.get(arm)]
    return tag("article", tag("h3", story.get("opening", "")), tag("div", *endings, class_="three"),
               class_="story")


def _ending(arm: str, told: Mapping[str, Any]) -> Html:
    verdict, complaint = words.verdict(told)
    rewards = " · ".join(f"{name} {show(told.get(name), '{:+.2f}')}" for name in ("gold", "proxy"))
    return tag("section", tag("p", LOOKS[arm].label, class_="facts"), tag("p", told.get("ending", "")),
               tag("p", rewards, tag("span", verdict, class_="verdict broken" if complaint else "verdict"),
                   class_="facts"), class_=f"ending {arm}")


def _seconds(metrics: Metrics) -> Html:
    seconds = {stage: number(value) for stage, value in (metrics.get("seconds") or {}).items()}
    stages = {stage: value for stage, value in seconds.items() if stage != "total" and known(value)}
    if not stages:
        return Html("")
    longest = max([*stages.values(), 1e-9])
    rows = [tag("tr", tag("th", MODELS.get(stage, stage.replace("_", " ")), scope="row"),
                tag("td", words.duration(value)),
                tag("td", tag("span", class_="bar", style=f"width:{100 * value / longest:.1f}%"),
                    class_="bars")) for stage, value in stages.items()]
    return join(tag("h2", "Where the time went"),
                tag("div", tag("table", tag("tbody", *rows)), class_="wide"))


def _footer(metrics: Metrics) -> Html:
    entries = [join(tag("dt", word), tag("dd", meaning)) for word, meaning in words.GLOSSARY.items()]
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    return join(tag("h2", "The words on this page"), tag("dl", *entries),
                tag("footer", tag("p", f"Made with {versions}." if versions else "Made with rlhf_mini.")))


def _figure(name: str, draw: Callable[[Axes], Axes], size: tuple[float, float], caption: str = "") -> Html:
    """A plot on a white card of its own, which reads in a light and in a dark window."""
    figure = Figure(figsize=size, layout="constrained")  # not pyplot's: nothing to close, nothing on a screen
    ax = draw(figure.add_subplot())
    svg = inline_svg(figure, name, f"Plot: {ax.get_title(loc='left')}")
    return tag("figure", svg, tag("figcaption", caption) if caption else "")
