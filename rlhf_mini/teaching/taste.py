"""A taste of one: forty judgements, the panel's reward model fitted further to them, and a blind test at the end.

    items = taste_items(sft, tokenizer, openings)             # four endings each, for a RankingSession
    records = let_judge(RankingSession(items, name), taste)   # a simulated taste; or a person, with RankingWidget
    model = learn_taste(reward_model, tokenizer, records[:30], prompts, endings)
    ...                                                       # PPO, as ever, with this model's scores
    test = blind_pairs(prompts, before, after, seed=0)        # which ending is whose, nobody is shown
    rate = win_rate(*test.outcome(let_judge(RankingSession(test.items, name), taste)))
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
from rlhf_mini.language_model import context_length, decode_endings, encode_endings, encode_prompts
from rlhf_mini.ppo import Score
from rlhf_mini.rankings import Ranking
from rlhf_mini.rankings.record import item_key
from rlhf_mini.reward import fit_reward, normalise, score_tokens
from rlhf_mini.run.tasks import let_judge as let_judge
from rlhf_mini.run.tasks import own_marks as own_marks
from rlhf_mini.sampling import Rollout
from rlhf_mini.tales import Annotator

# None of them sits on the panel, whose five all like kind deeds and a glad ending.
SIMULATED_TASTES = {
    "gloomy": Annotator("simulated-gloomy", (("mood", -1.2),)),
    "bittersweet": Annotator("simulated-bittersweet", (("kindness", 0.7), ("mood", -1.2))),
    "stern": Annotator("simulated-stern", (("kindness", -0.8),)),
}
TASTE_FIT = RewardConfig(epochs=10, batch_size=10, learning_rate=5e-2, dropout=0.0)  # of the head alone
SPARE = 2  # endings more than are shown, for some come twice
Z = 1.959964  # 95 % of a normal distribution lie within as many standard deviations


# --- judgements -------------------------------------------------------------------------------------------------


def taste_items(language_model: PreTrainedModel, tokenizer: Any, openings: Sequence[str], each: int = 4,
                seed: int = 0) -> list[tuple[str, list[str]]]:
    """Each opening with `each` different endings (or as many as were found), for a `RankingSession`.

    An opening of which the model knows one ending only is left out: there is nothing to rank.
    """
    ppo, copies = PPOConfig(), each + SPARE
    prompts = [opening for opening in openings for _ in range(copies)]
    endings = sample_endings(language_model, tokenizer, prompts, max_new_tokens=ppo.max_new_tokens,
                             temperature=ppo.temperature, seed=seed).endings
    different = [list(dict.fromkeys(endings[i:i + copies]))[:each] for i in range(0, len(endings), copies)]
    return [(opening, found) for opening, found in zip(openings, different, strict=True) if len(found) > 1]


# --- the reward model -------------------------------------------------------------------------------------------


def learn_taste(reward_model: PreTrainedModel, tokenizer: Any, records: Sequence[Ranking], prompts: Sequence[str],
                endings: Sequence[str], config: RewardConfig = TASTE_FIT) -> PreTrainedModel:
    """A copy of the reward model, fitted further to these judgements; `endings` get mean 0, standard deviation 1.

    Only the head moves: a few dozen rankings can say which of the trunk's features please, not make new ones. The
    panel's rankings stay out of it: as many of them as there are new ones bring the panel's taste back.
    Raises: InputError where no judgement prefers anything to anything.
    """
    model = copy.deepcopy(reward_model)
    model.base_model.requires_grad_(False)
    judged = [record for record in rankings.current(records) if record.ranking]  # no skips
    examples = [(record.prompt, record.completions, record.ranking) for record in judged]
    for _ in fit_reward(model, tokenizer, examples, config):
        pass
    normalise(model, tokenizer, prompts, endings)
    return model


def score_by_text(reward_model: PreTrainedModel, reward_tokenizer: Any, tokenizer: Any) -> Score:
    """Scores for the endings of a policy with another tokenizer: they are read as text.

    What is longer than the reward model's context is judged by its beginning.
    """
    context = context_length(reward_model)

    @torch.no_grad()
    def score(rollout: Rollout) -> Tensor:
        prompts = [tokenizer.decode(row[live], clean_up_tokenization_spaces=False) for row, live
                   in zip(rollout.prompt_tokens, rollout.prompt_mask, strict=True)]
        endings = decode_endings(tokenizer, rollout.tokens, rollout.mask)
        pairs = zip(encode_prompts(reward_tokenizer, prompts),
                    encode_endings(reward_tokenizer, endings, rollout.ended.tolist()), strict=True)
        return score_tokens(reward_model, [(prompt + ending)[:context] for prompt, ending in pairs])

    return score


# --- did it work? -----------------------------------------------------------------------------------------------


def utilities(annotator: Annotator, prompts: Sequence[str], endings: Sequence[str]) -> Tensor:
    """What a simulated taste thinks of each ending, without noise. Shapes: -> (N,). Units: points."""
    pairs = zip(prompts, endings, strict=True)
    return torch.tensor([annotator.utility(prompt, ending) for prompt, ending in pairs], dtype=torch.float64)


def shift(before: Tensor, after: Tensor) -> float:
    """How far the mean has moved, in standard deviations of what was there before. Shapes: (N,), (M,).

    Raises: InputError where everything before is worth the same.
    """
    deviation = before.std().item()
    if not deviation > 0:
        raise InputError(f"the {len(before)} values before do not vary: their standard deviation is no unit")
    return (after.mean() - before.mean()).item() / deviation


class Outcome(NamedTuple):
    """How often the ending of the model afterwards was preferred, the one before, and neither."""

    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class BlindTest:
    """Pairs of endings, one from before and one from after; `items` do not tell which is which.

    A session shows them and records ordinary rankings. `outcome` opens the envelope.
    """

    items: list[tuple[str, list[str]]]
    after: dict[str, str] = field(repr=False)  # prompt: the ending of the model afterwards

    def verdicts(self, records: Iterable[Ranking]) -> dict[str, str]:
        """What an annotator preferred, "after", "before" or "neither", for each opening judged; skips are left out.

        Equal texts tie. Raises: InputError where the records of these pairs are of more than one annotator.
        """
        mine = {item_key(prompt, pair) for prompt, pair in self.items}
        judged = [record for record in rankings.current(records) if record.ranking and record.item in mine]
        if len(names := sorted({record.annotator for record in judged})) > 1:
            raise InputError(f"the pairs were judged by {', '.join(names)}: give the records of one annotator")
        preferred = {prompt: "after" if self.after[prompt] == chosen else "before"
                     for prompt, chosen, _ in rankings.to_pairs(judged)}
        return {record.prompt: preferred.get(record.prompt, "neither") for record in judged}

    def outcome(self, records: Iterable[Ranking]) -> Outcome:
        """Count the verdicts. Raises: InputError where the records of these pairs are of more than one annotator."""
        said = list(self.verdicts(records).values())
        return Outcome(said.count("after"), said.count("before"), said.count("neither"))


def blind_pairs(prompts: Sequence[str], before: Sequence[str], after: Sequence[str], seed: int) -> BlindTest:
    """Pair what two models made of the same prompts, in an order drawn from the seed; the session draws once more.

    Raises: InputError where a prompt occurs twice.
    """
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
    """The share of pairs won, and its 95 % interval; a tie is half a win, which makes the interval a little wide.

    Raises: InputError where there are no pairs. Source: Wilson 1927, whose interval keeps within 0 and 1.
    """
    pairs = wins + losses + ties
    if pairs < 1 or min(wins, losses, ties) < 0:
        raise InputError(f"there are {wins} wins, {losses} losses and {ties} ties: judge at least one pair")
    rate = (wins + ties / 2) / pairs
    middle = (rate + Z**2 / (2 * pairs)) / (1 + Z**2 / pairs)
    reach = Z * math.sqrt(rate * (1 - rate) / pairs + Z**2 / (4 * pairs**2)) / (1 + Z**2 / pairs)
    return WinRate(rate, max(0.0, middle - reach), min(1.0, middle + reach))
