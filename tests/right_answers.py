"""Right answers to every exercise, as students write them: with loops, with multiplied masks, in other words."""

from __future__ import annotations

import copy
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf_mini import kl, ppo
from rlhf_mini.checks.head_swap import swapped

# --- the reward of an ending (00) -------------------------------------------------------------------------------


def in_one_line(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> Tensor:
    return score - kl_coef * (logp - logp_ref).sum()


def in_a_loop(score: float, logp: Tensor, logp_ref: Tensor, kl_coef: float) -> float:
    reward = float(score)
    for now, before in zip(logp.tolist(), logp_ref.tolist(), strict=True):
        reward -= kl_coef * (now - before)
    return reward


# --- the next token (01) ----------------------------------------------------------------------------------------


def shifted_softmax(logits: Tensor, temperature: float) -> Tensor:
    weights = ((logits - logits.max(-1, keepdim=True).values) / temperature).exp()
    return weights / weights.sum(-1, keepdim=True)


def sorted_top_k(logits: Tensor, k: int) -> Tensor:
    least = logits.sort(-1, descending=True).values[..., k - 1:k]
    return torch.where(logits >= least, logits, torch.tensor(float("-inf")))


def looped_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    return torch.stack([-logp[b, t - 1, tokens[b, t]] for b in range(len(tokens)) for t in range(1, tokens.shape[1])
                        if mask[b, t]]).mean()


def multiplied_nll(logits: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    costs = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return (costs * mask[:, 1:]).sum() / mask[:, 1:].sum()


# --- rows and the SFT loss (02) ---------------------------------------------------------------------------------


def looped_row(prompt_ids: list[int], ending_ids: list[int], eos_id: int) -> Any:
    tokens, mask = [], []
    for token in prompt_ids:
        tokens.append(token)
        mask.append(False)
    for token in [*ending_ids, eos_id]:
        tokens.append(token)
        mask.append(True)
    return tokens, mask


def filled_batch(rows: list[list[int]], pad_id: int) -> Any:
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), int(lengths.max())), pad_id)
    for i, row in enumerate(rows):
        tokens[i, :len(row)] = torch.tensor(row)
    return tokens, torch.arange(tokens.shape[1]) < lengths[:, None]


def added_batch(rows: list[list[int]], pad_id: int) -> Any:
    longest = max(map(len, rows))
    return (torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows]),
            torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]))


def looped_labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    found = torch.full_like(tokens, -100)
    for b in range(len(tokens)):
        found[b, prompt_lengths[b]:lengths[b]] = tokens[b, prompt_lengths[b]:lengths[b]]
    return found


