"""Answers compared, slot by slot, and put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Case = Mapping[str, Any]  # the arguments by name, in the order in which they are given
Answer = tuple[Tensor, ...]  # what a function returned on a case, part by part, in double precision
Answers = Mapping[str, Answer]  # by the name of the case


def doubles(result: Any) -> Answer:
    """One or several tensors or numbers as a tuple of tensors in double precision."""
    several = result if isinstance(result, tuple | list) else (result,)
    return tuple(torch.as_tensor(part).detach().to(torch.float64) for part in several)


def same(found: Answer, wanted: Answer, mask: Tensor | None) -> bool:
    return all(a.shape == b.shape and not differs(a, b, mask).any() for a, b in zip(found, wanted, strict=True))


def differs(found: Tensor, wanted: Tensor, mask: Tensor | None) -> Tensor:
    return at_live(~torch.isclose(found, wanted, rtol=1e-4, atol=1e-5, equal_nan=True), mask)


def at_live(where: Tensor, mask: Tensor | None) -> Tensor:
    """Only the live slots, if there is one for each."""
    return where & mask if mask is not None and mask.shape == where.shape else where


def live_slots(case: Case) -> Tensor | None:
    """The mask of the case, or what its lengths say, True on live tokens; None if it has neither."""
    if "lengths" in case:
        return torch.arange(case["tokens"].shape[1]) < case["lengths"][:, None]
    return case.get("mask")


def located(name: str, part: str = "", place: Sequence[int] = ()) -> str:
    """The case, the part of the answer and the slot: "With padding, returns, row 1, t = 3"."""
    slot = f"row {place[0]}, t = {place[1]}" if len(place) == 2 else ", ".join(f"position {i}" for i in place)
    return ", ".join(filter(None, [name[0].upper() + name[1:], part, slot]))


def shapes(case: Case) -> str:
    return ", ".join(f"{name} {tuple(x.shape)}" if isinstance(x, Tensor) else f"{name} = {x}"
                     for name, x in case.items())


def kind(x: Any) -> str:
    """The type of a thing, with its article."""
    if isinstance(x, tuple | list):
        return f"a {type(x).__name__} of {len(x)}"
    if isinstance(x, np.ndarray | np.generic):
        return "a NumPy array" if x.ndim else "a NumPy number"
    name = "tensor" if isinstance(x, Tensor) else type(x).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
