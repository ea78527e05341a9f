"""An exercise on the head of a reward model: a tiny language model whose LM head is exchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlhf_mini.checks.calling import exception_line, unfilled
from rlhf_mini.checks.compare import kind
from rlhf_mini.checks.diagnose import sentence
from rlhf_mini.checks.exercise import Result, Verdict


def check_swap_head(function: Any) -> Result:
    """Check f(model): the trunk of a tiny language model with a new linear layer, one output and no bias."""
    try:
        return Result(SWAP, swap_diagnosis(function), 2, function)
    except Verdict as verdict:
        return Result(SWAP, str(verdict), verdict.points, function)


class TinyTrunk(nn.Module):
    """A trunk in two layers: the state of a token is made of the tokens up to it. Shapes: (B, T) -> (B, T, D)."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = torch.arange(1, tokens.shape[1] + 1)[:, None]  # (T, 1) how many tokens each state has seen
        return torch.tanh(self.mix(self.embed(tokens).cumsum(1) / seen))


class TinyLM(nn.Module):
    """A tiny language model: a trunk and an LM head. Shapes: (B, T) tokens -> (B, T, V) logits."""

    def __init__(self, vocabulary: int = 11, width: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.trunk = TinyTrunk(vocabulary, width)
            self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.trunk(tokens))
        return logits


SWAP = "head swap"
SIZES = ((11, 6), (7, 4))  # vocabulary and width of the models that a student's function gets


def swapped(model: Any) -> nn.Module:
    return nn.Sequential(model.trunk, nn.Linear(model.lm_head.in_features, 1, bias=False))


def bias_kept(model: Any) -> nn.Module:
    """the new head has a bias: it adds the same to every score, which no comparison sees; give it bias=False"""
    return nn.Sequential(model.trunk, nn.Linear(model.lm_head.in_features, 1))


def on_the_logits(model: Any) -> nn.Module:
    """the new layer reads the logits of the LM head: leave the LM head out, and let the layer read the states"""
    return nn.Sequential(model, nn.Linear(model.lm_head.out_features, 1, bias=False))


def output_for_each_token(model: Any) -> nn.Module:
    """the head still has an output for each token of the vocabulary: a score is one number"""
    return nn.Sequential(model.trunk, nn.Linear(model.lm_head.in_features, model.lm_head.out_features, bias=False))


def trunk_made_anew(model: Any) -> nn.Module:
    """the trunk has new random numbers: keep those of the language model, or nothing of what it has learnt is left"""
    new = TinyTrunk(model.lm_head.out_features, model.lm_head.in_features)
    return nn.Sequential(new, nn.Linear(model.lm_head.in_features, 1, bias=False))


def head_alone(model: Any) -> nn.Module:
    """this is the new head alone: it needs the states of the trunk, so put the trunk before it (nn.Sequential)"""
    return nn.Linear(model.lm_head.in_features, 1, bias=False)


def replaced_in_place(model: Any) -> nn.Module:
    """the language model itself has lost its LM head, and it is still needed: make a new module of its trunk"""
    model.lm_head = nn.Linear(model.lm_head.in_features, 1, bias=False)
    return nn.Sequential(model.trunk, model.lm_head)


class FrozenFirst(nn.Module):
    """A trunk that gives no gradient, and a head."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head

    def forward(self, tokens: Tensor) -> Any:
        return self.head(self.trunk(tokens).detach())


def trunk_frozen(model: Any) -> nn.Module:
    """the trunk gets no gradient: leave torch.no_grad and detach out, because the fit trains trunk and head"""
    return FrozenFirst(model.trunk, nn.Linear(model.lm_head.in_features, 1, bias=False))


SWAP_MISTAKES = (trunk_frozen, bias_kept, on_the_logits, output_for_each_token, trunk_made_anew, head_alone,
                 replaced_in_place)


def swap_facts(function: Any, vocabulary: int, width: int) -> dict[str, Any]:
    """What can be seen of the module that a function makes of a tiny language model; none where it is a stub."""
    model, tokens = TinyLM(vocabulary, width), torch.arange(6).view(2, 3)  # (B, T)
    with torch.random.fork_rng(), torch.no_grad():
        logits, states, learnt = model(tokens), model.trunk(tokens), [x.clone() for x in model.trunk.parameters()]
        made = function(model)
        if unfilled(made):
            return {}
        if not isinstance(made, nn.Module):
            raise Verdict(f"your function returns {kind(made)}, expected is a module (nn.Sequential makes one of two)")
        new = [x for x in made.parameters() if not any(same_numbers(x, old) for old in learnt)]
        try:
            scores = made(tokens)
        except Exception as error:
            scores, shape = torch.zeros(0), f"none, but {type(error).__name__}"
        else:
            shape = str(tuple(scores.shape))
        read = len(new) == 1 and new[0].numel() == width and scores.shape == (2, 3, 1)
        return {"the shape of the result for tokens (2, 3)": shape,
                "whether the trunk has the numbers of the language model":
                    all(any(same_numbers(x, old) for x in made.parameters()) for old in learnt),
                "new numbers beside the trunk": sum(x.numel() for x in new),
                "whether the head reads the states": bool(read and torch.allclose(
                    scores, states @ new[0].view(-1, 1), atol=1e-5)),
                "whether the language model still gives its logits": same_numbers(model(tokens), logits),
                "whether the trunk can learn": all(learns(made, tokens))}


def learns(made: nn.Module, tokens: Tensor) -> list[bool]:
    """Whether each of the module's numbers gets a gradient from the scores."""
    with torch.enable_grad():
        try:
            total = made(tokens).sum()
        except Exception:
            return [False]
        if not total.requires_grad:
            return [False]
        return [x is not None for x in torch.autograd.grad(total, list(made.parameters()), allow_unused=True)]


def same_numbers(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def swap_diagnosis(function: Any) -> str:
    """The line to print where the answer is right. Raises: Verdict, with the line, where it is not."""
    if not callable(function):
        raise Verdict(f"this is {kind(function)}: give the function itself, without calling it")
    try:
        found = [swap_facts(function, *sizes) for sizes in SIZES]
    except (NotImplementedError, Verdict) as error:
        raise error if isinstance(error, Verdict) else Verdict("not attempted yet") from None
    except Exception as error:
        raise Verdict(exception_line(error, function, {"model": "a tiny language model"})) from None
    if not all(found):
        raise Verdict("not attempted yet")
    expected = [swap_facts(swapped, *sizes) for sizes in SIZES]
    if found == expected:
        return f"correct. It is right for language models of {len(SIZES)} sizes."
    fact, one, other = next((fact, one[fact], other[fact]) for one, other in zip(found, expected, strict=True)
                            for fact in other if one[fact] != other[fact])
    usual = [sentence(wrong) for wrong in SWAP_MISTAKES if found == [swap_facts(wrong, *sizes) for sizes in SIZES]]
    raise Verdict(f"{usual[0] if usual else 'not right yet, nor one of the usual mistakes'}. "
                  f"{fact[0].upper() + fact[1:]}: found {one}, expected {other}.")