def compared_labels(tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    position = torch.arange(tokens.shape[1])
    return torch.where((position >= prompt_lengths[:, None]) & (position < lengths[:, None]), tokens, -100)


def plain_sft(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    terms = [-logp[b, t - 1, tokens[b, t]] for b in range(len(tokens))
             for t in range(int(prompt_lengths[b]), int(lengths[b]))]
    return torch.stack(terms).mean()


def ignore_index_sft(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    position = torch.arange(tokens.shape[1])
    labels = tokens.masked_fill((position < prompt_lengths[:, None]) | (position >= lengths[:, None]), -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def multiplied_sft(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    losses = -logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    position = torch.arange(1, tokens.shape[1])[None]
    mask = ((position >= prompt_lengths[:, None]) & (position < lengths[:, None])).float()
    return (losses * mask).sum() / mask.sum()


# --- judgements (03) --------------------------------------------------------------------------------------------


def groups_in_a_dict(ratings: list[int]) -> list[list[int]]:
    by_rating: dict[int, list[int]] = defaultdict(list)
    for i, rating in enumerate(ratings):
        by_rating[rating].append(i)
    return [by_rating[rating] for rating in sorted(by_rating)][::-1]


def groups_of_sorted(ratings: list[int]) -> list[tuple[int, ...]]:
    order = sorted(range(len(ratings)), key=lambda i: -ratings[i])
    return [tuple(group) for _, group in itertools.groupby(order, key=lambda i: ratings[i])]


def pairs_by_level(ranking: list[list[int]]) -> list[list[int]]:
    level = {i: depth for depth, group in enumerate(ranking) for i in group}
    return [[i, j] for i in sorted(level) for j in sorted(level) if level[i] < level[j]]


def pairs_of_combinations(ranking: list[list[int]]) -> list[tuple[int, int]]:
    return [pair for above, below in itertools.combinations(ranking, 2) for pair in itertools.product(above, below)]


def pairs_from_below(ranking: list[list[int]]) -> Any:
    return tuple(reversed(pairs_of_combinations(ranking)))


def agreement_of_signs(a: Sequence[float], b: Sequence[float]) -> float | None:
    both = [(a[i] < a[j], b[i] < b[j]) for i, j in itertools.combinations(range(len(a)), 2)
            if a[i] != a[j] and b[i] != b[j]]
    return sum(x == y for x, y in both) / len(both) if both else None


def agreement_both_ways(a: Sequence[float], b: Sequence[float]) -> float | None:
    alike = ordered = 0
    for i in range(len(a)):
        for j in range(len(a)):
            product = (a[i] - a[j]) * (b[i] - b[j])
            alike += product > 0
            ordered += product != 0
    if ordered == 0:
        return None
    return alike / ordered


def wins_in_a_loop(shown_orders: list[list[int]], rankings: list[list[list[int]]]) -> float:
    wins = 0.0
    for i in range(len(rankings)):
        if shown_orders[i][0] in rankings[i][0]:
            wins += 1 / len(rankings[i][0])
    return wins / len(rankings)


def wins_in_one_line(shown_orders: list[list[int]], rankings: list[list[list[int]]]) -> float:
    return sum(best.count(order[0]) / len(best) for order, (best, *_) in zip(shown_orders, rankings)) / len(rankings)  # noqa: B905


# --- the reward model (04) --------------------------------------------------------------------------------------


def plain_pairs(chosen: Tensor, rejected: Tensor) -> Tensor:
    return F.softplus(-(chosen - rejected)).mean()


def plain_ranking(scores: Tensor, ranking: list[list[int]]) -> Tensor:
    loss = torch.zeros(())
    for depth, group in enumerate(ranking):
        below = [j for later in ranking[depth + 1:] for j in later]
        for i in group:
            loss = loss - (scores[i] - torch.logsumexp(scores[[i, *below]], 0))
    return loss


def last_group_skipped(scores: Tensor, ranking: list[list[int]]) -> Tensor:
    """As right: the last group has no choice left. For all tied nothing is left that has a gradient."""
    loss, left = torch.tensor(0.0), [i for group in ranking for i in group]
    for group in ranking[:-1]:
        left = [i for i in left if i not in group]
        for i in group:
            loss = loss + scores[[i, *left]].logsumexp(0) - scores[i]
    return loss


def looped_scores(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return torch.stack([(row[int(length) - 1] * weight).sum() for row, length in zip(hidden, lengths, strict=True)])


def gathered_scores(hidden: Tensor, weight: Tensor, lengths: Tensor) -> Tensor:
    return (hidden @ weight).gather(1, (lengths - 1)[:, None]).squeeze(1)


def looped_ceiling(probabilities: Tensor) -> float:
    return sum(max(p, 1 - p) for p in probabilities.tolist()) / len(probabilities)


def folded_ceiling(probabilities: Tensor) -> Tensor:
    return 0.5 + (probabilities - 0.5).abs().mean()


class Scorer(nn.Module):
    """The same as a module of one's own."""

    def __init__(self, trunk: nn.Module, width: int) -> None:
        super().__init__()
        self.trunk, self.score = trunk, nn.Linear(width, 1, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        scores: Tensor = self.score(self.trunk(tokens))
        return scores


def of_ones_own(model: Any) -> nn.Module:
    return Scorer(model.trunk, model.lm_head.weight.shape[1])


def copied(model: Any) -> nn.Module:
    return swapped(copy.deepcopy(model))


# --- PPO (05) ---------------------------------------------------------------------------------------------------


def plain_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def plain_k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    log_ratio = logp_ref - logp
    return log_ratio.exp() - 1 - log_ratio


def plain_rewards(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    rewards = -kl_coef * (logp - logp_ref) * mask
    rewards[torch.arange(len(score)), mask.sum(1) - 1] += score
    return rewards


def plain_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    advantages = torch.zeros_like(rewards)
    for b in range(len(rewards)):
        following, after = 0.0, 0.0
        for t in reversed(range(int(mask[b].sum()))):
            following = float(rewards[b, t] + gamma * after - values[b, t]) + gamma * lam * following
            after = float(values[b, t])
            advantages[b, t] = following
    return advantages, (advantages + values) * mask


def plain_policy_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    ratio = torch.exp(logp - logp_old.detach())
    surrogate = torch.min(ratio * advantages, torch.clamp(ratio, 1 - clip, 1 + clip) * advantages)
    return -(surrogate * mask).sum() / mask.sum()


def plain_whiten(x: Tensor, mask: Tensor) -> Tensor:
    return (x - x[mask].mean()) / (x[mask].std() + 1e-8) * mask


def plain_coefficient(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> Tensor:
    error = torch.clamp(torch.tensor(kl / target - 1), -0.2, 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def with_a_loop(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    total, chance = torch.zeros(len(logits)), logits.softmax(0)
    for a in samples.tolist():
        slope = -chance.clone()
        slope[a] += 1
        total += (reward[a] - baseline) * slope
    return total / len(samples)


def with_autograd(logits: Tensor, reward: Tensor, samples: Tensor, baseline: float) -> Tensor:
    logits = logits.clone().requires_grad_()
    surrogate = ((reward[samples] - baseline) * logits.log_softmax(0)[samples]).mean()
    return torch.autograd.grad(surrogate, logits)[0]


def plain_value_loss(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    clipped = torch.max(torch.min(values, values_old + clip), values_old - clip)
    losses = torch.max((values - returns) ** 2, (clipped - returns) ** 2) / 2
    return (losses * mask).sum() / mask.sum()


def indexed_value_loss(values: Tensor, values_old: Tensor, returns: Tensor, mask: Tensor, clip: float) -> Tensor:
    v, old, target = values[mask], values_old[mask], returns[mask]
    return 0.5 * torch.maximum((v - target).square(), ((old + (v - old).clamp(-clip, clip)) - target).square()).mean()


def of_plain_parts(rollout: Any, logp_ref: Tensor, score: Tensor, kl_coef: float, config: Any) -> Any:
    rewards = plain_rewards(score, rollout.logp, logp_ref, rollout.mask, kl_coef)
    advantages, returns = plain_gae(rewards, rollout.values, rollout.mask, config.gamma, config.lam)
    whitened = plain_whiten(advantages, rollout.mask)

    def loss(rows: Tensor, logp: Tensor, values: Tensor, value_coef: float) -> Tensor:
        part = rollout.select(rows)
        return plain_policy_loss(logp, part.logp, whitened[rows], part.mask, config.clip) + value_coef * (
            plain_value_loss(values, part.values, returns[rows], part.mask, config.value_clip))
    return loss, returns


def of_the_package(rollout: Any, logp_ref: Tensor, score: Tensor, kl_coef: float, config: Any) -> Any:
    rewards = ppo.shaped_rewards(score, rollout.logp, logp_ref, rollout.mask, kl_coef)
    advantages, returns = ppo.gae(rewards, rollout.values, rollout.mask, lam=config.lam)

    def loss(rows: Tensor, logp: Tensor, values: Tensor, value_coef: float) -> Tensor:
        white = kl.masked_whiten(advantages, rollout.mask)[rows]
        one = ppo.policy_loss(logp, rollout.logp[rows], white, rollout.mask[rows], config.clip)
        return one + value_coef * ppo.value_loss(values, rollout.values[rows], returns[rows], rollout.mask[rows],
                                                 config.value_clip)
    return loss, returns


# --- a run (06) -------------------------------------------------------------------------------------------------


def looped_kl(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([(p - q)[live].sum() for p, q, live in zip(logp, logp_ref, mask.bool(), strict=True)])


def looped_best(scores: Tensor, n: int) -> Tensor:
    return torch.tensor([start + int(scores[start:start + n].argmax()) for start in range(0, len(scores), n)])


def weighted_by_hand(scores: Tensor, kl_coef: float) -> Tensor:
    weights = torch.exp((scores - scores.max(1, keepdim=True).values) / kl_coef)
    return (weights * scores).sum(1) / weights.sum(1)


def shuffled(prompt_count: int, episodes: int, generator: torch.Generator) -> list[int]:
    """One weight for each prompt, and no prompt twice."""
    found: list[int] = torch.ones(prompt_count).multinomial(episodes, generator=generator).tolist()
    return found


# --- a wrong reward (07) ----------------------------------------------------------------------------------------


def tilted(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    weights = logp_ref.exp() * torch.exp(reward / beta)
    return torch.log(weights / weights.sum())


def one_by_one(score: Any, ending: str) -> list[tuple[str, float]]:
    words, found = ending.split(), []
    for i, word in enumerate(words):
        found.append((word, score([ending])[0] - score([" ".join(words[:i] + words[i + 1:])])[0]))
    return found


def by_numpy(score: Tensor, length: Tensor) -> Tensor:
    slope = np.polyfit(length.numpy(), score.numpy(), 1)[0]
    return score - float(slope) * (length - length.mean())


# --- one person's taste (08) ------------------------------------------------------------------------------------


def gain_in_torch(learnt: Tensor, control: Tensor, opening: Tensor) -> tuple[Tensor, Tensor]:
    gains = learnt - control
    above = gains - gains.mean()
    sums = torch.stack([above[opening == one].sum() for one in opening.unique()])
    count = len(sums)
    return gains.mean(), (count / (count - 1) * (sums**2).sum()).sqrt() / len(gains)


def gain_in_loops(learnt: Tensor, control: Tensor, opening: Tensor) -> list[float]:
    gains = [a - b for a, b in zip(learnt.tolist(), control.tolist(), strict=True)]
    mean = sum(gains) / len(gains)
    sums: dict[int, float] = {}
    for gain, one in zip(gains, opening.tolist(), strict=True):
        sums[one] = sums.get(one, 0.0) + gain - mean
    variance = len(sums) / (len(sums) - 1) * sum(x * x for x in sums.values())
    return [mean, math.sqrt(variance) / len(gains)]


def dealt_in_a_loop(endings_a: list[str], endings_b: list[str], coins: list[int]) -> tuple[list[list[str]], list[str]]:
    cards, key = [], []
    for a, b, coin in zip(endings_a, endings_b, coins, strict=True):
        left, right, owner = (b, a, "b") if coin else (a, b, "a")
        cards.append([left, right])
        key.append("same" if a == b else owner)
    return cards, key


def dealt_by_index(endings_a: list[str], endings_b: list[str], coins: list[int]) -> tuple[Any, Any]:
    pairs = list(zip(endings_a, endings_b, strict=True))
    cards = tuple((pair[coin], pair[1 - coin]) for pair, coin in zip(pairs, coins, strict=True))
    return cards, tuple("same" if pair[0] == pair[1] else "ab"[coin] for pair, coin in zip(pairs, coins, strict=True))


def rate_in_torch(choices: Sequence[str]) -> tuple[Tensor, Tensor]:
    points = torch.tensor([{"after": 1.0, "neither": 0.5, "before": 0.0}[choice] for choice in choices])
    return points.mean(), points.std() / math.sqrt(len(points))


def rate_by_counting(choices: list[str]) -> Any:
    wins, ties, n = choices.count("after"), choices.count("neither"), len(choices)
    points = np.array([1.0] * wins + [0.5] * ties + [0.0] * (n - wins - ties))
    return np.array([points.mean(), points.std(ddof=1) / n**0.5])


# --- methods without a critic (11) ------------------------------------------------------------------------------


def plain_rloo(scores: Tensor) -> Tensor:
    rows = [[row[i] - (sum(row) - row[i]) / (len(row) - 1) for i in range(len(row))] for row in scores.tolist()]
    return torch.tensor(rows, dtype=scores.dtype)


def plain_grpo(scores: Tensor) -> Tensor:
    return torch.stack([(row - row.mean()) / (row.std() + 1e-4) for row in scores])


def plain_dpo(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    return -F.logsigmoid(beta * (chosen - chosen_ref) - beta * (rejected - rejected_ref)).mean()


# --- an alarm (10) ----------------------------------------------------------------------------------------------


def looped_alarm(history: Sequence[Any]) -> list[int]:
    found = []
    for line in history:
        if line["ratio_first"] < 0.999 or line["ratio_first"] > 1.001:
            found.append(line["iteration"])
    return found


RIGHT: dict[str, list[Callable[..., Any]]] = {
    "ending_reward": [in_one_line, in_a_loop],
    "temperature": [lambda logits, temperature: torch.softmax(logits / temperature, dim=-1), shifted_softmax],
    "top_k": [lambda logits, k: logits.masked_fill(logits < logits.topk(k).values[..., -1:], -torch.inf), sorted_top_k],
    "mean_nll": [looped_nll, multiplied_nll],
    "row": [lambda prompt, ending, eos: (prompt + ending + [eos], [0] * len(prompt) + [1] * (len(ending) + 1)),
            looped_row],
    "padded_batch": [filled_batch, added_batch],
    "labels": [looped_labels, compared_labels],
    "sft_loss": [plain_sft, ignore_index_sft, multiplied_sft],
    "tie_groups": [groups_in_a_dict, groups_of_sorted],
    "pairs": [pairs_by_level, pairs_of_combinations, pairs_from_below],
    "agreement": [agreement_of_signs, agreement_both_ways],
    "first_wins": [wins_in_a_loop, wins_in_one_line],
    "pair_loss": [plain_pairs],
    "plackett_luce": [plain_ranking, last_group_skipped],
    "scores": [looped_scores, gathered_scores],
    "ceiling": [looped_ceiling, folded_ceiling],
    "swap_head": [of_ones_own, copied],
    "token_logprobs": [plain_logprobs],
    "k3": [plain_k3],
    "shaped_rewards": [plain_rewards],
    "gae": [plain_gae, lambda *args: list(ppo.gae(*args))],
    "policy_loss": [plain_policy_loss],
    "whiten": [plain_whiten],
    "adapt_kl_coef": [plain_coefficient],
    "policy_gradient": [with_a_loop, with_autograd],
    "value_loss": [plain_value_loss, indexed_value_loss],
    "ppo_iteration": [of_plain_parts, of_the_package],
    "kl_per_ending": [looped_kl, lambda logp, logp_ref, mask: torch.where(mask, logp - logp_ref, 0.0).sum(1)],
    "best_of_n": [looped_best, lambda scores, n: scores.view(-1, n).argmax(1) + n * torch.arange(len(scores) // n)],
    "choose_batch": [shuffled, lambda count, size, generator: torch.randperm(count, generator=generator)[:size]],
    "best_score": [weighted_by_hand, lambda scores, kl_coef: ((scores / kl_coef).softmax(1) * scores).sum(1)],
    "best_policy": [tilted],
    "worth_of_words": [one_by_one],
    "without_length": [by_numpy],
    "control_gain": [gain_in_torch, gain_in_loops],
    "blind": [dealt_in_a_loop, dealt_by_index],
    "win_rate": [rate_in_torch, rate_by_counting],
    "rloo_advantages": [plain_rloo],
    "grpo_advantages": [plain_grpo],
    "implicit_reward": [lambda logp, logp_ref, beta: beta * logp - beta * logp_ref],
    "dpo_loss": [plain_dpo],
    "ratio_alarm": [looped_alarm],
}  # by the name of the check
