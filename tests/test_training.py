"""Training by the methods: what an iteration is made of, what it leaves alone, how it resumes; DPO on given pairs."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_texts import ENDINGS, OPENINGS
from torch import Tensor

from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import encode_endings, encode_prompts, frozen_copy
from rlhf_mini.methods import METHODS
from rlhf_mini.policy import PolicyWithValue, PPOState
from rlhf_mini.ppo import PPOIteration, adapt_kl_coef, start_ppo
from rlhf_mini.pretrain import new_language_model
from rlhf_mini.run.ppo_state import load_state, save_state
from rlhf_mini.sampling import Rollout, sample
from rlhf_mini.sft import Example
from rlhf_mini.training import DPOConfig, ending_logprobs, train_dpo, train_method

EOS, PAD = 0, 1
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 5], [7, 8], [14, 15, 16], [6], [3, 4]]
SMALL = PPOConfig(iterations=4, episodes=16, max_new_tokens=8, learning_rate=3e-3)
EVERY_METHOD = pytest.mark.parametrize("name", METHODS)


def make_model(seed: int = 0) -> Any:
    return new_language_model(20, EOS, PAD, n_layer=1, n_head=2, n_embd=16, n_positions=48, seed=seed)


def how_often_five(rollout: Rollout) -> Tensor:
    """A rigged reward: the share of an ending's tokens that are token 5."""
    return ((rollout.tokens == 5) & rollout.mask).sum(1) / rollout.lengths


def train(name: str, state: PPOState, reference: Any, config: PPOConfig = SMALL, score: Any = how_often_five,
          group_size: int = 4) -> list[PPOIteration]:
    return list(train_method(METHODS[name], state, reference, score, PROMPTS, config, EOS, PAD, group_size))


def weights(model: Any) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# With new endings in every iteration ------------------------------------------------------------------------------


@EVERY_METHOD
def test_an_iteration_is_recorded_and_only_the_policy_changes(name: str) -> None:
    reference, state = make_model(), start_ppo(make_model(), SMALL)
    before, head = weights(reference), weights(state.policy.value_head)
    done = train(name, state, reference)
    for number, one in enumerate(done, start=1):
        assert set(one.stats) == {"iteration", "episodes", "score", "score_std", "reward", "kl", "kl_coef", "entropy",
                                  "length", "ended", "flat", "learning_rate", "grad_norm", "seconds"}
        assert all(math.isfinite(value) for value in one.stats.values())
        assert (one.stats["iteration"], one.stats["episodes"]) == (number, 16 * number)
        scores = how_often_five(one.rollout)
        assert one.stats["score"] == pytest.approx(scores.mean().item(), abs=1e-6)
        prompts = one.rollout.prompts  # each stands there as often as its group is large
        assert len(prompts) == 16 and all(len(set(prompts[i:i + 4])) == 1 for i in range(0, 16, 4))
    assert done[0].stats["kl"] == pytest.approx(0, abs=1e-5)
    assert done[0].stats["reward"] == pytest.approx(done[0].stats["score"], abs=1e-5)
    assert done[-1].stats["kl"] > 1e-3
    assert same(weights(reference), before) and same(weights(state.policy.value_head), head)
    assert not same(weights(state.policy.language_model), before)
    assert train(name, state, reference) == []  # all iterations are done


@EVERY_METHOD
def test_training_is_the_same_each_time_and_resumes_to_the_bit(name: str, tmp_path: Path) -> None:
    config = replace(SMALL, adaptive=True, kl_target=0.01)
    model = make_model()
    straight = start_ppo(model, config)
    history = train(name, straight, model, config)

    stopped = start_ppo(model, config)
    training = train_method(METHODS[name], stopped, model, how_often_five, PROMPTS, config, EOS, PAD)
    first = list(islice(training, 2))
    save_state(stopped, tmp_path)
    resumed = start_ppo(make_model(seed=9), config)  # other weights, all to be replaced
    load_state(resumed, tmp_path)
    second = train(name, resumed, model, config)

    assert same(straight.tensors(), resumed.tensors())
    assert (resumed.iteration, resumed.episodes, resumed.kl_coef) == (4, 64, straight.kl_coef)
    for ours, theirs in zip(history, first + second, strict=True):
        assert {**ours.stats, "seconds": 0} == {**theirs.stats, "seconds": 0}
        assert torch.equal(ours.rollout.tokens, theirs.rollout.tokens)


def test_another_seed_samples_other_endings() -> None:
    model = make_model()
    one, other = (train("RLOO", start_ppo(model, config), model, config)[0].rollout.tokens
                  for config in (replace(SMALL, iterations=1, seed=seed) for seed in (0, 1)))
    assert one.shape != other.shape or not torch.equal(one, other)


