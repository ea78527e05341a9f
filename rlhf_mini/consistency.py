"""Whether a language model computes its logits as this package assumes, found out with a handful of tokens.

The package takes LM head(trunk) for the logits. It trains on rows that are padded on the right, without a mask, and
samples from rows that are padded on the left, with a mask, positions and a cache. Where an architecture does more than
that (caps or scales its logits, looks at later tokens, counts positions in its own way), every log-probability and KL
would be wrong, and nothing would show it. So its own logits are compared with ours when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini.errors import InputError, first_line
from rlhf_mini.forward import hidden_states, lm_logits, trunk_of
from rlhf_mini.sampling import Unfinished, pad_left

TOLERANCE = 1e-4  # logits may differ by this share of the largest; the order of fp32 sums moves them by 1e-6 of it
LARGEST = 100.0  # a cap on the logits shows only where they are large
LENGTH = 12  # the check looks at so many tokens
ADVICE = "give a model such as GPT-2, GPT-NeoX, OPT, Llama, Mistral, Qwen2 or Phi"


@torch.no_grad()
def check_consistency(model: Any, name: str) -> None:
    """Raises: InputError where the model's own logits are not those that sampling and training would compute."""
    kind = type(model).__name__
    try:
        problem = find_difference(model)
    except InputError:
        raise
    except Exception as error:  # an architecture may lack anything: a head, a cache, positions
        raise InputError(f"{name} is a {kind}, which cannot be sampled from here ({first_line(error)}): "
                         f"{ADVICE}") from error
    if problem:
        raise InputError(f"{name} is a {kind}, which {problem}: {ADVICE}")


def find_difference(model: Any) -> str | None:
    """What the model does in another way than this package, if anything.

    Raises: InputError where a logit is not a finite number.
    """
    rows = probe_tokens(model)  # (2, LENGTH): two rows that differ in their last token only
    row = rows[0].tolist()
    with enlarged_logits(model):
        own, other = model(input_ids=rows, use_cache=False).logits  # (LENGTH, V) each
        if not own.isfinite().all():
            raise InputError(f"the logits of this {type(model).__name__} are not finite numbers: its weights are "
                             "damaged or its training has diverged; give another checkpoint")
        if differ(own[:-1], other[:-1]):
            return "lets a token look at later ones, so it cannot write from left to right"
        # Nothing looks ahead, so the logits of every shorter row are the first ones of this row.
        ours = lm_logits(model, hidden_states(model, [row, row[:5]], [0, 0]))  # (LENGTH + 5, V)
        if differ(torch.cat([own, own[:5]]), ours):
            return "computes its logits in another way than LM head(trunk), with a cap or a scale for example"
        logits, places = sampled_logits(model, row)
        if differ(own[places], logits):
            return "counts positions or treats padding in another way, so sampling would get other logits"
    context = model.config.max_position_embeddings
    return None if reaches(model, row[0], context - 1) else f"has fewer positions than the {context} in its config"


def probe_tokens(model: Any) -> Tensor:
    """Tokens from the middle of the vocabulary, where none is special. Shapes: -> (2, LENGTH)."""
    vocab_size = model.get_input_embeddings().num_embeddings
    row = torch.linspace(0.2 * vocab_size, 0.8 * vocab_size, LENGTH).long()
    return torch.stack([row, torch.cat([row[:-1], row[:1]])]).to(model.device)


@contextmanager
def enlarged_logits(model: Any) -> Iterator[None]:
    """Multiply what the LM head gives, so that its largest logit in the first call becomes `LARGEST`."""
    factors: list[Tensor] = []

    def enlarge(head: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not factors:
            factors.append(LARGEST / output.abs().max().clamp(min=1e-6))
        return output * factors[0]

    hook = model.get_output_embeddings().register_forward_hook(enlarge)
    try:
        yield
    finally:
        hook.remove()


def sampled_logits(model: Any, row: list[int]) -> tuple[Tensor, list[int]]:
    """Logits as `sample` computes them, for two prompts of unequal length, of which the longer one leaves the batch.

    Shapes: -> (5, V), and the places in `row` that they belong to.
    """
    device = model.device
    tokens, mask = pad_left([row[:8], row[:4]], pad_id=row[-1])
    unfinished = Unfinished(model, torch.arange(2, device=device), tokens.to(device), mask.long().to(device), 2)
    states = [unfinished.forward()]
    for drawn, ended in (((8, 4), (False, False)), ((9, 5), (True, False))):
        unfinished.append(torch.tensor([row[i] for i in drawn], device=device), torch.tensor(ended, device=device))
        states.append(unfinished.forward())
    return lm_logits(model, torch.cat(states)), [7, 3, 8, 4, 5]


def reaches(model: Any, token: int, position: int) -> bool:
    """Whether the trunk can read a token at this position."""
    one = torch.ones(1, 1, dtype=torch.long, device=model.device)
    try:
        state = trunk_of(model)(input_ids=token * one, attention_mask=one, position_ids=position * one,
                                use_cache=False).last_hidden_state
    except (IndexError, RuntimeError):
        return False
    return bool(state.isfinite().all())


def differ(own: Tensor, ours: Tensor) -> bool:
    """Whether logits differ by more than rounding does."""
    if own.shape != ours.shape:
        return True
    return not bool((own - ours).abs().max() <= TOLERANCE * own.abs().max())
