"""The loss of each token of held-out tales, and how far a model lies above the entropy of the tales."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_mini import tales
from rlhf_mini.sft import Example, encode_demonstrations, next_token_losses
from rlhf_mini.teaching.measured import Measured, difference, mean_error, resampled

AT_ONCE = 64  # so many rows go through the model together


@dataclass(frozen=True)
class HeldOut:
    """Tales that no model is trained on, as rows of tokens, and the surprise of each under the grammar itself."""

    pairs: Sequence[tuple[str, str]]  # opening and ending
    examples: Sequence[Example]
    least: Sequence[float]  # −ln p of each ending under the grammar, in nats

    @property
    def lengths(self) -> list[int]:
        """Tokens of each ending, its EOS included."""
        return [len(tokens) - start for tokens, start in self.examples]

    @property
    def entropy(self) -> Measured:
        """The mean surprise of the grammar itself, in nats per token."""
        return resampled(_ratio, self.least, self.lengths)

    def losses(self, model: Any) -> list[Tensor]:
        """The loss of each token of each ending, in nats."""
        return losses_of(model, self.examples)

    def above_entropy(self, losses: Sequence[Tensor]) -> Measured:
        """How far the mean loss of a model lies above the entropy, on the same tales, in nats per token."""
        sums = [row.sum() for row in losses]
        return resampled(lambda x, least, n: (x - least).sum() / n.sum(), sums, self.least, self.lengths, form="+")

    def shared_out(self, losses: Sequence[Tensor]) -> Measured:
        """The loss of the last tokens, the EOS, spread over all tokens of their endings."""
        return resampled(_ratio, [row[-1] for row in losses], self.lengths)


def held_out_tales(model: Any, tokenizer: Any, count: int) -> HeldOut:
    """The first so many held-out tales of the grammar."""
    pairs = [tales.write(seed, "held_out") for seed in range(count)]
    return HeldOut(pairs, encode_demonstrations(model, tokenizer, pairs), [-tales.log_probability(*p) for p in pairs])


@torch.no_grad()
def losses_of(model: Any, examples: Sequence[Example]) -> list[Tensor]:
    """The loss of each learnt token, in nats: one tensor for each row."""
    parts = [next_token_losses(model, examples[i:i + AT_ONCE]) for i in range(0, len(examples), AT_ONCE)]
    return list(torch.cat(parts).split([len(tokens) - start for tokens, start in examples]))


def per_token(losses: Sequence[Tensor]) -> Measured:
    """The mean over all tokens, ± one standard error over the rows."""
    return mean_error(torch.cat(list(losses)), by=_row_of(losses))


def change_per_token(after: Sequence[Tensor], before: Sequence[Tensor]) -> Measured:
    """The mean of `after` less `before`, token by token, ± one standard error over the rows."""
    return difference(torch.cat(list(after)), torch.cat(list(before)), by=_row_of(before))


def last_and_rest(losses: Sequence[Tensor]) -> tuple[Measured, Measured]:
    """The mean loss of the last token of each row, the EOS, and that of all others."""
    return mean_error([row[-1] for row in losses]), per_token([row[:-1] for row in losses])


def _ratio(x: Any, n: Any) -> float:
    return float(x.sum() / n.sum())


def _row_of(losses: Sequence[Tensor]) -> list[int]:
    """The number of each token's row."""
    return [i for i, row in enumerate(losses) for _ in row]
