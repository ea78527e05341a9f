"""The settings of each stage: frozen, checked when made, with defaults that work."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_mini.require import require, require_flags, require_numbers

MAX_NEW_TOKENS = 64  # every ending that the grammar writes is shorter


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
