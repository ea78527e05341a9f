"""Fitting the reward model: losses that turn preferences into gradients, the fit, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini import team
from rlhf_mini.batches import shuffled_batches
from rlhf_mini.config import RewardConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import Dropout
from rlhf_mini.given import RankedExample, checked_ranking, ranked_examples, text_tuples
from rlhf_mini.health import check_loss
from rlhf_mini.optimisers import adamw, clip_gradients, schedule, set_rate
from rlhf_mini.reward_model import (
    load_reward_model,
    normalise,
    reward_model_from,
    score_rollout,
    score_texts,
    score_tokens,
    token_rows,
)

__all__ = ["bradley_terry_loss", "fit_reward", "load_reward_model", "normalise", "pair_accuracy", "plackett_luce_loss",
           "reward_model_from", "score_rollout", "score_texts", "score_tokens"]


# --- losses -----------------------------------------------------------------------------------------------------


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -ln P(chosen beats rejected), where P = sigmoid(chosen - rejected).

    Shapes: (N,), (N,) -> scalar. Units: nats per pair; ln 2 at equal scores. Source: Bradley & Terry 1952.
    """
    if chosen.shape != rejected.shape or chosen.numel() == 0:
        raise InputError(f"chosen has shape {tuple(chosen.shape)} and rejected {tuple(rejected.shape)}: give one "
                         "score of each for every pair")
    return -F.logsigmoid(chosen - rejected).mean()


def plackett_luce_loss(scores: Tensor, ranking: Sequence[Sequence[int]]) -> Tensor:
    """The loss of a ranking: each completion is chosen from itself and everything ranked strictly below it.

    Without ties it is -ln P(this ranking). Members of a tie group do not compete with each other, and all tied costs 0:
    then it is -ln of a composite likelihood, which is no probability. K = 2 is Bradley-Terry.
    Shapes: (K,) and tie groups of indices, best first -> scalar. Units: nats per ranking.
    Raises: InputError where the ranking does not hold every index once.
    Sources: Plackett 1975; Varin, Reid & Firth 2011 (composite likelihoods).
    """
    if scores.ndim != 1:
        raise InputError(f"scores have shape {tuple(scores.shape)}: give one score per completion, (K,)")
    competes = competition([checked_ranking(ranking, len(scores))], len(scores))
    return plackett_luce_losses(scores[None], competes.to(scores.device))[0]


def plackett_luce_losses(scores: Tensor, competes: Tensor) -> Tensor:
    """`plackett_luce_loss` of many prompts at once. Shapes: (N, K), (N, K, K) from `competition` -> (N,)."""
    rivals = scores[:, None, :].masked_fill(~competes, float("-inf"))  # (N, K, K): row i holds the rivals of i
    return (rivals.logsumexp(-1) - scores).sum(-1)


def bradley_terry_losses(scores: Tensor, competes: Tensor) -> Tensor:
    """Every strictly ranked pair of a prompt on its own, summed: the ranking exploded. Shapes as above."""
    margins = scores[:, :, None] - scores[:, None, :]  # (N, K, K): i against j
    return -F.logsigmoid(margins).masked_fill(~above(competes), 0.0).sum((1, 2))


def competition(rankings: Sequence[Sequence[Sequence[int]]], size: int) -> Tensor:
    """Whether completion i competes with j: j is i, or ranked strictly below. Shapes: -> (N, size, size) bool.

    Example: 0 best, 1 and 2 tied, that is [[0], [1, 2]]: row 0 is [True, True, True], row 1 [False, True, False], row 2
    [False, False, True]. Slots without a completion compete with themselves only, which costs nothing.
    """
    level = torch.full((len(rankings), size), -1)
    for row, ranking in enumerate(rankings):
        for depth, group in enumerate(ranking):
            level[row, list(group)] = depth
    below = (level[:, None, :] > level[:, :, None]) & (level[:, :, None] >= 0)
    return below | torch.eye(size, dtype=torch.bool)


def above(competes: Tensor) -> Tensor:
    """Whether completion i is ranked strictly above j. Shapes: (N, K, K) from `competition` -> (N, K, K) bool."""
    return competes & ~torch.eye(competes.shape[-1], dtype=torch.bool, device=competes.device)


# --- fitting and measuring --------------------------------------------------------------------------------------


