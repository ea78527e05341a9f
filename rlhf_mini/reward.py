"""The reward model: a language model changed to emit one number, fitted to what people preferred."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from rlhf_mini.checkpoints import check_fit, load_pretrained, load_tokenizer, ready
from rlhf_mini.config import RewardConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import PAD, context_length, encode_endings, encode_prompts, pad_right
from rlhf_mini.optimisers import adamw, schedule, set_rate
from rlhf_mini.rankings.record import are_tie_groups
from rlhf_mini.sft import check_loss, epochs

Example = tuple[str, Sequence[str], Sequence[Sequence[int]]]  # prompt, completions, tie groups (best first)


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
    """-ln P(this ranking): each completion is chosen from itself and everything ranked strictly below it.

    Shapes: (K,) and tie groups of indices, best first -> scalar. Units: nats per ranking.
    Ties: members of a group do not compete with each other; all tied costs 0. K = 2 is Bradley-Terry.
    Raises: InputError where the ranking does not hold every index once. Source: Plackett 1975.
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

    A ranking of fewer completions leaves slots over, which compete with themselves only and so cost nothing.
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


def checked_ranking(ranking: Sequence[Sequence[int]], size: int) -> Sequence[Sequence[int]]:
    """The ranking itself. Raises: InputError where it is not tie groups of 0 to size - 1, each index once."""
    if size == 0 or not are_tie_groups(ranking, size):
        raise InputError(f"{ranking!r} is no ranking of {size} completions: give tie groups, best first, that hold "
                         f"each index from 0 to {size - 1} once, such as [[1], [0, 2]]")
    return ranking


# --- the model --------------------------------------------------------------------------------------------------


def reward_model_from(language_model: PreTrainedModel, tokenizer: Any, seed: int) -> tuple[PreTrainedModel, Any]:
    """The language model's trunk with a new head that emits one number, and a tokenizer whose pad is not its EOS.

    The pad token, where there was none, is added to this model only: it has no LM head, so no log-probability moves.
    """
    tokenizer = copy.deepcopy(tokenizer)
    config = copy.deepcopy(language_model.config)
    config.num_labels = 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        model.base_model.load_state_dict(language_model.base_model.state_dict())
        if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
            tokenizer.add_special_tokens({"pad_token": PAD})
            rows = model.get_input_embeddings().num_embeddings
            if tokenizer.pad_token_id >= rows:
                model.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)
        # Small scores at the start, of the same size for any width (Stiennon et al. 2020).
        torch.nn.init.normal_(model.score.weight, std=(config.hidden_size + 1) ** -0.5)
    model.config.pad_token_id = tokenizer.pad_token_id
    return ready(model), tokenizer


def load_reward_model(folder: str | Path) -> tuple[PreTrainedModel, Any]:
    """A saved reward model and its tokenizer. Raises: InputError where the folder holds no such thing."""
    model = load_pretrained(AutoModelForSequenceClassification, folder,
                            MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values(),
                            "a reward model (a sequence classifier with one label)")
    tokenizer = load_tokenizer(folder)
    check_fit(model, tokenizer, str(folder))
    if model.config.num_labels != 1:
        raise InputError(f"{folder} is a classifier with {model.config.num_labels} labels: a reward model has one")
    return model, tokenizer


def score_tokens(model: Any, rows: Sequence[Sequence[int]], chunk_size: int = 32) -> Tensor:
    """The score of each row: the head's output at its last token. Shapes: N rows -> (N,).

    Rows of like length go through together, so that little padding is multiplied; a causal model never looks right,
    so padding on the right needs no attention mask.
    """
    if not rows:
        return torch.zeros(0, device=model.device)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts = []
    for start in range(0, len(rows), chunk_size):
        chunk = [rows[i] for i in order[start:start + chunk_size]]
        tokens, lengths = pad_right(chunk, model.config.pad_token_id, model.device)  # (C, L)
        embeddings = model.get_input_embeddings()(tokens)
        hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state  # (C, L, D)
        last = hidden[torch.arange(len(chunk), device=model.device), lengths - 1]  # (C, D)
        parts.append(model.score(last).squeeze(-1).float())
    return torch.cat(parts)[torch.tensor(order, device=model.device).argsort()]


@torch.no_grad()
def score_texts(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str],
                ended: Sequence[bool] | None = None, batch_size: int = 256) -> Tensor:
    """The score of each ending after its prompt. Shapes: N texts -> (N,)."""
    return score_tokens(model, token_rows(model, tokenizer, prompts, endings, ended), batch_size)


@torch.no_grad()
def score_rollout(model: Any, tokenizer: Any, rollout: Any) -> Tensor:
    """The score of each sampled ending, read at its last live token. Shapes: B endings -> (B,).

    The rows are rebuilt from the masks: neither the policy's padding nor its pad token matters.
    """
    masks = rollout.attention_mask.bool()
    return score_tokens(model, [row[live].tolist() for row, live in zip(rollout.input_ids, masks, strict=True)])


def token_rows(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str],
               ended: Sequence[bool] | None = None) -> list[list[int]]:
    """Prompt + ending (+ EOS) as one row each. Raises: InputError for a row longer than the model's context."""
    pairs = zip(encode_prompts(tokenizer, prompts), encode_endings(tokenizer, endings, ended), strict=True)
    rows = [prompt + ending for prompt, ending in pairs]
    for row, prompt in zip(rows, prompts, strict=True):
        if len(row) > context_length(model):
            raise InputError(f"the prompt {prompt[:60]!r} with its completion has {len(row)} tokens and the reward "
                             f"model sees {context_length(model)}: shorten them")
    return rows


# --- fitting and measuring --------------------------------------------------------------------------------------


