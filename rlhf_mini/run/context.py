"""What every stage of a run needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from rlhf_mini.evaluate import Samples, sample_endings
from rlhf_mini.ppo import Score
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.progress import batches_shown
from rlhf_mini.run.tasks import Task, seed_for


@dataclass(frozen=True)
class RunContext:
    """Settings, task, tokenizer, and the folder in which each stage stores its results."""

    config: RunConfig
    task: Task
    tokenizer: Any
    folder: RunFolder

    def sample(self, model: PreTrainedModel, prompts: list[str], purpose: str,
               reference: PreTrainedModel | None = None, score: Score | None = None) -> Samples:
        """One ending for each prompt; every purpose has its own seed."""
        ppo = self.config.ppo
        return sample_endings(model, self.tokenizer, prompts, max_new_tokens=ppo.max_new_tokens,
                              temperature=ppo.temperature, seed=seed_for(self.config.seed, purpose),
                              reference=reference, score=score,
                              batches=lambda starts: batches_shown(starts, f"sampling: {purpose}"))
