"""Exercise on a batch of prompts. What is drawn is random, so the check looks at what holds for every draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.exercise import Result
from rlhf_mini.checks.plain import PlainExercise, as_lists, check_plain
from rlhf_mini.ppo import choose_prompts

ENOUGH = 20  # times that each number is expected among the batches, so that none is absent by chance


def check_choose_batch(function: Any) -> Result:
    """Check f(prompt_count, episodes, generator): the numbers of a batch of different prompts, at random."""
    return replace(check_plain(CHOOSE_BATCH, Batches(function) if callable(function) else function), function=function)


class Batches:
    """A function that chooses batches, as one whose answer says what holds of them, whatever was drawn."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.__doc__ = function, function.__doc__
        self.__code__ = getattr(function, "__code__", None)  # for the line of an error

    def __call__(self, prompt_count: int, episodes: int, seed: int) -> Any:
        with torch.random.fork_rng(devices=[]):
            first, again = (self.drawn(prompt_count, episodes, seed, other) for other in (1, 2))
        for batch in first:
            if not isinstance(batch, list) or not all(isinstance(number, int) for number in batch):
                return tuple(batch) if isinstance(batch, list) else batch  # a stub may return a tuple of `...`
        drawn, every = {number for batch in first for number in batch}, set(range(prompt_count))
        beside = all(side_by_side(batch, prompt_count) for batch in first)
        return [f"{len(first[0])} prompts",
                "all different" if all(len(set(batch)) == len(batch) for batch in first) else "some twice",
                "in range" if drawn <= every else "out of range",
                "repeatable" if first == again else "not repeatable",
                "then others" if any(batch != first[0] for batch in first) else "then the same",
                "from a part" if len(drawn) <= episodes else "side by side" if beside else
                "from all" if drawn >= every else "0 never comes" if every - drawn == {0} else "some never come"]

    def drawn(self, prompt_count: int, episodes: int, seed: int, other: int) -> list[Any]:
        """Some batches in a row; random numbers that are not the generator's begin at `other`."""
        torch.manual_seed(other)
        generator = torch.Generator().manual_seed(seed)
        batches = ENOUGH * prompt_count // episodes
        return [as_lists(self.function(prompt_count, episodes, generator)) for _ in range(batches)]


def side_by_side(batch: list[int], prompt_count: int) -> bool:
    """Whether the numbers are neighbours; the first number follows the last one."""
    numbers = set(batch)
    return sum((number + 1) % prompt_count not in numbers for number in numbers) <= 1


def chosen(prompt_count: int, episodes: int, generator: torch.Generator) -> list[int]:
    return [number for number, in choose_prompts([(i,) for i in range(prompt_count)], episodes, generator)]


def with_replacement(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """a prompt may come twice in a batch: take the first numbers of a permutation, torch.randperm"""
    return torch.randint(prompt_count, (episodes,), generator=generator)


def generator_ignored(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """the generator is ignored, so that a run cannot be repeated: give it to torch.randperm"""
    return torch.randperm(prompt_count)[:episodes]


def always_the_first(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """every batch has the same prompts in the same order: shuffle first, then cut"""
    return torch.arange(episodes)


def first_ones_shuffled(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """only the first prompts are ever chosen: shuffle all prompt_count numbers, then cut"""
    return torch.randperm(episodes, generator=generator)


def one_block(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """a batch is one block of neighbours from a random start: shuffle all numbers, then take the first `episodes`"""
    start = torch.randint(prompt_count, (), generator=generator)
    return (start + torch.arange(episodes)) % prompt_count


def never_zero(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """prompt 0 can never be chosen: the numbers go from 0 to prompt_count - 1, as in torch.randperm(prompt_count)"""
    return torch.randperm(prompt_count - 1, generator=generator)[:episodes] + 1


def not_cut(prompt_count: int, episodes: int, generator: torch.Generator) -> Tensor:
    """these are all prompts, shuffled: keep the first `episodes` of them"""
    return torch.randperm(prompt_count, generator=generator)


CHOOSE_BATCH = PlainExercise(
    name="a batch of prompts",
    right=Batches(chosen),
    mistakes=[Batches(with_replacement), Batches(generator_ignored), Batches(always_the_first),
              Batches(first_ones_shuffled), Batches(one_block), Batches(never_zero), Batches(not_cut)],
    cases={"with 32 of 64 prompts": {"prompt_count": 64, "episodes": 32, "seed": 1},
           "with 16 of 256 prompts": {"prompt_count": 256, "episodes": 16, "seed": 2}},
)
