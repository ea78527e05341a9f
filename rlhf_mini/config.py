"""The settings of each stage: frozen, checked when made, with defaults that work."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from rlhf_mini.errors import InputError, shown

MAX_SEED = 2**32 - 1  # PPO multiplies it by a million and adds iterations; a generator takes seeds below 2**63
MAX_WHOLE = 2**63 - 1  # torch has no larger ones
MAX_NUMBER = sys.float_info.max
MAX_NEW_TOKENS = 64  # every ending that the grammar writes is shorter


def require(config: Any, name: str, expected: str, ok: bool) -> None:
    if not ok:
        raise InputError(f"{type(config).__name__}.{name} is {shown(getattr(config, name))}: give {expected}")


def require_numbers(config: Any, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = (),
                     whole: tuple[str, ...] = (), whole_or_0: tuple[str, ...] = ()) -> None:
    """Check a config's numbers by name, and its seed; NaN, infinity, texts and truth values satisfy nothing.

    Numbers of NumPy become numbers of Python, which can be written to config.json.
    """
    for name in (*positive, *not_negative):
        value = _plain_number(getattr(config, name))
        change(config, name, value)
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
        if name in positive:
            require(config, name, "a number above 0", number and value > 0)
        else:
            require(config, name, "a number that is 0 or more", number and value >= 0)
    for name in (*whole, *whole_or_0, "seed"):
        value = _plain_whole(getattr(config, name))
        change(config, name, value)
        low, high = int(name in whole), MAX_SEED if name == "seed" else MAX_WHOLE
        expected = f"a whole number from 0 to {high}" if name == "seed" else f"a whole number of at least {low}"
        require(config, name, expected, type(value) is int and low <= value <= high)


def require_flags(config: Any, *names: str) -> None:
    """Check that settings are True or False; a truth value of NumPy becomes one of Python."""
    for name in names:
        change(config, name, python_value(getattr(config, name)))
        require(config, name, "True or False", isinstance(getattr(config, name), bool))


def change(config: Any, name: str, value: Any) -> None:
    """Set a field of a frozen config while it is made."""
    object.__setattr__(config, name, value)


def python_value(value: Any) -> Any:
    """A number, text or truth value of NumPy or PyTorch as one of Python; anything else unchanged."""
    single = type(value).__module__ in ("numpy", "torch") and getattr(value, "ndim", 0) == 0
    return value.item() if single and hasattr(value, "item") else value


def _plain_number(value: Any) -> Any:
    value = python_value(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    try:
        return int(value) if isinstance(value, Integral) else float(value)
    except OverflowError:  # a fraction of huge numbers
        return value


def _plain_whole(value: Any) -> Any:
    value = _plain_number(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning on demonstrations: `steps` batches of `batch_size` endings."""

    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_numbers(self, positive=("learning_rate", "max_grad_norm"),
                         not_negative=("warmup", "weight_decay"), whole=("steps", "batch_size"))


@dataclass(frozen=True)
class RewardConfig:
    """Fitting the reward model: `epochs` passes over the rankings, `batch_size` rankings a step."""

    epochs: int = 4
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.01
    dropout: float = 0.15  # only while fitting: a thousand rankings are soon memorised
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_numbers(self, positive=("learning_rate", "max_grad_norm"),
                         not_negative=("warmup", "weight_decay", "dropout"), whole=("epochs", "batch_size"))
        require(self, "dropout", "a number from 0 to below 1", self.dropout < 1)


@dataclass(frozen=True)
class PPOConfig:
    """PPO with a KL penalty; the defaults follow Ziegler et al. 2019 and Huang et al. 2024 where size allows."""

    iterations: int = 60
    episodes: int = 128  # endings sampled per iteration
    max_new_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.7
    epochs: int = 2
    minibatches: int = 2
    learning_rate: float = 2e-4  # of the first iteration; it falls linearly to 0
    adam_eps: float = 1e-5
    clip: float = 0.2
    value_clip: float = 1.0  # the scores have standard deviation 1
    value_coef: float = 0.5
    value_head_rate: float = 10.0  # the head's rate is this times the learning rate, because it starts at zero
    gamma: float = 1.0
    lam: float = 1.0  # the score comes at the end, and the plot is chosen at the beginning
    kl_coef: float = 0.15
    adaptive: bool = False
    kl_target: float = 4.0  # nats per ending, used when adaptive
    max_grad_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_numbers(self, positive=("temperature", "learning_rate", "adam_eps", "clip", "value_clip",
                                         "value_head_rate", "kl_target", "max_grad_norm"),
                         not_negative=("value_coef", "gamma", "lam", "kl_coef"),
                         whole=("iterations", "episodes", "max_new_tokens", "epochs", "minibatches"))
        require(self, "minibatches", f"at most episodes = {self.episodes}", self.minibatches <= self.episodes)
        require_flags(self, "adaptive")
        require(self, "lam", "a number from 0 to 1", self.lam <= 1)
        require(self, "gamma", "a number from 0 to 1", self.gamma <= 1)

    @property
    def kl_horizon(self) -> int:
        """Episodes over which the adaptive coefficient may change by a factor of e: ten batches."""
        return 10 * self.episodes
