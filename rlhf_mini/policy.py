"""The policy of PPO, its value head, and the state that one iteration hands to the next."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini import kl
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import hidden_states, in_blocks, lm_logits
from rlhf_mini.sampling import Rollout


class PolicyWithValue(nn.Module):
    """A causal language model and a value head: one trunk, two heads."""

    def __init__(self, language_model: nn.Module) -> None:
        super().__init__()
        self.language_model = language_model
        model: Any = language_model
        weight = model.get_input_embeddings().weight
        self.value_head = nn.Linear(weight.shape[1], 1).to(weight)
        nn.init.zeros_(self.value_head.weight)  # so with λ = 1 the first advantages are the rewards to come
        nn.init.zeros_(self.value_head.bias)

    def forward(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of the live tokens, by a fresh pass. Shapes: (B, T), (B, T), 0 where masked."""
        hidden = response_states(self, rollout)  # (N, D)
        logp = in_blocks(lambda states, tokens: kl.token_logprobs(lm_logits(self, states), tokens, temperature),
                         hidden, rollout.tokens[rollout.mask])  # (N,)
        values = kl.full_precision(self.value_head(hidden).squeeze(-1))
        return unpack(logp, rollout.mask), unpack(values, rollout.mask)


def response_states(model: nn.Module, rollout: Rollout) -> Tensor:
    """The states that predict the N live tokens of the endings, row after row, by a fresh pass. Shapes: -> (N, D)."""
    return hidden_states(model, [row[:-1] for row in rollout.rows], [len(prompt) - 1 for prompt in rollout.prompts])


@torch.no_grad()
def compare_to_reference(policy: nn.Module, reference: nn.Module, rollout: Rollout,
                         temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """At the states that the policy visited: the reference's log-probability of the token, the exact KL, the entropy.

    The policy's logits come from the states that sampling kept, the reference's from a forward pass.
    Shapes: -> (B, T) each, 0 where masked. Units: nats per token.
    """
    def compare(states: Tensor, states_ref: Tensor, tokens: Tensor) -> Tensor:
        logp = kl.log_probabilities(lm_logits(policy, states), temperature)  # (n, V)
        logp_ref = kl.log_probabilities(lm_logits(reference, states_ref), temperature)  # (n, V)
        return torch.stack([logp_ref.gather(1, tokens[:, None])[:, 0], kl.divergence(logp, logp_ref),
                            -kl.divergence(logp, torch.zeros_like(logp))], 1)  # (n, 3)

    mask = rollout.mask
    states_ref = response_states(reference, rollout)  # (N, D)
    found = in_blocks(compare, rollout.hidden[mask], states_ref, rollout.tokens[mask])  # (N, 3)
    logp_ref, kl_exact, entropy = (unpack(column, mask) for column in found.unbind(1))
    return logp_ref, kl_exact, entropy


def unpack(x: Tensor, mask: Tensor) -> Tensor:
    """Put the N live numbers back in their places. Shapes: (N,) -> (B, T), 0 where masked."""
    return torch.zeros(mask.shape, device=x.device, dtype=x.dtype).masked_scatter(mask, x)


@dataclass
class PPOState:
    """All that one iteration hands to the next; `run.ppo_state` saves and loads it to the last bit."""

    policy: PolicyWithValue
    optimizer: torch.optim.Adam
    kl_coef: float
    iteration: int = 0  # iterations done; also the seed of the next, so no random state is kept
    episodes: int = 0  # endings sampled so far

    def tensors(self) -> dict[str, Tensor]:
        """Every number that training changes, by name: parameters and Adam's moments, not copies."""
        named: dict[str, Tensor] = {}
        for name, parameter in self.policy.named_parameters():
            named[f"policy.{name}"] = parameter.data
            named |= {f"adam.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return named


def start_ppo(language_model: nn.Module, config: PPOConfig) -> PPOState:
    """A state at iteration 0; the language model is copied, so the one given can serve as the reference.

    Raises: InputError where weights are in half precision: most updates are too small to change such a weight.
    """
    halves = {x.dtype for x in language_model.parameters()} & {torch.bfloat16, torch.float16}
    if halves:
        raise InputError(f"weights are {str(halves.pop()).removeprefix('torch.')}: load them in float32 "
                         "(`load_language_model` does); `--bf16` makes the matrix products fast")
    policy = PolicyWithValue(copy.deepcopy(language_model)).requires_grad_(True).eval()  # eval: dropout off
    groups = [{"params": list(policy.language_model.parameters()), "times": 1.0},
              {"params": list(policy.value_head.parameters()), "times": config.value_head_rate}]
    optimizer = torch.optim.Adam(groups, lr=config.learning_rate, eps=config.adam_eps, fused=True)
    for parameter in policy.parameters():  # so that a new state has all the tensors of a saved one
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device),
                                      "exp_avg": torch.zeros_like(parameter),
                                      "exp_avg_sq": torch.zeros_like(parameter)}
    return PPOState(policy, optimizer, config.kl_coef)
