"""Four ways to treat ties in the likelihood of a ranking, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations

import torch
from torch import Tensor

from rlhf_mini.reward import plackett_luce_loss


def tie_likelihoods(scores: Tensor, ranking: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """What each way gives for a ranking; without ties, all give its Plackett-Luce probability.

    ours: each tied completion is chosen from itself and what is ranked below. sum over orders: the probabilities of
    all orders of the tied, added. Breslow: each is chosen from all that are tied with it, too. Efron: the same, but of
    g tied 1/g leaves with each choice.
    Shapes: (K,) and tie groups of indices, best first -> four scalars. Raises: InputError as `plackett_luce_loss`.
    Sources: Breslow 1974 and Efron 1977 (both for Cox's regression).
    """
    ours = (-plackett_luce_loss(scores, ranking)).exp()
    weights = scores.exp()
    orders = breslow = efron = torch.ones_like(ours)
    for depth, group in enumerate(ranking):
        tied = weights[list(group)]
        below = weights[[i for lower in ranking[depth + 1:] for i in lower]].sum()
        shares = [i / len(group) * tied.sum() for i in range(len(group))]  # of the tied, what has left
        breslow = breslow * (tied / (tied.sum() + below)).prod()
        efron = efron * (tied / (tied.sum() + below - torch.stack(shares))).prod()
        orders = orders * torch.stack([_in_order(tied[list(order)], below)
                                       for order in permutations(range(len(group)))]).sum()
    return {"ours": ours, "sum over orders": orders, "Breslow": breslow, "Efron": efron}


def _in_order(tied: Tensor, below: Tensor) -> Tensor:
    """The probability that weights are drawn one by one in this order, all before the rest."""
    left = tied.flip(0).cumsum(0).flip(0) + below
    return (tied / left).prod()


def print_ties() -> None:
    """Print what each way gives for two tied on top of a third, at equal scores.

    Beside it: the sum over the three such rankings, which is 1 for a probability, and how hard -ln of it pulls the
    third down.
    """
    for way in tie_likelihoods(torch.zeros(3), [[0, 1], [2]]):
        scores = torch.zeros(3, requires_grad=True)
        three = [tie_likelihoods(scores, ranking)[way] for ranking in ([[0, 1], [2]], [[0, 2], [1]], [[1, 2], [0]])]
        (-three[0].log()).backward()
        pull = scores.grad[2] if scores.grad is not None else torch.zeros(())
        found = (three[0], torch.stack(three).sum(), pull)
        likelihood, added, pulls = (Fraction(x.item()).limit_denominator(99) for x in found)
        print(f"{way:16} {likelihood!s:>4}   all three {added!s:>4}   pull {pulls!s:>4}")
