"""One ending, token by token, with every number that PPO has for it.

    views = view_tokens(policy, reference, rollout, row, scores, config, tokenizer)
    print(*describe(views[0], config.kl_coef), sep="\\n")
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import kl
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import lm_logits
from rlhf_mini.kl import full_precision
from rlhf_mini.policy import response_states
from rlhf_mini.ppo import gae, shaped_rewards
from rlhf_mini.sampling import Rollout

Choices = tuple[tuple[str, float], ...]  # texts and probabilities of the most likely tokens, the first is the highest


@dataclass(frozen=True)
class TokenView:
    """One token of an ending. Units: nats for log-probabilities and KL, scores for reward, value, advantage."""

    text: str
    logp: float
    logp_ref: float
    k1: float
    k2: float
    k3: float
    kl: float  # exact, over the whole vocabulary
    score: float  # of the reward model, on the last token; 0 on the others
    reward: float  # the score minus kl_coef times k1, as PPO uses it
    value: float
    advantage: float  # before whitening, which needs the whole batch
    policy_choices: Choices
    reference_choices: Choices

    @property
    def label(self) -> str:
        """The text without the space before it; a hyphen marks a token that continues a word."""
        return _label(self.text)


@torch.no_grad()
def view_tokens(policy: nn.Module, reference: nn.Module, rollout: Rollout, row: int, scores: Tensor,
                config: PPOConfig, tokenizer: Any, choices: int = 3) -> list[TokenView]:
    """The numbers of an iteration of PPO for one row of the rollout: one view for each live token.

    Shapes: scores (B,), for the whole rollout.
    Raises: InputError if the policy has changed since it sampled the rollout.
    """
    part = rollout.select(torch.tensor([row], device=rollout.tokens.device))
    live = part.mask[0]
    logits = full_precision(lm_logits(policy, part.hidden[0][live])) / config.temperature  # (N, V): live tokens only
    logits_ref = full_precision(lm_logits(reference, response_states(reference, part))) / config.temperature  # (N, V)
    tokens, logp, values = part.tokens[0][live], part.logp[0][live], rollout.values[row][live]  # (N,)
    change = (kl.token_logprobs(logits, tokens) - logp).abs().max().item()
    if not change < 1e-3:
        raise InputError(f"the policy's log-probabilities differ by up to {change:.2g} from the rollout's: sample the "
                         "rollout again from this policy, at the config's temperature")
    logp_ref = kl.token_logprobs(logits_ref, tokens)
    mask = torch.ones_like(tokens, dtype=torch.bool)[None]  # (1, N)
    score = torch.zeros_like(logp)
    score[-1] = scores[row]
    rewards = shaped_rewards(score[-1:], logp[None], logp_ref[None], mask, config.kl_coef)  # (1, N)
    advantages, _ = gae(rewards, values[None], mask, config.gamma, config.lam)
    columns = {"logp": logp, "logp_ref": logp_ref, "k1": kl.estimate(logp, logp_ref, "k1"),
               "k2": kl.estimate(logp, logp_ref, "k2"), "k3": kl.estimate(logp, logp_ref, "k3"),
               "kl": kl.exact(logits, logits_ref), "score": score, "reward": rewards[0], "value": values,
               "advantage": advantages[0]}
    of_policy, of_reference = (_choices(x, tokenizer, choices) for x in (logits, logits_ref))
    return [TokenView(text=_text(tokenizer, token), policy_choices=of_policy[t], reference_choices=of_reference[t],
                      **{name: column[t].item() for name, column in columns.items()})
            for t, token in enumerate(tokens.tolist())]


def describe(view: TokenView, kl_coef: float) -> list[str]:
    """The numbers of one token as plain sentences; what rounds to 0 has no minus."""
    reward = f"Reward {view.reward:+z.3f}: -{kl_coef:g} x k1"
    if view.score:
        reward += f", plus {view.score:+z.2f}, the reward model's score of the whole ending"
    outcome = "better" if view.advantage > 0 else "worse"
    return [
        f"{view.label!r} had {math.exp(view.logp):.1%} under the policy ({view.logp:z.2f} nats) and "
        f"{math.exp(view.logp_ref):.1%} under the reference ({view.logp_ref:z.2f} nats).",
        f"Estimates from this token alone: k1 {view.k1:+z.3f}, k2 {view.k2:z.3f}, k3 {view.k3:z.3f} nats. "
        f"Exact KL, over every token that was possible here: {view.kl:z.3f} nats.",
        f"{reward}.",
        f"Value {view.value:+z.2f}: the reward that was expected from here on. Advantage {view.advantage:+z.2f}: this "
        f"token and what followed were {outcome} than that.",
        f"The policy's most likely tokens here: {_listed(view.policy_choices)}.",
        f"The reference's most likely tokens here: {_listed(view.reference_choices)}.",
    ]


def _choices(logits: Tensor, tokenizer: Any, count: int) -> list[Choices]:
    """The most likely tokens at each position. Shapes: (N, V) -> N choices."""
    top = logits.float().softmax(-1).topk(min(count, logits.shape[-1]))
    return [tuple((_text(tokenizer, token), p) for token, p in zip(tokens, probabilities, strict=True))
            for tokens, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def _text(tokenizer: Any, token: int) -> str:
    return "(end)" if token == tokenizer.eos_token_id else tokenizer.decode([token])


def _listed(choices: Choices) -> str:
    return ", ".join(f"{_label(text)!r} {probability:.1%}" for text, probability in choices)


def _label(text: str) -> str:
    return f"-{text}" if text[:1].isalnum() else text.strip() or repr(text)
