"""The text of a report: fixed prose, and sentences made from a run's numbers, without a verdict on them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rlhf_mini.plots import STYLES, number

UNKNOWN = "–"

TASK = (
    "The task: given an opening, write the ending, and then stop. First the model was fine-tuned on demonstrations "
    "(SFT). Then annotators ranked endings of this model, and a reward model was fitted to the rankings. PPO then "
    "trained the fine-tuned model to write endings with a higher score: once with a penalty on the distance from the "
    "fine-tuned model (KL), once with the penalty set to zero and nothing else changed. Best of n trains nothing: the "
    "fine-tuned model writes n endings, and the one with the highest score is kept.")
CALIBRATION = (
    "On the dotted line, the predicted probability equals the observed share. Where the points are flatter than the "
    "line, the reward model is more certain than it should be.")
PROXY_GOLD = (
    "Hollow marks are the score of the reward model (proxy), filled marks the reward of the simulated panel (gold). "
    "While both rise, the reward model is a good guide. Where the proxy rises and gold falls, the policy exploits "
    "errors of the reward model (Gao et al. 2022).")
STORIES = (
    "Below each ending: its score, its gold reward, and the result of the reader program.")
SCORE_AND_GOLD = (
    "Score: what the reward model gives to an ending, and what PPO is trained to raise. Gold: what the simulated "
    "panel thinks of it; no model is trained on that. Means over held-out openings, on one scale.")
COLUMNS_TEXT = (
    "Shares of the endings: grammatical and coherent are what the reader program calls so, ended are those that stop "
    "within the limit, distinct are different ones, with names and things set aside.")
DOTS = (
    "A filled dot is the mean of all endings that a policy wrote at that moment; the last one is the mean of the "
    "evaluation. A ring is the story beside it. The lines are the whole paths.")
DOTS_WITHOUT_GOLD = (
    "A filled dot is the mean score of all endings that a policy wrote at that moment. A ring is the story beside it. "
    "Gold is not known in this run.")
NO_LOOKS = (
    "The texts of this run were not recorded while it trained, because an earlier version made it or stories.jsonl is "
    "missing, so there is nothing to move through here.")


def is_known(value: Any) -> bool:
    """Whether a value is a number that can be shown."""
    return not math.isnan(number(value))


def format_number(value: Any, pattern: str) -> str:
    """A number as text, with a true minus sign; a dash where it is not known."""
    if not is_known(value):
        return UNKNOWN
    shown = pattern.format(number(value))
    if not re.search("[1-9]", shown):  # nothing is left of a small negative number
        shown = pattern.format(0.0)
    return shown.replace("-", "−").replace("%", "\u00a0%")


def duration(seconds: float) -> str:
    """A number of seconds in seconds or in minutes."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def reward_model_text(model: Mapping[str, Any]) -> str:
    """How many pairs the reward model was fitted to, and its accuracy on held-out pairs."""
    train, test = (format_number(model.get(key), "{:,.0f}") for key in ("pairs_train", "pairs_test"))
    accuracy, ceiling = (format_number(model.get(key), "{:.1%}") for key in ("accuracy", "accuracy_ceiling"))
    sentences = (f"The reward model was fitted to {train} pairs of endings and tested on {test} pairs from held-out "
                 f"openings: it agreed with the judgement in {accuracy} of them.")
    if ceiling != UNKNOWN:
        sentences += (f" Predictions from the true probabilities of the simulated annotators would agree in only "
                      f"{ceiling}, because the annotators differ and their judgements are noisy.")
    return sentences


def arm_text(metrics: Mapping[str, Any], arm: str) -> str:
    """How PPO changed one arm, compared with the fine-tuned model."""
    after, before = metrics.get(arm) or {}, metrics.get("sft") or {}
    if not after:
        return "This arm has not been measured yet."
    sentences = [change_text(f"The {reward} reward", before.get(f"{reward}_mean"), after.get(f"{reward}_mean"))
                 for reward in ("proxy", "gold")]
    sentences.append(f"The policy ended {format_number(after.get('kl'), '{:.1f}')} nats per ending from the reference.")
    sentences += [f"{format_number(after[key], '{:.1%}')} of its endings are {key} "
                  f"(after SFT: {format_number(before.get(key), '{:.1%}')})."
                  for key in ("coherent", "distinct") if is_known(after.get(key))]
    return " ".join(filter(None, sentences))


def change_text(name: str, before: Any, after: Any) -> str:
    """One sentence on how a number changed; empty where it is not known."""
    if not is_known(after):
        return ""
    end = format_number(after, "{:+.2f}")
    if not is_known(before):
        return f"{name} ended at {end}."
    start = format_number(before, "{:+.2f}")
    if start == end:
        return f"{name} stayed at {end}."
    return f"{name} {'rose' if after > before else 'fell'} from {start} to {end}."


def means_caption(metrics: Mapping[str, Any], key: str) -> str:
    """How to read the marks and, where there are several models, which one has the highest mean."""
    marks = "Marks are means, bars one standard deviation of the endings." if key == "gold_mean" else ""
    means = {arm: number((metrics.get(arm) or {}).get(key)) for arm in STYLES}
    means = {arm: mean for arm, mean in means.items() if is_known(mean)}
    if len(means) < 2:
        return marks
    return f"{marks} Highest mean: {STYLES[max(means, key=lambda arm: means[arm])].label}.".strip()


def verdict(ending: Mapping[str, Any]) -> tuple[str, bool]:
    """The result of the reader program for an ending, and whether it is a complaint."""
    if ending.get("grammatical") is None:
        return "not read: the reader can read only tales", False
    if not ending["grammatical"]:
        return "reader: not grammatical", True
    if not ending.get("coherent"):
        return "reader: grammatical, not coherent", True
    return "reader: coherent", False


def looks_text(updates: Sequence[int], openings: int) -> str:
    """When the stories of the scrubber were told."""
    steps = {after - before for before, after in pairwise(updates)}
    often = f"every {max(steps)} updates" if steps and max(steps) > 1 else "after each update"
    return (f"While the two models trained, each continued the same {openings} held-out openings, {often} and each "
            "time with the same random numbers. So a text changes only where the policy has changed.")


def after_updates(updates: int) -> str:
    """How far a model is in its training, in words."""
    return "before training" if updates == 0 else f"after {updates} update{'s' * (updates != 1)}"
