"""The words of a report: fixed prose, and sentences made from a run's numbers, which do not judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rlhf_mini.plots import LOOKS, number

UNKNOWN = "–"

ASKED = (
    "Given an opening, write the ending that follows, and then stop. First the model was "
    "fine-tuned on demonstrations (SFT). Then endings were ranked, a reward model learned the taste behind "
    "the rankings, and PPO changed the storyteller to please the reward model: once with a penalty on the "
    "distance from where it started (KL), once with nothing else changed and the penalty at zero. Best of n "
    "trains nothing: it asks the fine-tuned model n times and keeps the ending with the highest score.")
CALIBRATION = (
    "On the dotted line, a stated probability can be taken at its word. Where the points lie flatter than "
    "the line, the reward model is surer than it should be.")
PROXY_GOLD = (
    "Hollow marks are what the reward model says, filled marks what the panel truly likes. While both rise "
    "together, the reward model is a good guide. Where hollow goes on rising and filled turns down, the "
    "policy no longer pleases the panel, only the model of it (Gao et al. 2022).")
STORIES = (
    "Under each ending stand its gold reward, the score of the reward model (proxy), and what the reader "
    "program found.")
GLOSSARY = {
    "gold": "What the panel of simulated annotators truly likes, without its noise: mean 0 and standard "
            "deviation 1 over the stories of the grammar. No model is trained on it.",
    "proxy": "The score of the reward model, which learned from rankings: mean 0 and standard deviation 1 "
             "over endings of the fine-tuned model. This is what PPO climbs.",
    "KL": "How far a policy has moved from the reference, the fine-tuned model it started as: in nats, "
          "summed over an ending. The penalty takes this, times a coefficient, away from the score.",
    "coherent": "A reader program found the right hero, the right pronouns and the right thing throughout. "
                "Coherent endings are grammatical too.",
    "distinct": "Different endings among those sampled, names and things set aside. A policy that tells one "
                "story over and over has few.",
}


def known(value: Any) -> bool:
    """Whether a value is a number that can be shown."""
    return not math.isnan(number(value))


def show(value: Any, pattern: str) -> str:
    """A number as text, with a true minus sign; a dash where it is not known."""
    if not known(value):
        return UNKNOWN
    return pattern.format(number(value)).replace("-", "−").replace("%", "\u00a0%")


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def taste(model: Mapping[str, Any]) -> str:
    """What the reward model learned from, and how often it agrees with judgements it has not seen."""
    learned, asked = (show(model.get(key), "{:,.0f}") for key in ("pairs_train", "pairs_test"))
    accuracy, ceiling = (show(model.get(key), "{:.1%}") for key in ("accuracy", "accuracy_ceiling"))
    text = (f"It learned from {learned} pairs of endings and was asked about {asked} pairs from openings it "
            f"had never seen: it agreed with the judgement in {accuracy} of them.")
    if ceiling != UNKNOWN:
        text += (f" Even someone who knew every simulated annotator's true odds would be right only "
                 f"{ceiling} of the time, because annotators disagree and waver.")
    return text


def arm(metrics: Mapping[str, Any], name: str) -> str:
    """What PPO did to one arm, beside the fine-tuned model it started as."""
    after, before = metrics.get(name) or {}, metrics.get("sft") or {}
    if not after:
        return "This arm has not been measured yet."
    parts = [moved(f"The {reward} reward", before.get(f"{reward}_mean"), after.get(f"{reward}_mean"))
             for reward in ("proxy", "gold")]
    parts.append(f"The policy ended {show(after.get('kl'), '{:.1f}')} nats per ending from the reference.")
    parts += [f"{show(after[key], '{:.1%}')} of its endings are {key} "
              f"(after SFT: {show(before.get(key), '{:.1%}')})."
              for key in ("coherent", "distinct") if known(after.get(key))]
    return " ".join(part for part in parts if part)


def moved(name: str, before: Any, after: Any) -> str:
    """One sentence on how a number changed; empty where it is not known."""
    if not known(after):
        return ""
    end = show(after, "{:+.2f}")
    if not known(before):
        return f"{name} came to {end}."
    start = show(before, "{:+.2f}")
    if start == end:
        return f"{name} stayed at {end}."
    return f"{name} {'rose' if after > before else 'fell'} from {start} to {end}."


def means(metrics: Mapping[str, Any], key: str) -> str:
    """How to read the marks, and which model has the highest mean where there is more than one."""
    marks = "Marks are means, bars one standard deviation of the endings." if key == "gold_mean" else ""
    found = {name: number((metrics.get(name) or {}).get(key)) for name in LOOKS}
    found = {name: mean for name, mean in found.items() if known(mean)}
    if len(found) < 2:
        return marks
    return f"{marks} Highest mean: {LOOKS[max(found, key=lambda name: found[name])].label}.".strip()


def verdict(told: Mapping[str, Any]) -> tuple[str, bool]:
    """What the reader program says of an ending, and whether it is a complaint."""
    if told.get("grammatical") is None:
        return "not read: the reader knows only tales", False
    if not told["grammatical"]:
        return "reader: not grammatical", True
    if not told.get("coherent"):
        return "reader: grammatical, not coherent", True
    return "reader: coherent", False
