"""What a run's numbers say, in sentences, and whether they say what is usual."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_mini.plots import ARMS, STYLES, number
from rlhf_mini.report.text import format_number, is_known

Metrics = Mapping[str, Any]
ARMS_IN_WORDS = {"ppo_no_kl": "without the KL penalty,", "ppo": "with it,"}
MEASURED = ("sft", *ARMS)
VERBS = {1: "rose to", 0: "stayed near", -1: "fell to"}


def direction(metrics: Metrics, before: str, after: str, reward: str) -> int | None:
    """Whether a mean reward rose (1), fell (-1) or did neither (0) between two models, beyond twice its error.

    `reward` is "gold" or "proxy", whose standard deviation is 1 over endings of the fine-tuned model. None where a
    mean is not known.
    """
    rows = [metrics.get(before) or {}, metrics.get(after) or {}]
    means = [number(row.get(f"{reward}_mean")) for row in rows]
    if any(map(math.isnan, means)):
        return None
    deviations = [number(row.get("gold_std")) if reward == "gold" else 1.0 for row in rows]
    samples = [max(1.0, number(row.get("samples")) if is_known(row.get("samples")) else 1.0) for row in rows]
    error = math.sqrt(sum((0 if math.isnan(d) else d) ** 2 / n for d, n in zip(deviations, samples, strict=True)))
    difference = means[1] - means[0]
    return 0 if abs(difference) <= 2 * error else int(math.copysign(1, difference))


def headline(metrics: Metrics) -> str:
    """One sentence: what PPO did to score and gold, without the penalty and with it; empty before it is measured."""
    clauses = [f"{ARMS_IN_WORDS[arm]} {clause}" for arm in ("ppo_no_kl", "ppo") if (clause := _clause(metrics, arm))]
    sentence = "; ".join(clauses)
    if sentence.startswith("with it,"):
        sentence = sentence.replace("with it,", "with the KL penalty,", 1)
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _clause(metrics: Metrics, arm: str) -> str:
    """What an arm did: "the score rose to +2.49 and gold fell to −3.57"."""
    moved = {word: direction(metrics, "sft", arm, reward) for word, reward in (("score", "proxy"), ("gold", "gold"))}
    row = metrics.get(arm) or {}
    score, gold = (format_number(row.get(f"{reward}_mean"), "{:+.2f}") for reward in ("proxy", "gold"))
    if moved["score"] is None:
        return ""
    if moved["gold"] is None:
        return f"the score {VERBS[moved['score']]} {score}"
    if moved["score"] == moved["gold"]:
        verb = {1: "rose, to", 0: "hardly changed,", -1: "fell, to"}[moved["score"]]
        return f"score and gold both {verb} {score} and {gold}"
    return f"the score {VERBS[moved['score']]} {score} and gold {VERBS[moved['gold']]} {gold}"


def remark(metrics: Metrics) -> str:
    """What follows from the sentence: the usual, or what this run did that is not; empty before it is measured."""
    if not all(metrics.get(arm) for arm in MEASURED):
        return ""
    odd = unusual(metrics)
    if odd:
        return "This run did not do what is usual: " + "; ".join(odd) + "."
    if direction(metrics, "sft", "ppo", "gold") is None:
        return "Gold is not known in this run, so only reading tells whether a higher score is a better story."
    worse = direction(metrics, "sft", "ppo_no_kl", "gold") == -1
    return ("That is usual: without the penalty, PPO finds endings that the reward model scores too high, and the "
            f"stories become {'worse than before training' if worse else 'worse than with it'}.")


def unusual(metrics: Metrics) -> list[str]:
    """What is usual with the penalty and without, and did not happen, each in a few words."""
    odd = []
    if direction(metrics, "sft", "ppo", "proxy") != 1:
        odd.append("with the penalty, PPO did not raise the score")
    elif direction(metrics, "sft", "ppo", "gold") in (0, -1):
        odd.append("with the penalty, the score rose and gold did not")
    if direction(metrics, "ppo", "ppo_no_kl", "proxy") != 1:
        odd.append("without the penalty, the score is not higher than with it")
    if direction(metrics, "ppo", "ppo_no_kl", "gold") in (0, 1):
        odd.append("without the penalty, gold is not lower than with it, so nothing shows that the reward model was "
                   "exploited")
    return odd


def is_fooled(story: Mapping[str, Any]) -> bool:
    """Whether of an opening's three endings the one with the lowest gold has the highest score."""
    rows = [story.get(arm) or {} for arm in MEASURED]
    gold, score = ([number(row.get(key)) for row in rows] for key in ("gold", "proxy"))
    if any(map(math.isnan, gold + score)) or gold.count(min(gold)) > 1 or score.count(max(score)) > 1:
        return False
    return gold.index(min(gold)) == score.index(max(score))


def telling_story(stories: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The story to begin with: the worst ending has the highest score, the others are coherent, with KL the best one.

    None where no opening was continued by all three models.
    """
    def merit(story: Mapping[str, Any]) -> tuple[Any, ...]:
        sft, ppo, _ = gold = [number(story[arm].get("gold")) for arm in MEASURED]
        return (is_fooled(story), bool(story["ppo"].get("coherent")) and bool(story["sft"].get("coherent")), ppo > sft,
                0.0 if any(map(math.isnan, gold)) else max(gold) - min(gold))

    whole = [story for story in stories if all(story.get(arm) for arm in MEASURED)]
    return max(whole, key=merit, default=None)


def story_caption(story: Mapping[str, Any], among: int) -> str:
    """Which of the three endings has the highest score, where that is not the worst of them."""
    scores = {arm: number(story[arm].get("proxy")) for arm in MEASURED}
    gold = {arm: number(story[arm].get("gold")) for arm in MEASURED}
    if any(map(math.isnan, scores.values())):
        return "The scores of these endings are not known."
    first = max(MEASURED, key=lambda arm: scores[arm])
    start = f"The highest score, {format_number(scores[first], '{:+.2f}')}, goes to {_writer(first)}"
    if any(map(math.isnan, gold.values())):
        return f"{start}. Gold is not known in this run: read the three, and judge for yourself."
    best = ", and it is also the best of the three" if gold[first] == max(gold.values()) else ""
    return f"{start}{best}: in none of {among} openings has the worst ending the highest score."


def _writer(arm: str) -> str:
    return "the model after SFT" if arm == "sft" else STYLES[arm].label
