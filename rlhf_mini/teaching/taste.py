"""One person's taste: forty judgements, the panel's reward model fitted further to them, and a blind test.

    items = taste_items(sft, tokenizer, openings)             # four endings each, for a RankingSession
    records = simulate_judging(RankingSession(items, name), taste)   # or a person, with RankingWidget
    model = learn_taste(reward_model, tokenizer, records[:30], prompts, endings)
    ...                                                       # PPO with the scores of this model
    test = blind_pairs(prompts, before, after, seed=0)        # the items do not show which ending is whose
    rate = win_rate(*test.outcome(simulate_judging(RankingSession(test.items, name), taste)))
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf_mini import rankings
from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import sample_endings
from rlhf_mini.given import text_lists
from rlhf_mini.language_model import context_length, decode_endings, encode_endings, encode_prompts
from rlhf_mini.ppo import Score
from rlhf_mini.rankings import Ranking
from rlhf_mini.rankings.record import item_key
from rlhf_mini.reward import fit_reward, normalise, score_tokens
from rlhf_mini.run.tasks import ratings_on_own_scale as ratings_on_own_scale
from rlhf_mini.run.tasks import simulate_judging as simulate_judging
from rlhf_mini.sampling import Rollout
from rlhf_mini.tales import Annotator
from rlhf_mini.teaching.measured import Measured
from rlhf_mini.texts import texts

# None of these is on the panel, whose five annotators all like kind deeds and glad endings.
SIMULATED_TASTES = {
    "bittersweet": Annotator("simulated-bittersweet", (("kindness", 0.7), ("mood", -1.2))),
    "gloomy": Annotator("simulated-gloomy", (("mood", -1.2),)),
    "stern": Annotator("simulated-stern", (("kindness", -0.8),)),
}
TASTE_FIT = RewardConfig(epochs=10, batch_size=10, learning_rate=5e-2, dropout=0.0)  # fits the head alone
EXTRA = 2  # endings sampled beyond those that are shown, because some are equal
Z_95 = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


# --- judgements -------------------------------------------------------------------------------------------------


def taste_items(language_model: PreTrainedModel, tokenizer: Any, openings: Sequence[str], each: int = 4,
                seed: int = 0) -> list[tuple[str, list[str]]]:
    """Each opening with `each` different endings, or as many as were found, for a `RankingSession`.

    An opening with only one ending is left out, because there is nothing to rank.
    """
    openings = texts("openings", openings)
    ppo, copies = PPOConfig(), each + EXTRA
    prompts = [opening for opening in openings for _ in range(copies)]
    endings = sample_endings(language_model, tokenizer, prompts, max_new_tokens=ppo.max_new_tokens,
                             temperature=ppo.temperature, seed=seed).endings
    different = [list(dict.fromkeys(endings[i:i + copies]))[:each] for i in range(0, len(endings), copies)]
    return [(opening, found) for opening, found in zip(openings, different, strict=True) if len(found) > 1]


# --- the reward model -------------------------------------------------------------------------------------------


def learn_taste(reward_model: PreTrainedModel, tokenizer: Any, records: Sequence[Ranking],
                prompts: Sequence[str], endings: Sequence[str],
                config: RewardConfig = TASTE_FIT) -> PreTrainedModel:
    """A copy of the reward model, fitted to these rankings; `endings` get mean 0, standard deviation 1.

    Only the head is fitted: a few dozen rankings can weigh the trunk's features, but not form new ones.
    The panel's rankings are not used: as many of them as there are new ones would bring back its taste.
    Raises: InputError if the judgements have no preference.
    """
    model = copy.deepcopy(reward_model)
    model.base_model.requires_grad_(False)
    judged = [record for record in rankings.current(records) if record.ranking]  # without skips
    examples = [(record.prompt, record.completions, record.ranking) for record in judged]
    for _ in fit_reward(model, tokenizer, examples, config):
        pass
    normalise(model, tokenizer, prompts, endings)
    return model


def score_by_text(reward_model: PreTrainedModel, reward_tokenizer: Any, tokenizer: Any) -> Score:
    """Scores for a policy with another tokenizer: its endings are decoded and encoded again.

    A text that is longer than the reward model's context is cut to its beginning.
    """
    context = context_length(reward_model)

    @torch.no_grad()
    def score(rollout: Rollout) -> Tensor:
        prompts = [tokenizer.decode(list(prompt), clean_up_tokenization_spaces=False) for prompt in rollout.prompts]
        endings = decode_endings(tokenizer, rollout.tokens, rollout.mask)
        pairs = zip(encode_prompts(reward_tokenizer, prompts),
                    encode_endings(reward_tokenizer, endings, rollout.ended.tolist()), strict=True)
        return score_tokens(reward_model, [(prompt + ending)[:context] for prompt, ending in pairs])

    return score


# --- did it work? -----------------------------------------------------------------------------------------------


def openings_needed(found: Measured, openings: int, gap: float) -> int:
    """How many openings an exam needs so that a true gap lies 1.96 standard errors from zero.

    Then it points the wrong way once in forty times. `found` is a paired difference and its error over `openings`; the
    error falls with the square root of their number. Units: `gap` as `found`. Raises: InputError for a gap of zero.
    """
    if not gap:
        raise InputError("a gap of 0 would need an endless exam: give the difference that it has to tell from zero")
    return math.ceil(openings * (Z_95 * found.error / gap) ** 2)


def utilities(annotator: Annotator, prompts: Sequence[str], endings: Sequence[str]) -> Tensor:
    """The utility of each ending for a simulated annotator, without noise. Shapes: -> (N,). Units: points."""
    pairs = zip(*text_lists(prompts=prompts, endings=endings), strict=True)
    return torch.tensor([annotator.utility(prompt, ending) for prompt, ending in pairs], dtype=torch.float64)


def shift(before: Tensor, after: Tensor) -> float:
    """How far the mean has moved, in standard deviations of the values before. Shapes: (N,), (M,).

    Raises: InputError if all values before are equal.
    """
    deviation = before.std().item()
    if not deviation > 0:
        raise InputError(f"the {len(before)} values before are all equal: give values that vary")
    return (after.mean() - before.mean()).item() / deviation


class Outcome(NamedTuple):
    """How often the ending from after the training was preferred, the one from before, and neither."""

    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class BlindTest:
    """Pairs of endings, one from before and one from after the training; `items` do not show which is which.

    A session shows the items and records ordinary rankings. `outcome` then counts who won.
    """

    items: list[tuple[str, list[str]]]
    after: dict[str, str] = field(repr=False)  # for each prompt, the ending from after the training

    def verdicts(self, records: Iterable[Ranking]) -> dict[str, str]:
        """For each judged prompt, which ending was preferred: "after", "before" or "neither". Skips are left out.

        Equal texts tie. Raises: InputError if more than one annotator judged these pairs.
        """
        mine = {item_key(prompt, pair) for prompt, pair in self.items}
        judged = [record for record in rankings.current(records) if record.ranking and record.item in mine]
        if len(names := sorted({record.annotator for record in judged})) > 1:
            raise InputError(f"the pairs were judged by {', '.join(names)}: give the records of one annotator")
        preferred = {prompt: "after" if self.after[prompt] == chosen else "before"
                     for prompt, chosen, _ in rankings.to_pairs(judged)}
        return {record.prompt: preferred.get(record.prompt, "neither") for record in judged}

    def outcome(self, records: Iterable[Ranking]) -> Outcome:
        """Count the verdicts. Raises: InputError if more than one annotator judged these pairs."""
        verdicts = list(self.verdicts(records).values())
        return Outcome(verdicts.count("after"), verdicts.count("before"), verdicts.count("neither"))


def blind_pairs(prompts: Sequence[str], before: Sequence[str], after: Sequence[str], seed: int) -> BlindTest:
    """Pair the endings of two models for the same prompts, each pair in an order drawn from the seed.

    The session shuffles each pair once more. Raises: InputError if a prompt occurs twice.
    """
    prompts, before, after = text_lists(prompts=prompts, before=before, after=after)
    if len(set(prompts)) < len(prompts):
        raise InputError(f"of {len(prompts)} prompts only {len(set(prompts))} differ: give each prompt once")
    rng = random.Random(seed)
    items = [(prompt, rng.sample(pair, 2)) for prompt, *pair in zip(prompts, before, after, strict=True)]
    return BlindTest(items, dict(zip(prompts, after, strict=True)))


class WinRate(NamedTuple):
    """A share of wins, and the ends of its 95 % interval."""

    rate: float
    low: float
    high: float


def win_rate(wins: int, losses: int, ties: int) -> WinRate:
    """The share of pairs won, and its 95 % interval. A tie counts as half a win, so the interval is a little too wide.

    Raises: InputError if there are no pairs. Source: Wilson 1927, whose interval stays between 0 and 1.
    """
    pairs = wins + losses + ties
    if pairs < 1 or min(wins, losses, ties) < 0:
        raise InputError(f"there are {wins} wins, {losses} losses and {ties} ties: judge at least one pair")
    rate = (wins + ties / 2) / pairs
    middle = (rate + Z_95**2 / (2 * pairs)) / (1 + Z_95**2 / pairs)
    reach = Z_95 * math.sqrt(rate * (1 - rate) / pairs + Z_95**2 / (4 * pairs**2)) / (1 + Z_95**2 / pairs)
    return WinRate(rate, max(0.0, middle - reach), min(1.0, middle + reach))