@EVERY_METHOD
def test_a_rigged_reward_rises(name: str) -> None:
    config = replace(SMALL, iterations=12, kl_coef=0.02)
    model = make_model()
    scores = [one.stats["score"] for one in train(name, start_ppo(model, config), model, config)]
    assert scores[-1] > scores[0] + 0.1


def test_the_adaptive_coefficient_moves_as_ppo_s_does() -> None:
    """A setting that one of two trainings ignores would be a trap."""
    config = replace(SMALL, adaptive=True, kl_target=0.01)
    model = make_model()
    state = start_ppo(model, config)
    for one in train_method(METHODS["GRPO"], state, model, how_often_five, PROMPTS, config, EOS, PAD):
        expected = adapt_kl_coef(one.stats["kl_coef"], one.stats["kl"], 0.01, 16, config.kl_horizon)
        assert state.kl_coef == expected
    assert state.kl_coef != config.kl_coef


@pytest.mark.parametrize("size", [2, 4, 8])
def test_flat_is_the_share_of_groups_in_which_all_scores_are_equal(size: int) -> None:
    """Endings of short prompts score alike; a third of a point is no binary fraction, and is still found equal."""
    def score(rollout: Rollout) -> Tensor:
        long = torch.tensor([len(prompt) > 2 for prompt in rollout.prompts])
        return torch.where(long, torch.arange(len(long)) / 7, torch.tensor(1 / 3))

    model = make_model()
    for one in train("GRPO", start_ppo(model, SMALL), model, score=score, group_size=size):
        groups = one.rollout.prompts[::size]
        assert one.stats["flat"] == pytest.approx(sum(len(prompt) <= 2 for prompt in groups) / len(groups))


def test_groups_without_spread_teach_grpo_nothing_but_the_price() -> None:
    """And where the policy is the reference, the price has no gradient either."""
    config = replace(SMALL, iterations=1, epochs=1, minibatches=1)
    model = make_model()
    (one,) = train("GRPO", start_ppo(model, config), model, config, lambda rollout: torch.ones(len(rollout.prompts)))
    assert one.stats["flat"] == 1 and one.stats["grad_norm"] < 1e-4


@pytest.mark.parametrize("size", [0, 1, -4, 3, 16, 32, 2.0, True])
def test_a_group_size_that_does_not_fit_is_named(size: Any) -> None:
    """16 endings in two minibatches: 2, 4 or 8."""
    model = make_model()
    with pytest.raises(InputError, match=rf"^group_size is {size} and PPOConfig.episodes 16: give a size of at least 2 "
                                         "that divides the episodes into 2 groups or more$"):
        train("RLOO", start_ppo(model, SMALL), model, group_size=size)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_named_before_the_policy_is_touched(bad: float) -> None:
    model = make_model()
    state = start_ppo(model, SMALL)
    next(train_method(METHODS["RLOO"], state, model, how_often_five, PROMPTS, SMALL, EOS, PAD))
    before = weights(state.policy)

    def broken(rollout: Rollout) -> Tensor:
        return how_often_five(rollout).index_fill(0, torch.tensor([3]), bad)

    with pytest.raises(InputError, match=rf"^iteration 2: score\[3\] is {bad}"):
        train("RLOO", state, model, score=broken)
    assert same(weights(state.policy), before) and state.iteration == 1


@EVERY_METHOD
def test_a_policy_that_diverges_says_where_and_what_to_do(name: str) -> None:
    config = replace(SMALL, learning_rate=1e30)
    model = make_model()
    with pytest.raises(InputError, match=r"^iteration 1: .*lower the learning rate") as error:
        train(name, start_ppo(model, config), model, config)
    assert "\n" not in str(error.value)


def test_no_prompt_is_an_error() -> None:
    model = make_model()
    with pytest.raises(InputError, match="there is no prompt to practise on"):
        next(train_method(METHODS["RLOO"], start_ppo(model, SMALL), model, how_often_five, [], SMALL, EOS, PAD))


# On given pairs ---------------------------------------------------------------------------------------------------

PAIRS = [(opening, ENDINGS[0], ENDINGS[1 + i % 4]) for i, opening in enumerate(OPENINGS)] * 4  # the first one wins
DPO = DPOConfig(epochs=6, batch_size=10, learning_rate=2e-3)


def test_dpo_starts_at_ln_2_and_learns_what_is_preferred(tiny_model: Any, tiny_tokenizer: Any) -> None:
    reference = frozen_copy(tiny_model)
    before = weights(reference)
    steps = list(train_dpo(tiny_model, reference, tiny_tokenizer, PAIRS, DPO))
    assert [step["step"] for step in steps] == list(range(1, 13))  # two steps are a pass over twenty pairs
    assert all(set(step) == {"step", "loss", "accuracy", "chosen", "rejected", "learning_rate"} for step in steps)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[0]["chosen"] == pytest.approx(0, abs=1e-4) and steps[0]["rejected"] == pytest.approx(0, abs=1e-4)
    assert steps[-1]["loss"] < 0.5 and steps[-1]["accuracy"] == 1
    assert steps[-1]["chosen"] > steps[-1]["rejected"]
    assert same(weights(reference), before) and not same(weights(tiny_model), before)


