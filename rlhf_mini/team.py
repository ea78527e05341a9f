"""Many processes as one: each works on its share of the rows, and a sum is all that they exchange.

`torchrun` and `accelerate launch` start the same program in every process. All hold the same weights and draw the same
random numbers. Each works on some of the rows and writes into a tensor of zeros; the sum of these tensors is what one
process alone would have made. In a single process every function here returns at once.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_mini.errors import InputError, shown

if TYPE_CHECKING:  # the command line answers before torch is imported
    from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def size() -> int:
    """The number of processes that the launcher has started. Raises: InputError where it is no number."""
    return _set_by_launcher("WORLD_SIZE", "1")


def rank() -> int:
    """The number of this process, from 0. Raises: InputError where the launcher has not set it."""
    return _set_by_launcher("RANK") if size() > 1 else 0


def _set_by_launcher(name: str, default: str = "") -> int:
    value = os.environ.get(name) or default
    if not (value.isascii() and value.isdecimal()):
        raise InputError(f"{name} is {shown(value)}: start several processes with torchrun or accelerate launch, "
                         "which set it, or remove WORLD_SIZE from the environment")
    return int(value)


def first() -> bool:
    """Whether this is the process that locks, writes, prints and asks the panel."""
    return rank() == 0


def on_gpu() -> bool:
    """Whether models are to be on a GPU: there is one, and no launcher has asked for the CPU."""
    import torch

    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes")


def join() -> None:
    """Meet the other processes, if there are any; from here on each has a GPU of its own, where there are GPUs.

    Raises: InputError where a launcher has set only a part of what this needs.
    """
    if size() > 1:
        rank()
        import torch
        import torch.distributed as dist

        if on_gpu():
            torch.cuda.set_device(_set_by_launcher("LOCAL_RANK", "0"))
        if not dist.is_initialized():
            try:
                dist.init_process_group("nccl" if on_gpu() else "gloo")
            except ValueError as error:
                raise InputError(f"{error}: start several processes with torchrun or accelerate launch") from None


def leave() -> None:
    """Part from the other processes at the end of the program."""
    if size() > 1:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def wait() -> None:
    """Go on when every process is here."""
    if size() > 1:
        import torch

        total(torch.zeros(1, device="cuda" if on_gpu() else "cpu"))


def share(rows: Any) -> Any:
    """The rows of a list or tensor that this process works on: every `size()`-th of them."""
    return rows[rank()::size()] if size() > 1 else rows


def check_share(rows: int, what: str) -> None:
    """Raises: InputError where a training step has fewer rows than there are processes."""
    if rows < size():
        raise InputError(f"{what} is {rows} and {size()} processes share it: start at most {rows} processes")


def total(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, for each of them; x itself is overwritten. Shapes: any -> the same."""
    if size() > 1:
        import torch.distributed as dist

        dist.all_reduce(x)
    return x


def add_gradients(model: nn.Module) -> None:
    """Give every process the gradient of the whole loss, where each has the gradient of its own rows' part."""
    if size() > 1:
        import torch

        for p in model.parameters():
            if p.requires_grad and p.grad is None:  # this process had no rows
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        together = total(torch.cat([gradient.flatten() for gradient in gradients]))  # one message is faster than many
        for gradient, part in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


def by_rows(function: Callable[[Any], Any], rollout: Any) -> Any:
    """`function(rollout)`, one tensor or several with a row per ending, of which each process computes its share."""
    if size() == 1:
        return function(rollout)
    import torch

    rows = share(torch.arange(len(rollout.mask), device=rollout.mask.device))
    found = function(rollout.select(rows))
    several = found if isinstance(found, tuple) else (found,)
    whole = [total(x.new_zeros(len(rollout.mask), *x.shape[1:]).index_copy(0, rows.to(x.device), x)) for x in several]
    return tuple(whole) if isinstance(found, tuple) else whole[0]


def once(write: Function) -> Function:
    """Let the first process call the function; in the others it returns None."""
    @functools.wraps(write)
    def guarded(*args: Any, **named: Any) -> Any:
        return write(*args, **named) if first() else None
    return guarded  # type: ignore[return-value]
