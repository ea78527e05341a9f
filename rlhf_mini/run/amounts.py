"""How much work each stage of a run is, as far as it is known when the run begins."""

from __future__ import annotations

from rlhf_mini import tales
from rlhf_mini.run import results
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.plan import RUN, Work
from rlhf_mini.run.tasks import Task

EVALUATED = 4  # models that end every held-out opening


def amounts(config: RunConfig, task: Task, normalise_on: int) -> dict[str, list[Work]]:
    """The work of each stage. How many rankings the reward model learns from is known once they are made."""
    candidates = max(results.BEST_OF) * min(results.BEST_OF_PROMPTS, len(task.held_out))
    judged = [Work("sampling: endings to judge", "endings", len(task.to_judge) * config.completions),
              Work("judging", "judging", len(tales.PANEL))]
    return {"sft": [Work("fine-tuning", "fine-tuning", config.sft.steps)],
            "rankings": [] if task.judgements else judged,
            "reward_model": [Work("reward model", "reward model"),
                             Work("sampling: endings to normalise on", "endings", normalise_on)],
            **{arm: [Work(RUN[arm], "iterations of PPO", config.ppo.iterations)] for arm in ("ppo", "ppo_no_kl")},
            "evaluation": [Work("sampling: evaluation", "endings", EVALUATED * len(task.held_out)),
                           Work("sampling: best of n", "endings", candidates)]}
