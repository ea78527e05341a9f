"""The settings of a whole run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig, require, require_numbers


@dataclass(frozen=True)
class RunConfig:
    """Everything `python -m rlhf_mini run` does, in one object."""

    out: Path = Path("runs")
    seed: int = 0
    base: str | None = None  # None: the embedded checkpoint
    rankings: tuple[Path, ...] = ()  # empty: the simulated panel judges
    quick: bool = False
    bf16: bool = False  # matrix products in bfloat16; weights and Adam's moments stay in fp32
    demonstrations: int = 48_000
    foreign_sft_steps: int = 2_000  # a base that has not seen tales needs at least so many steps,
    foreign_sft_rate: float = 2e-3  # at this rate or a higher one
    openings: int = 1_200  # prompts that the panel ranks
    completions: int = 4
    judged_by_all: int = 100  # so many of the openings are ranked by all annotators
    samples: int = 1024  # endings per evaluation
    sft: SFTConfig = field(default_factory=SFTConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)

    def __post_init__(self) -> None:
        require_numbers(self, positive=("foreign_sft_rate",), not_negative=("judged_by_all",),
                         whole=("demonstrations", "foreign_sft_steps", "openings", "completions", "samples"))
        require(self, "samples", "2 or more", self.samples >= 2)  # or nothing has a standard deviation
        require(self, "completions", "2 to 9", 2 <= self.completions <= 9)