def fit_reward(model: Any, tokenizer: Any, examples: Sequence[Example], config: RewardConfig,
               losses: Callable[[Tensor, Tensor], Tensor] = plackett_luce_losses) -> Iterator[dict[str, float]]:
    """Fit the model to rankings by the Plackett-Luce loss, or another of scores and competition.

    Yields per step: step, loss (nats per ranking), accuracy (pairs in the right order, this pass so far),
    learning_rate. Raises: InputError where the rankings are not valid or prefer nothing to anything.
    """
    competes, rows = encoded(model, tokenizer, examples)
    generator = torch.Generator().manual_seed(config.seed)
    batches = epochs(len(examples), config.batch_size, generator)
    steps_per_pass = -(-len(examples) // config.batch_size)
    steps = config.epochs * steps_per_pass
    optimizer = adamw(model, config.weight_decay)
    for step in range(steps):
        if step % steps_per_pass == 0:
            right, pairs = 0, 0
        rate = set_rate([optimizer], config.learning_rate * schedule(step / steps, config.warmup))
        batch = next(batches)
        with dropout(model, config.dropout, config.seed + step):
            scores = score_rankings(model, [rows[i] for i in batch], competes.shape[-1])  # (N, K)
        loss = losses(scores, competes[batch]).mean()
        check_loss(loss.item(), step + 1, rate)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        ordered = pairs_in_order(scores.detach(), competes[batch])
        right, pairs = right + ordered[0], pairs + ordered[1]
        yield {"step": step + 1, "loss": loss.item(), "accuracy": right / max(pairs, 1), "learning_rate": rate}


@contextmanager
def dropout(model: Any, share: float, seed: int) -> Iterator[None]:
    """Dropout of embeddings and layer outputs, drawn from `seed`, for as long as the context lasts.

    Attention weights keep theirs: dropping them too would cost the fast attention.
    """
    layers = [layer for name, layer in model.named_modules()
              if isinstance(layer, torch.nn.Dropout) and not name.endswith("attn_dropout")]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for layer in layers:
            layer.train().p = share
        yield
        for layer in layers:
            layer.eval().p = 0.0


def encoded(model: Any, tokenizer: Any, examples: Sequence[Example]) -> tuple[Tensor, list[list[list[int]]]]:
    """Who competes with whom, (N, K, K), and the token rows of every example's completions."""
    for _, completions, ranking in examples:
        checked_ranking(ranking, len(completions))
    if not any(len(ranking) > 1 for _, _, ranking in examples):
        raise InputError(f"none of the {len(examples)} rankings prefers anything: rank at least two not tied")
    size = max(len(completions) for _, completions, _ in examples)
    competes = competition([ranking for _, _, ranking in examples], size).to(model.device)
    prompts = [prompt for prompt, completions, _ in examples for _ in completions]
    flat = iter(token_rows(model, tokenizer, prompts, [c for _, completions, _ in examples for c in completions]))
    return competes, [[next(flat) for _ in completions] for _, completions, _ in examples]


def score_rankings(model: Any, rows: Sequence[Sequence[Sequence[int]]], size: int) -> Tensor:
    """Scores of all completions in one pass. Shapes: N lists of up to K rows -> (N, K), 0 where there is no row."""
    scores = score_tokens(model, [row for completions in rows for row in completions])
    counts = torch.tensor([len(completions) for completions in rows], device=scores.device)
    present = torch.arange(size, device=scores.device) < counts[:, None]  # (N, K)
    return torch.zeros(present.shape, device=scores.device).masked_scatter(present, scores)


def pairs_in_order(scores: Tensor, competes: Tensor) -> tuple[int, int]:
    """How many strictly ranked pairs the scores put in the right order, and how many there are."""
    pairs = above(competes)
    right = (scores[:, :, None] > scores[:, None, :]) & pairs
    return int(right.sum()), int(pairs.sum())


def normalise(model: Any, tokenizer: Any, prompts: Sequence[str], endings: Sequence[str],
              ended: Sequence[bool] | None = None) -> tuple[float, float]:
    """Give these texts mean 0 and standard deviation 1, inside the weights; returns what they were before.

    The head has no bias. The final layer norm has: moved by d along the head w, it moves every score by w . d.
    Raises: InputError where the model has no such layer norm or the scores do not vary.
    """
    final_norm: Any = getattr(model.base_model, "ln_f", None)
    if getattr(final_norm, "bias", None) is None:
        raise InputError(f"{type(model).__name__} has no final layer norm with a bias: only GPT-2 can be normalised")
    scores = score_texts(model, tokenizer, prompts, endings, ended).double()
    if len(scores) < 2 or not bool(scores.std() > 1e-6):
        raise InputError(f"the scores of {len(scores)} texts do not vary: give at least two different texts")
    mean, std = scores.mean().item(), scores.std().item()
    with torch.no_grad():
        head = model.score.weight[0]
        final_norm.bias -= mean * head / head.square().sum()
        model.score.weight /= std
    return mean, std


def pair_accuracy(model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str, str]]) -> tuple[float, Tensor]:
    """The share of (prompt, chosen, rejected) in the right order, and the margins chosen - rejected (N,).

    Equal scores count one half. Raises: InputError where there are no pairs.
    """
    if not pairs:
        raise InputError("there are no pairs to measure accuracy on: give at least one (prompt, chosen, rejected)")
    prompts, chosen, rejected = ([pair[i] for pair in pairs] for i in range(3))
    margins = score_texts(model, tokenizer, prompts, chosen) - score_texts(model, tokenizer, prompts, rejected)
    accuracy = (margins > 0).double() + 0.5 * (margins == 0).double()
    return accuracy.mean().item(), margins
