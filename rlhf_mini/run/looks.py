"""Look at the policy while it trains: what it makes of a few fixed openings, for the report's scrubber.

The looks have their own random numbers, the same each time. So a text changes only where the policy has changed, and
the numbers of the training do not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rlhf_mini.metrics import example_stories
from rlhf_mini.policy import PPOState
from rlhf_mini.ppo import PPOIteration, Score
from rlhf_mini.run.context import RunContext

OPENINGS = 8
LOOKS = 15  # about so many looks at each arm, and never one after every single update


def looking(context: RunContext, arm: str, state: PPOState, score: Score,
            training: Iterable[PPOIteration]) -> Iterator[PPOIteration]:
    """The same iterations; before them, between them and after the last, the policy continues the fixed openings."""
    look(context, arm, state, score)
    for iteration in training:
        yield iteration
        look(context, arm, state, score)


def look(context: RunContext, arm: str, state: PPOState, score: Score) -> None:
    """Where it is time, add to stories.jsonl how this policy continues the openings. Raises: NotSavedError."""
    last = context.config.ppo.iterations
    if state.iteration % looks_every(last) and state.iteration != last:
        return
    prompts = list(dict.fromkeys(context.task.held_out))[:OPENINGS]
    model: Any = state.policy.language_model
    # The random numbers of the evaluation: its first endings are those that the last look has seen.
    samples = context.sample(model, prompts, "evaluation", score=score)
    told = example_stories({arm: samples}, context.task.tales_world, OPENINGS)
    stories = [{"opening": story["opening"], **_finite(story[arm])} for story in told]
    context.folder.require_place()
    context.folder.stories.append({"arm": arm, "updates": state.iteration, "stories": stories})


def looks_every(iterations: int) -> int:
    """After how many updates the next look is taken."""
    return max(2, math.ceil(iterations / LOOKS))


def _finite(story: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinite numbers: they become null."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in story.items()}
