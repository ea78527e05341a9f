"""Compare answers slot by slot, on the CPU, and describe them in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Case = Mapping[str, Any]  # the arguments by name, in the order of the call
Answer = tuple[Tensor, ...]  # the parts that a function returned on a case, in double precision on the CPU
Answers = Mapping[str, Answer]  # one for each case, by its name


def doubles(result: Any) -> Answer:
    """One or several tensors or numbers, from any device, as a tuple of tensors in double precision on the CPU."""
    parts = result if isinstance(result, tuple | list) else (result,)
    return tuple(torch.as_tensor(part, device="cpu").detach().to(torch.float64) for part in parts)


def same(found: Answer, expected: Answer, mask: Tensor | None) -> bool:
    return all(a.shape == b.shape and not differs(a, b, mask).any() for a, b in zip(found, expected, strict=True))


def differs(found: Tensor, expected: Tensor, mask: Tensor | None) -> Tensor:
    return at_live(~torch.isclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True), mask)


def at_live(where: Tensor, mask: Tensor | None) -> Tensor:
    """`where` on live slots only, if the mask has the same shape."""
    return where & mask if mask is not None and mask.shape == where.shape else where


def live_slots(case: Case) -> Tensor | None:
    """The mask of the case, or the mask that follows from its lengths, on the CPU; None if it has neither.

    Shapes: -> (B, T) bool, True on live tokens.
    """
    if "lengths" in case:
        width = next(x for x in case.values() if isinstance(x, Tensor) and x.ndim > 1).shape[1]  # tokens or states
        return torch.arange(width, device="cpu") < case["lengths"].cpu()[:, None]
    return case["mask"].cpu() if "mask" in case else None


def located(name: str, part: str = "", place: Sequence[int] = ()) -> str:
    """The case, the part of the answer and the slot, as in "With padding, returns, row 1, t = 3"."""
    slot = f"row {place[0]}, t = {place[1]}" if len(place) == 2 else ", ".join(f"position {i}" for i in place)
    return ", ".join(filter(None, [name[0].upper() + name[1:], part, slot]))


def shapes(case: Case) -> str:
    return ", ".join(f"{name} {tuple(x.shape)}" if isinstance(x, Tensor) else f"{name} = {x}"
                     for name, x in case.items())


def kind(x: Any) -> str:
    """The type of an object, with its article."""
    if isinstance(x, tuple | list):
        return f"a {type(x).__name__} of {len(x)}"
    if isinstance(x, np.ndarray | np.generic):
        return "a NumPy array" if x.ndim else "a NumPy number"
    name = "tensor" if isinstance(x, Tensor) else type(x).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
