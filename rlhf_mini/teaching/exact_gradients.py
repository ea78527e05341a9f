"""Where methods would go if sampling had no noise: expected gradients in a world whose endings can all be listed.

The policy is a table with a row of logits for every beginning of an ending, so it can be any policy at all. What a
method misses here is not noise and not the network: it is the method. N is endings, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.teaching.tiny_world import PROMPT, TinyWorld, number

STEPS, RATE = 800, 0.05  # enough for every method here to come to rest


@dataclass(frozen=True)
class Change:
    """What a method does otherwise than the policy gradient of the objective."""

    std: bool = False  # advantages are divided by the standard deviation of the scores
    kl_in_loss: Literal["k1", "k2", "k3"] | None = None  # the KL is an estimate in the loss, not a cost in the reward
    whole_endings: bool = False  # that estimate is made from whole endings, not token by token
    by_length: bool = False  # the loss of an ending is divided by its length


def expected_loss(logp: Tensor, logp_ref: Tensor, world: TinyWorld, beta: float, change: Change) -> Tensor:
    """The loss of one step, averaged over all endings as often as the policy writes them.

    As in training, the gradient does not go through how often an ending is written, but through its log-probability.
    Shapes: (N, T), (N, T) -> scalar.
    """
    endings, endings_ref, lengths = logp.sum(1), logp_ref.sum(1), world.mask.sum(1)  # (N,) each
    chance = endings.detach().exp()
    weight = chance / lengths * lengths.double().mean() if change.by_length else chance
    charged = 0.0 if change.kl_in_loss else beta
    worth = world.reward - charged * (endings - endings_ref).detach()
    advantages = worth - (chance * worth).sum()
    if change.std:
        advantages = advantages / (chance * advantages.square()).sum().sqrt()
    loss = -(weight * advantages * endings).sum()
    if change.kl_in_loss is None:
        return loss
    pair = (endings[:, None], endings_ref[:, None]) if change.whole_endings else (logp, logp_ref)
    return loss + beta * (weight * kl.estimate(*pair, change.kl_in_loss).sum(1)).sum()


def come_to_rest(world: TinyWorld, beta: float, change: Change = Change()) -> Tensor:
    """Follow the expected gradient from the reference: the policy's log-probabilities of all endings, (N,)."""
    start, beginnings = token_table(world), first_of_each_beginning(world)
    logp_ref = chosen(start, world, beginnings)
    table = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([table], lr=RATE)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimizer.zero_grad()
        expected_loss(chosen(table, world, beginnings), logp_ref, world, beta, change).backward()
        optimizer.step()
    return chosen(table.detach(), world, beginnings).sum(1)


def token_table(world: TinyWorld) -> Tensor:
    """The reference's log-probabilities of the next token after every beginning of an ending. Shapes: -> (N, T, V)."""
    prompts = torch.tensor([PROMPT]).expand(len(world.tokens), -1)
    rows = torch.cat([prompts, world.tokens], 1)
    with torch.no_grad():
        logits = world.reference(rows, attention_mask=torch.ones_like(rows)).logits[:, len(PROMPT) - 1:-1]
    return kl.log_probabilities(logits.double())


def first_of_each_beginning(world: TinyWorld) -> Tensor:
    """Many endings begin alike, and share one row of the table: the number of the first of them. Shapes: -> (N, T)."""
    columns = []
    for t in range(world.tokens.shape[1]):
        beginning = number(world.tokens[:, :t], world.mask[:, :t])  # (N,) equal numbers, equal beginnings
        columns.append((beginning[:, None] == beginning).long().argmax(1))
    return torch.stack(columns, 1)


def chosen(table: Tensor, world: TinyWorld, beginnings: Tensor) -> Tensor:
    """Log-probability of each token of each ending. Shapes: (N, T, V), (N, T) -> (N, T), 0 where masked."""
    rows = table[beginnings, torch.arange(table.shape[1])]  # (N, T, V)
    return kl.token_logprobs(rows, world.tokens) * world.mask
