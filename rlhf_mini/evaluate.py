"""What a model writes: endings of held-out prompts with their scores and their KL, and best-of-n."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import team
from rlhf_mini.language_model import check_prompts, decode_endings, encode_prompts, pad_id
from rlhf_mini.policy import compare_to_reference
from rlhf_mini.ppo import Score
from rlhf_mini.sampling import best_of_n_index, best_of_n_kl, sample
from rlhf_mini.texts import texts

LOGITS_AT_ONCE = 2**26  # a batch has at most so many logits: 256 MB at 4 bytes each


@dataclass(frozen=True)
class Samples:
    """Endings that one model wrote, one per prompt, with what is known of each."""

    prompts: list[str]
    endings: list[str]
    ended: list[bool]
    lengths: list[int]  # tokens, the EOS included
    proxy: Tensor  # (N,) scores of the reward model; zeros where it was not asked
    kl_each: Tensor  # (N,) nats from the reference; zeros where there was none

    @property
    def kl(self) -> float:
        """The mean KL from the reference, in nats per ending."""
        return self.kl_each.mean().item()


def sample_endings(model: nn.Module, tokenizer: Any, prompts: Iterable[str], *, max_new_tokens: int,
                   temperature: float, seed: int, reference: nn.Module | None = None,
                   score: Score | None = None, batches: Callable[[range], Iterable[int]] = iter) -> Samples:
    """One ending per prompt; where given, its score and the exact KL from the reference at the states visited.

    `batches` gets the numbers of the first prompt of each batch and yields them as they are; it may show progress.

    Raises: InputError where the prompts are no list of texts, or one is empty or leaves no room for a response.
    """
    prompts = texts("prompts", prompts)
    prompt_ids = encode_prompts(tokenizer, prompts)
    limit = check_prompts(model, prompt_ids, prompts, max_new_tokens)
    generator = torch.Generator().manual_seed(seed)
    size = max(8, min(256, LOGITS_AT_ONCE // (limit * len(tokenizer))))
    found = Samples(list(prompts), [], [], [], torch.zeros(len(prompts)), torch.zeros(len(prompts), dtype=torch.double))
    for start in batches(range(0, len(prompts), size)):
        rollout = sample(model, prompt_ids[start:start + size], max_new_tokens=limit, temperature=temperature,
                         eos_id=tokenizer.eos_token_id, pad_id=pad_id(tokenizer), generator=generator)
        if reference is not None:
            compared = team.by_rows(partial(compare_to_reference, model, reference, temperature=temperature), rollout)
            found.kl_each[start:start + size] = compared[1].double().sum(1)
        if score is not None:
            found.proxy[start:start + size] = team.by_rows(score, rollout).cpu()
        found.endings.extend(decode_endings(tokenizer, rollout.tokens, rollout.mask))
        found.ended.extend(rollout.ended.tolist())
        found.lengths.extend(rollout.lengths.tolist())
    return found


def best_of_n(samples: Samples, candidates: int, n: int) -> Samples:
    """The best-scored of the first n of every prompt's candidates, which stand next to one another.

    Its KL is the bound, ln n - (n - 1) / n.
    """
    scores = samples.proxy.view(-1, candidates)[:, :n]  # (B, n)
    index = (torch.arange(len(scores)) * candidates + best_of_n_index(scores)).tolist()  # (B,)
    return Samples([samples.prompts[i] for i in index], [samples.endings[i] for i in index],
                   [samples.ended[i] for i in index], [samples.lengths[i] for i in index],
                   samples.proxy[index], torch.full((len(index),), best_of_n_kl(n), dtype=torch.double))
