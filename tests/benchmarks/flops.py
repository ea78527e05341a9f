"""Count the useful floating-point operations of each stage: no padding, no recomputation, logits only where used.

A multiplication and the addition after it are two operations. Only matrix products are counted. All else (softmax,
layer norms, activations, Adam) is few operations, though not few seconds: it is what keeps a stage from the ideal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

TRAINING = 3  # a backward pass has two products for each product of the forward pass


@dataclass(frozen=True)
class Shape:
    """The sizes of a GPT-2 that decide how much work a token is."""

    layers: int
    width: int
    inner: int  # width of the layer inside the MLP
    vocabulary: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        config = model.config
        return cls(config.n_layer, config.n_embd, config.n_inner or 4 * config.n_embd, config.vocab_size)

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Input and output width of each weight matrix of the trunk: queries, keys and values; attention out; MLP."""
        return [(self.width, 3 * self.width), (self.width, self.width), (self.width, self.inner),
                (self.inner, self.width)] * self.layers

    def linear(self, tokens: int) -> int:
        """One forward pass of the trunk's weight matrices: 2 operations per weight and token."""
        return 2 * tokens * sum(rows * columns for rows, columns in self.matrices)

    def attention(self, length: int) -> int:
        """Queries times keys, and weights times values: each token with itself and the tokens before it."""
        pairs = length * (length + 1) // 2
        return 4 * self.layers * self.width * pairs

    def trunk(self, lengths: Iterable[int]) -> int:
        """One forward pass over rows of these lengths."""
        return sum(self.linear(length) + self.attention(length) for length in lengths)

    def lm_head(self, states: int) -> int:
        """The logits after so many states."""
        return 2 * states * self.width * self.vocabulary

    def scalar_head(self, states: int) -> int:
        """The values of so many states, or the scores of so many rows."""
        return 2 * states * self.width


# --- stages: forward passes -------------------------------------------------------------------------------------


def next_tokens(shape: Shape, prompts: Sequence[int], endings: Sequence[int]) -> int:
    """Predict each token of the endings: what sampling does, and a reference that reads them.

    `prompts` and `endings` are the rows' numbers of tokens, the EOS included. The last token predicts nothing.
    """
    rows = [prompt + ending - 1 for prompt, ending in zip(prompts, endings, strict=True)]
    return shape.trunk(rows) + shape.lm_head(sum(endings))


def scores(shape: Shape, lengths: Sequence[int]) -> int:
    """Score rows of so many tokens: the head reads one state of each."""
    return shape.trunk(lengths) + shape.scalar_head(len(lengths))


# --- stages: training -------------------------------------------------------------------------------------------


def sft(shape: Shape, prompts: Sequence[int], endings: Sequence[int]) -> int:
    """One pass of fine-tuning over these demonstrations, without the optimiser."""
    return TRAINING * next_tokens(shape, prompts, endings)


def reward_fit(shape: Shape, lengths: Sequence[int]) -> int:
    """One pass of fitting a reward model over completions of so many tokens, their prompts included."""
    return TRAINING * scores(shape, lengths)


def ppo_update(shape: Shape, prompts: Sequence[int], endings: Sequence[int], epochs: int) -> int:
    """Some epochs of PPO on one batch, with one trunk for policy and values."""
    return epochs * TRAINING * (next_tokens(shape, prompts, endings) + shape.scalar_head(sum(endings)))


def ppo_iteration(shape: Shape, prompts: Sequence[int], endings: Sequence[int], epochs: int) -> int:
    """Sampling with values, the reference, the scores and the update."""
    rows = [prompt + ending for prompt, ending in zip(prompts, endings, strict=True)]
    forward = 2 * next_tokens(shape, prompts, endings) + shape.scalar_head(sum(endings)) + scores(shape, rows)
    return forward + ppo_update(shape, prompts, endings, epochs)


def newton_schulz(shape: Shape, steps: int = 5) -> int:
    """One step of Muon: for each matrix x with R rows, fewer than its columns, `steps` times x x', its square, its
    product with x."""
    total = 0
    for matrix in shape.matrices:
        rows, columns = sorted(matrix)
        total += steps * 2 * (2 * rows * rows * columns + rows ** 3)
    return total
