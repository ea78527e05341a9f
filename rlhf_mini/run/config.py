"""The settings of a whole run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.require import change, python_value, require, require_flags, require_numbers
from rlhf_mini.texts import listed


@dataclass(frozen=True)
class RunConfig:
    """Everything `python -m rlhf_mini run` does, in one object; a path may be given as a text."""

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
        self._require_paths()
        require_flags(self, "quick", "bf16")
        require_numbers(self, positive=("foreign_sft_rate",), whole_or_0=("judged_by_all",),
                         whole=("demonstrations", "foreign_sft_steps", "openings", "completions", "samples"))
        require(self, "samples", "2 or more", self.samples >= 2)  # or nothing has a standard deviation
        require(self, "completions", "2 to 9", 2 <= self.completions <= 9)
        for name, kind in (("sft", SFTConfig), ("reward", RewardConfig), ("ppo", PPOConfig)):
            require(self, name, f"a {kind.__name__}", isinstance(getattr(self, name), kind))

    def _require_paths(self) -> None:
        require(self, "out", "the path of a folder", is_path(self.out))
        change(self, "out", Path(self.out))
        if self.base is not None:
            require(self, "base", "a folder, a hub name, or None for the embedded checkpoint", is_path(self.base))
            change(self, "base", os.fspath(python_value(self.base)))
        one = isinstance(self.rankings, str | os.PathLike)
        paths = (self.rankings,) if one else listed("RunConfig.rankings", self.rankings, "a list of paths")
        require(self, "rankings", "a list of paths", all(map(is_path, paths)))
        change(self, "rankings", tuple(map(Path, paths)))


def can_be_utf_8(path: Path) -> bool:
    """Whether a path has no byte that is not UTF-8: what libraries in Rust write to can have none."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def is_path(value: Any) -> bool:
    """Whether a value names a file or folder: a text or path that is not empty and that the system can encode."""
    try:
        text = os.fspath(value)
        return isinstance(text, str) and bool(text.strip()) and b"\0" not in os.fsencode(text)
    except (TypeError, UnicodeError):
        return False
