"""The figures of metrics.json: what panel, reader and reward model make of a model's endings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import tales
from rlhf_mini.evaluate import Samples
from rlhf_mini.given import text_lists, text_tuples
from rlhf_mini.reward import pair_accuracy

DISTINCT_AMONG = 512  # `distinct` counts so many endings: the share of different ones falls with their number
TALES_COLUMNS = ("gold", "grammatical", "coherent")


def judge_tales(prompts: Iterable[str], endings: Iterable[str]) -> dict[str, Tensor]:
    """What the tales' world knows of each ending: gold reward, grammatical, coherent. Shapes: (N,) each.

    Raises: InputError where there are not equally many texts of each.
    """
    prompts, endings = text_lists(prompts=prompts, endings=endings)
    readings = [tales.read(opening, ending) for opening, ending in zip(prompts, endings, strict=True)]
    gold = [tales.gold_reward(opening, ending) for opening, ending in zip(prompts, endings, strict=True)]
    return {"gold": torch.tensor(gold, dtype=torch.float64),
            "grammatical": torch.tensor([float(reading.grammatical) for reading in readings]),
            "coherent": torch.tensor([float(reading.coherent) for reading in readings])}


def tales_means(prompts: Iterable[str], endings: Iterable[str], tales_world: bool) -> dict[str, float | None]:
    """Mean gold reward and the shares that are grammatical and coherent; None where the text is not tales."""
    if not tales_world:
        return dict.fromkeys(TALES_COLUMNS)
    return {name: column.mean().item() for name, column in judge_tales(prompts, endings).items()}


def evaluate_samples(samples: Samples, tales_world: bool = True) -> dict[str, float | None]:
    """The figures of one model in metrics.json.

    Units: `gold` in standard deviations of the tales,
    `kl` in nats per ending, `length_tokens` with the EOS; grammatical, coherent, ended, distinct from 0 to 1.
    """
    n = len(samples.endings)
    judged = judge_tales(samples.prompts, samples.endings) if tales_world else None
    forms = [tales.skeleton(ending) if tales_world else ending for ending in samples.endings]
    return {
        "gold_mean": judged["gold"].mean().item() if judged else None,
        "gold_std": judged["gold"].std().item() if judged else None,
        "proxy_mean": samples.proxy.double().mean().item(),
        "kl": samples.kl,
        "grammatical": judged["grammatical"].mean().item() if judged else None,
        "coherent": judged["coherent"].mean().item() if judged else None,
        "ended": sum(samples.ended) / n,
        "distinct": len(set(forms[:DISTINCT_AMONG])) / min(n, DISTINCT_AMONG),
        "length_tokens": sum(samples.lengths) / n,
        "samples": n,
    }


def example_stories(samples: Mapping[str, Samples], tales_world: bool, count: int = 8) -> list[dict[str, Any]]:
    """The first different openings, each with the ending of every model and what is known of it."""
    prompts = next(iter(samples.values())).prompts
    picked = [prompts.index(prompt) for prompt in list(dict.fromkeys(prompts))[:count]]
    stories: list[dict[str, Any]] = [{"opening": prompts[i]} for i in picked]
    for name, of_model in samples.items():
        for story, i in zip(stories, picked, strict=True):
            ending = of_model.endings[i]
            story[name] = {"ending": ending, "ended": of_model.ended[i], "proxy": of_model.proxy[i].item(),
                           **tales_means([prompts[i]], [ending], tales_world)}
    return stories


def reward_model_metrics(model: nn.Module, tokenizer: Any, pairs: Iterable[tuple[str, str, str]], *,
                         scale: float, panel: bool) -> dict[str, Any]:
    """How often the reward model agrees with held-out pairs (prompt, chosen, rejected), and how sure it is.

    `scale` is the standard deviation that normalising divided by: Bradley-Terry speaks of scores before that.
    The ceiling is known only where the simulated `panel` judged; no pairs, no numbers.
    """
    read = text_tuples("pairs", pairs, "prompt", "chosen", "rejected")
    if not read:
        return {"accuracy": None, "accuracy_ceiling": None, "calibration": []}
    accuracy, margins = pair_accuracy(model, tokenizer, read)
    certainty = [tales.preference_probability(*pair) for pair in read] if panel else []
    ceiling = sum(max(p, 1 - p) for p in certainty) / len(read) if panel else None
    return {"accuracy": float(accuracy), "accuracy_ceiling": ceiling,
            "calibration": calibration_bins(margins.cpu() * scale)}


def calibration_bins(margins: Tensor, bins: int = 10) -> list[dict[str, float]]:
    """Predicted against observed preferences in equal steps of the predicted probability.

    Shapes: margins (N,), score of chosen minus rejected. Every second pair is turned round, or the observed
    share would be 1 everywhere.
    """
    turned = torch.arange(len(margins)) % 2 == 1
    predicted = torch.where(turned, -margins, margins).double().sigmoid()  # P(the first is better)
    observed = (~turned).double()  # and whether it was
    place = (predicted * bins).long().clamp(max=bins - 1)
    found = [(place == b) for b in range(bins)]
    return [{"predicted": predicted[here].mean().item(), "observed": observed[here].mean().item(),
             "count": int(here.sum())} for here in found if here.any()]