def test_what_a_step_of_dpo_says_is_true_of_its_pairs(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """One batch of all pairs; the model that is trained is not the reference."""
    reference = frozen_copy(tiny_model)
    list(train_dpo(tiny_model, reference, tiny_tokenizer, PAIRS, replace(DPO, epochs=1, seed=3)))
    trained = copy.deepcopy(tiny_model)
    step = next(train_dpo(tiny_model, reference, tiny_tokenizer, PAIRS, replace(DPO, batch_size=20, beta=0.3)))

    def gains(side: int) -> Tensor:
        texts = [(encode_prompts(tiny_tokenizer, [pair[0]])[0], encode_endings(tiny_tokenizer, [pair[side]])[0])
                 for pair in PAIRS]
        examples = [Example(prompt + ending, len(prompt)) for prompt, ending in texts]
        with torch.no_grad():
            return ending_logprobs(trained, examples, 0.7) - ending_logprobs(reference, examples, 0.7)

    chosen, rejected = gains(1), gains(2)
    losses = [-math.log(1 / (1 + math.exp(-0.3 * margin))) for margin in (chosen - rejected).tolist()]
    assert step["loss"] == pytest.approx(sum(losses) / 20, abs=1e-5)
    assert step["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert step["chosen"] == pytest.approx(chosen.mean().item(), abs=1e-4)
    assert step["rejected"] == pytest.approx(rejected.mean().item(), abs=1e-4)


def test_dpo_is_the_same_each_time(tiny_model: Any, tiny_tokenizer: Any) -> None:
    reference, again = frozen_copy(tiny_model), copy.deepcopy(tiny_model)
    config = replace(DPO, epochs=1)
    assert (list(train_dpo(tiny_model, reference, tiny_tokenizer, PAIRS, config))
            == list(train_dpo(again, reference, tiny_tokenizer, PAIRS, config)))
    assert same(weights(tiny_model), weights(again))


@pytest.mark.parametrize("pairs, message", [
    ([], r"there are no pairs: give at least one \(prompt, chosen, rejected\)"),
    ([("Mia ran.", "She fell.")], r"pairs\[0\] is .*: give \(prompt, chosen, rejected\)"),
    ([("Mia ran.", "She fell.", None)], r"pairs\[0\], rejected"),
    ([("Mia ran.", "She fell. " * 40, "She won.")], "the model sees 96: shorten it"),
])
def test_pairs_that_cannot_be_learnt_from_are_named(tiny_model: Any, tiny_tokenizer: Any, pairs: Any,
                                                    message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        next(train_dpo(tiny_model, frozen_copy(tiny_model), tiny_tokenizer, pairs, DPO))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"batch_size": 0}, {"learning_rate": math.nan},
                                   {"temperature": -1.0}])
def test_a_setting_of_dpo_that_makes_no_sense_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"DPOConfig.{next(iter(wrong))} is"):
        DPOConfig(**wrong)


def test_dpo_that_diverges_keeps_the_weights_of_the_step_before(tiny_model: Any, tiny_tokenizer: Any) -> None:
    config = replace(DPO, learning_rate=1e30)
    training = train_dpo(tiny_model, frozen_copy(tiny_model), tiny_tokenizer, PAIRS, config)
    with pytest.raises(InputError, match="lower the learning rate"):
        list(training)


def test_more_processes_than_pairs_in_a_batch_are_refused(tiny_model: Any, tiny_tokenizer: Any,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match=r"DPOConfig\.batch_size is 2 and 3 processes share it"):
        next(train_dpo(tiny_model, frozen_copy(tiny_model), tiny_tokenizer, PAIRS, replace(DPO, batch_size=2)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_log_probability_of_an_ending_is_the_sum_of_its_tokens(temperature: float) -> None:
    """Some endings stop at the EOS, some at the limit."""
    policy = PolicyWithValue(make_model())
    rollout = sample(policy, PROMPTS * 4, max_new_tokens=8, temperature=temperature, eos_id=EOS, pad_id=PAD,
                     generator=torch.Generator().manual_seed(0))
    assert 0 < rollout.ended.float().mean() < 1
    examples = [Example(row, len(prompt)) for row, prompt in zip(rollout.rows, rollout.prompts, strict=True)]
    found = ending_logprobs(policy.language_model, examples, temperature)
    torch.testing.assert_close(found, policy(rollout, temperature)[0].sum(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, rollout.logp.sum(1), atol=1e-4, rtol=0)
