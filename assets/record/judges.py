"""Judges that are more than one reward model: ensembles, and a score from which the length is taken out.

Sources: Coste et al. 2024 (ensembles of fits, their minimum), Zhang et al. 2024 (several heads on one trunk),
Eisenstein et al. 2024 (members that share their errors), Singhal et al. 2024 (length).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import rounds
import torch
from stages import RewardModel, examples_of, made_once
from torch import Tensor, nn
from workbench import Bench

from rlhf_mini.evaluate import Samples
from rlhf_mini.language_model import encode_endings
from rlhf_mini.reward import fit_reward, plackett_luce_losses, reward_model_from

MEMBERS = 4
Combine = Callable[[Tensor, Tensor], Tensor]  # scores of M members (M, N), lengths (N,) -> (N,)


@dataclass(frozen=True)
class Combined:
    """One score made of the scores of several reward models and of the length, less `mean`, divided by `std`."""

    members: tuple[RewardModel, ...]
    combine: Combine
    mean: float = 0.0
    std: float = 1.0

    def of_rollout(self, rollout: Any) -> Tensor:
        """Scores (B,) of what a policy has just sampled."""
        return self._of([one.of_rollout(rollout) for one in self.members], rollout.lengths)

    def of_samples(self, samples: Samples) -> Tensor:
        """Scores (N,) of endings."""
        return self._of([one.of_samples(samples) for one in self.members], torch.tensor(samples.lengths))

    def _of(self, scores: Sequence[Tensor], lengths: Tensor) -> Tensor:
        return (self.combine(torch.stack(list(scores)), lengths) - self.mean) / self.std

    def accuracy(self, pairs: Sequence[tuple[str, str, str]]) -> float:
        """The share of pairs (prompt, chosen, rejected) that it puts in the right order; a tie is half right."""
        chosen, rejected = (self.of_samples(as_samples(self.members[0].tokenizer, pairs, side)) for side in (1, 2))
        return ((chosen - rejected).sign() / 2 + 0.5).mean().item()


def as_samples(tokenizer: Any, pairs: Sequence[tuple[str, str, str]], side: int) -> Samples:
    """One side of the pairs as if a model had written it, with its end."""
    endings = [pair[side] for pair in pairs]
    lengths = [len(row) for row in encode_endings(tokenizer, endings)]
    nothing = torch.zeros(len(pairs))
    return Samples([prompt for prompt, *_ in pairs], endings, [True] * len(pairs), lengths, nothing, nothing)


def standard(judge: Combined, samples: Samples) -> Combined:
    """The same with mean 0 and deviation 1 on these endings, as a reward model has; so a nat costs as much."""
    scores = judge.of_samples(samples)
    return replace(judge, mean=scores.mean().item(), std=scores.std().item())


# --- length -----------------------------------------------------------------------------------------------------


def slope_of(score: Tensor, length: Tensor) -> float:
    """By how much the score rises with each token, by least squares. Shapes: (N,), (N,)."""
    centred = (length - length.mean()).to(score)
    return ((centred * score).sum() / centred.square().sum()).item()


def without_length(judge: RewardModel, samples: Samples) -> tuple[Combined, float]:
    """The judge's score less slope * (length - mean length), both measured on these endings; and the slope."""
    length = torch.tensor(samples.lengths, dtype=torch.float64)
    slope, mean = slope_of(judge.of_samples(samples), length), length.mean().item()
    return standard(Combined((judge,), lambda scores, lengths: scores[0] - slope * (lengths - mean)), samples), slope


# --- ensembles --------------------------------------------------------------------------------------------------

COMBINED: dict[str, Combine] = {"mean": lambda scores, _: scores.mean(0), "minimum": lambda scores, _: scores.amin(0)}


def fits(bench: Bench) -> tuple[RewardModel, ...]:
    """The run's reward model, and three fitted on the same labels with other seeds."""
    return bench.first, *(same_labels(bench, number) for number in range(1, MEMBERS))


def same_labels(bench: Bench, number: int) -> RewardModel:
    """A reward model fitted on the run's labels alone, with another seed."""
    return rounds.refitted(bench, f"same-labels-{number}", seed=number)


def heads(bench: Bench) -> tuple[RewardModel, ...]:
    """Four heads on one trunk, fitted together on the run's labels; each with a copy of the trunk, normalised."""
    folder = made_once(bench.work / "heads", lambda at: fit_heads(bench, at))
    return tuple(rounds.kept(folder / str(number)) for number in range(MEMBERS))


def fit_heads(bench: Bench, folder: Path) -> None:
    """Fit the heads and save each as a reward model of its own."""
    config = bench.loop.config.reward
    model, tokenizer = reward_model_from(bench.sft.model, bench.sft.tokenizer, config.seed)
    several = model.score = Heads(model.config.hidden_size, config.seed)
    for _ in fit_reward(model, tokenizer, examples_of(bench.run.judgements[0]), config, several.losses):
        pass
    for number, weight in enumerate(several.weights.weight.detach()):
        model.score = nn.Linear(len(weight), 1, bias=False)
        model.score.weight.data = weight[None].clone()
        rounds.keep(bench, RewardModel(copy.deepcopy(model), tokenizer), folder / str(number))


class Heads(nn.Module):
    """Several heads in the place of one. They start from different weights, and learn from the same rankings.

    The fit is written for one number a text, so it gets the first head's; `losses` looks at what all of them said.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.weights = nn.Linear(width, MEMBERS, bias=False)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.weights.weight, std=(width + 1) ** -0.5, generator=generator)  # as of a single head

    def forward(self, states: Tensor) -> Tensor:
        self.said = self.weights(states)  # (N * K, M)
        return self.said[:, :1]

    def losses(self, scores: Tensor, competes: Tensor) -> Tensor:
        """The loss of each ranking, all of K texts: the mean over the heads. Shapes: (N, K), (N, K, K) -> (N,)."""
        each = self.said.view(*scores.shape, MEMBERS)  # (N, K, M)
        return torch.stack([plackett_luce_losses(said, competes) for said in each.unbind(-1)]).mean(0)


ENSEMBLES = {"fits": fits, "heads": heads}


def disagreement(members: Sequence[RewardModel], samples: Samples) -> Tensor:
    """The standard deviation of the members' scores for each ending. Shapes: -> (N,)."""
    return torch.stack([one.of_samples(samples) for one in members]).std(0)
