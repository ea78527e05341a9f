"""PPO against the exact optimum, in worlds so small that every ending can be written down (`tiny_world`).

With a penalty of beta * KL(policy || reference), the best policy is reference * exp(reward / beta), made
to sum to 1, and worth J* = beta * ln E_reference[exp(reward / beta)]. No policy may be worth more; PPO
comes close.
"""

import pytest

from rlhf_mini.config import PPOConfig
from rlhf_mini.ppo import start_ppo, train_ppo
from rlhf_mini.teaching.tiny_world import LENGTH, NEVER, PROMPT, number, tiny_world


@pytest.mark.parametrize(
    "eos_id, count", [(NEVER, 64), (3, 1 + 3 + 9 * 4)], ids=["four_tokens", "three_and_eos"]
)
def test_the_worlds_are_complete(eos_id: int, count: int) -> None:
    world = tiny_world(eos_id)
    assert len(world.tokens) == len(number(world.tokens, world.mask).unique()) == count
    assert world.log_probabilities(world.reference).exp().sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("eos_id", [NEVER, 3], ids=["four_tokens", "three_and_eos"])
def test_rewards_are_those_of_the_endings_and_have_standard_deviation_1(eos_id: int) -> None:
    world = tiny_world(eos_id)
    chance = world.logp_ref.exp()
    assert (chance * world.reward).sum().item() == pytest.approx(0, abs=1e-6)
    assert (chance * world.reward.square()).sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("eos_id", [NEVER, 3], ids=["four_tokens", "three_and_eos"])
def test_ppo_approaches_the_optimum_and_never_passes_it(eos_id: int, beta: float) -> None:
    world = tiny_world(eos_id)
    start = world.objective(world.log_probabilities(world.reference), beta)
    best = world.optimum(beta)[1]
    assert start == pytest.approx(0, abs=1e-6) and best > 0.1
    config = PPOConfig(
        iterations=60, episodes=512, max_new_tokens=LENGTH, learning_rate=1e-3, lam=1.0, kl_coef=beta,
        temperature=1.0,
    )
    state = start_ppo(world.reference, config)
    for _ in train_ppo(state, world.reference, world.score, [PROMPT], config, eos_id, pad_id=0):
        policy = world.log_probabilities(state.policy.language_model)
        assert world.objective(policy, beta) <= best + 1e-6
    assert world.objective(policy, beta) >= start + 0.95 * (best - start)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_optimum_is_the_tilted_reference(beta: float) -> None:
    """J of reference * exp(reward / beta), normalised, is J*; every policy mixed with it is worth less."""
    world = tiny_world()
    logp_best, best = world.optimum(beta)
    assert world.objective(logp_best, beta) == pytest.approx(best, abs=1e-9)
    for share in (0.01, 0.5, 1.0):
        mixed = ((1 - share) * logp_best.exp() + share * world.logp_ref.exp()).log()
        assert world.objective(mixed, beta) < best