def fit_reward(model: Any, tokenizer: Any, examples: Iterable[RankedExample], config: RewardConfig,
               losses: Callable[[Tensor, Tensor], Tensor] = plackett_luce_losses) -> Iterator[dict[str, float]]:
    """Fit the model to rankings by the Plackett-Luce loss, or another of scores and competition.

    Yields per step: step, loss (nats per ranking), accuracy (pairs in the right order, this pass so far),
    learning_rate. Raises: InputError where the rankings are not valid or prefer nothing to anything.
    """
    competes, rows = encoded(model, tokenizer, examples)
    generator = torch.Generator().manual_seed(config.seed)
    batches = shuffled_batches(len(rows), config.batch_size, generator)
    steps_per_pass = -(-len(rows) // config.batch_size)
    steps = config.epochs * steps_per_pass
    optimizer = adamw(model, config.weight_decay)
    for step in range(steps):
        if step % steps_per_pass == 0:
            right, pairs = 0.0, 0.0
        rate = set_rate([optimizer], config.learning_rate * schedule(step / steps, config.warmup))
        batch = next(batches)
        mine = team.share(batch)
        scores = score_rankings(model, [rows[i] for i in batch], competes.shape[-1], config.dropout,
                                config.seed + step)  # (N, K), of this process's rankings
        loss = losses(scores, competes[mine]).sum() / len(batch)
        counted = torch.stack([loss.detach(), *pairs_in_order(scores.detach(), competes[mine])])
        value, right_now, pairs_now = team.total(counted).tolist()
        check_loss(value, step + 1, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradients(model, config.max_grad_norm, step + 1, rate)
        optimizer.step()
        right, pairs = right + right_now, pairs + pairs_now
        yield {"step": step + 1, "loss": value, "accuracy": right / max(pairs, 1), "learning_rate": rate}


def encoded(model: Any, tokenizer: Any, examples: Iterable[RankedExample]) -> tuple[Tensor, list[list[list[int]]]]:
    """Who competes with whom, (N, K, K), and the token rows of every example's completions."""
    examples = ranked_examples("examples", examples)
    if not any(len(ranking) > 1 for _, _, ranking in examples):
        raise InputError(f"none of the {len(examples)} rankings prefers anything: rank at least two not tied")
    size = max(len(completions) for _, completions, _ in examples)
    competes = competition([ranking for _, _, ranking in examples], size).to(model.device)
    prompts = [prompt for prompt, completions, _ in examples for _ in completions]
    flat = iter(token_rows(model, tokenizer, prompts, [c for _, completions, _ in examples for c in completions]))
    return competes, [[next(flat) for _ in completions] for _, completions, _ in examples]


def score_rankings(model: Any, rows: Sequence[Sequence[Sequence[int]]], size: int, probability: float = 0.0,
                   seed: int = 0) -> Tensor:
    """Scores of this process's share of the rankings, in one pass, with dropout drawn for the whole batch.

    Shapes: N lists of up to K rows -> (N, K), 0 where there is no row.
    """
    lengths = [len(row) for completions in rows for row in completions]
    numbers = iter(range(len(lengths)))
    numbered = team.share([[(next(numbers), row) for row in completions] for completions in rows])
    mine = [pair for completions in numbered for pair in completions]
    with Dropout(model, probability, seed, lengths, [number for number, _ in mine]) as dropout:
        scores = score_tokens(model, [row for _, row in mine], dropout)
    counts = torch.tensor([len(completions) for completions in numbered], device=scores.device)
    present = torch.arange(size, device=scores.device) < counts[:, None]  # (N, K)
    return torch.zeros(present.shape, device=scores.device, dtype=scores.dtype).masked_scatter(present, scores)


def pairs_in_order(scores: Tensor, competes: Tensor) -> tuple[Tensor, Tensor]:
    """How many strictly ranked pairs the scores put in the right order, and how many there are: two scalars."""
    pairs = above(competes)
    right = (scores[:, :, None] > scores[:, None, :]) & pairs
    return right.sum().to(scores), pairs.sum().to(scores)


def pair_accuracy(model: Any, tokenizer: Any, pairs: Iterable[tuple[str, str, str]]) -> tuple[float, Tensor]:
    """The share of (prompt, chosen, rejected) in the right order, and the margins chosen - rejected (N,).

    Equal scores count one half. Raises: InputError where there are no pairs, or one is no three texts.
    """
    read = text_tuples("pairs", pairs, "prompt", "chosen", "rejected")
    if not read:
        raise InputError("there are no pairs to measure accuracy on: give at least one (prompt, chosen, rejected)")
    prompts, chosen, rejected = ([pair[i] for pair in read] for i in range(3))
    margins = score_texts(model, tokenizer, prompts, chosen) - score_texts(model, tokenizer, prompts, rejected)
    accuracy = (margins > 0).double() + 0.5 * (margins == 0).double()
    return accuracy.mean().item(), margins
