"""The figures in metrics.json, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlhf_mini import tales
from rlhf_mini.evaluate import Samples, best_of_n, sample_endings
from rlhf_mini.metrics import calibration_bins, evaluate_samples, example_stories, reward_model_metrics, tales_means
from rlhf_mini.pretrain import new_language_model
from rlhf_mini.reward import reward_model_from, score_rollout

KEYS = {"gold_mean", "gold_std", "proxy_mean", "kl", "grammatical", "coherent", "ended", "distinct",
        "length_tokens", "samples"}
PROMPTS = ["Mia found a kite in the park.", "Tom wanted a red ball.", "Ben had an old drum."]


def of_tales(count: int, **changes: Any) -> Samples:
    """Stories of the grammar as if a model had written them."""
    told = [tales.write(seed) for seed in range(count)]
    values: dict[str, Any] = {
        "prompts": [opening for opening, _ in told], "endings": [ending for _, ending in told],
        "ended": [True] * count, "lengths": [10] * count, "proxy": torch.arange(count).float(),
        "kl_each": torch.zeros(count)}
    return Samples(**(values | changes))


def test_stories_of_the_grammar_are_flawless() -> None:
    figures = evaluate_samples(of_tales(300, kl_each=torch.full((300,), 1.5)))
    assert set(figures) == KEYS
    assert figures["grammatical"] == figures["coherent"] == figures["ended"] == 1
    assert figures["samples"] == 300 and figures["kl"] == 1.5 and figures["length_tokens"] == 10
    assert figures["proxy_mean"] == pytest.approx(149.5)
    assert figures["gold_mean"] is not None and abs(figures["gold_mean"]) < 0.25
    assert figures["gold_std"] == pytest.approx(1, abs=0.2)


def test_shares_and_lengths_by_hand() -> None:
    figures = evaluate_samples(of_tales(4, ended=[True, False, True, True], lengths=[3, 4, 5, 8]))
    assert figures["ended"] == 0.75 and figures["length_tokens"] == 5


def test_gold_is_the_mean_of_the_gold_rewards() -> None:
    samples = of_tales(2, endings=["Blue the the.", tales.write(1)[1]])
    gold = [tales.gold_reward(*pair) for pair in zip(samples.prompts, samples.endings, strict=True)]
    figures = evaluate_samples(samples)
    assert figures["gold_mean"] == pytest.approx(sum(gold) / 2)
    assert figures["gold_std"] == pytest.approx(abs(gold[0] - gold[1]) / math.sqrt(2))
    assert figures["grammatical"] == 0.5


def test_the_same_story_over_and_over_is_not_distinct() -> None:
    samples = of_tales(50)
    again = of_tales(50, endings=[samples.endings[0]] * 50)
    many = evaluate_samples(samples)["distinct"]
    assert evaluate_samples(again)["distinct"] == 1 / 50
    assert many is not None and many > 0.8


def test_text_that_is_not_tales_has_no_gold() -> None:
    figures = evaluate_samples(of_tales(3, endings=["x", "x", "y"]), tales_world=False)
    unknown = {name for name, value in figures.items() if value is None}
    assert unknown == {"gold_mean", "gold_std", "grammatical", "coherent"}
    assert figures["distinct"] == pytest.approx(2 / 3)
    assert set(tales_means(["a"], ["b"], tales_world=False).values()) == {None}


def test_best_of_n_takes_the_best_of_the_first_n() -> None:
    texts = [f"{prompt}{i}" for prompt in "ab" for i in range(4)]
    samples = Samples(["a"] * 4 + ["b"] * 4, texts, [True] * 8, list(range(8)),
                      torch.tensor([0.0, 3, 1, 9, 5, 4, 7, 6]), torch.zeros(8))
    two, four = best_of_n(samples, 4, 2), best_of_n(samples, 4, 4)
    assert two.endings == ["a1", "b0"] and two.proxy.tolist() == [3, 5] and two.prompts == ["a", "b"]
    assert four.endings == ["a3", "b2"] and four.lengths == [3, 6]
    assert two.kl == pytest.approx(math.log(2) - 0.5) and four.kl == pytest.approx(0.636, abs=1e-3)


def test_sampling_is_repeatable_and_its_kl_is_exact(tiny_model: Any, tiny_tokenizer: Any) -> None:
    how: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.0, "seed": 3}
    same = sample_endings(tiny_model, tiny_tokenizer, PROMPTS * 4, reference=tiny_model, **how)
    assert same.kl == pytest.approx(0, abs=1e-5)
    assert len(same.endings) == 12 and max(same.lengths) <= 12
    assert sample_endings(tiny_model, tiny_tokenizer, PROMPTS * 4, **how).endings == same.endings
    other = type(tiny_model)(tiny_model.config).eval()
    assert sample_endings(other, tiny_tokenizer, PROMPTS * 4, reference=tiny_model, **how).kl > 0.01


def test_samples_carry_the_score_of_their_tokens(tiny_model: Any, tiny_tokenizer: Any) -> None:
    model, _ = reward_model_from(tiny_model, tiny_tokenizer, seed=0)
    seen = []

    def score(rollout: Any) -> torch.Tensor:
        seen.append(score_rollout(model, rollout))
        return seen[-1]

    samples = sample_endings(tiny_model, tiny_tokenizer, PROMPTS * 100, max_new_tokens=4, temperature=1.0,
                             seed=0, score=score)
    assert len(seen) == 2  # batches of at most 256
    assert torch.equal(samples.proxy, torch.cat(seen))


def test_stories_have_what_the_report_shows() -> None:
    samples = of_tales(20, prompts=[tales.write(seed // 2)[0] for seed in range(20)])
    told = example_stories({"sft": samples, "ppo": samples}, tales_world=True, count=8)
    assert len(told) == 8 and len({story["opening"] for story in told}) == 8
    assert set(told[0]["ppo"]) == {"ending", "ended", "proxy", "gold", "grammatical", "coherent"}
    assert told[1]["sft"]["ending"] == samples.endings[2]


def test_calibration_by_hand() -> None:
    one, three = math.log(1 / 3), math.log(3)  # P = 0.25 and 0.75
    bins = calibration_bins(torch.tensor([three, three, three, one]), bins=2)
    # 0.75 right, turned round 0.25 and wrong, 0.75 right, turned round 0.75 and wrong
    assert bins == [{"predicted": pytest.approx(0.25), "observed": 0, "count": 1},
                    {"predicted": pytest.approx(0.75), "observed": pytest.approx(2 / 3), "count": 3}]
    assert sum(b["count"] for b in calibration_bins(torch.linspace(-9, 9, 101))) == 101


def test_reward_model_metrics(tiny_tokenizer: Any) -> None:
    roomy = new_language_model(len(tiny_tokenizer), tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id,
                               n_layer=1, n_head=1, n_embd=8, n_positions=400, seed=0)
    model, tokenizer = reward_model_from(roomy, tiny_tokenizer, seed=0)
    told = [tales.write(seed) for seed in range(40)]
    pairs = [(opening, ending, "Blue the.") for opening, ending in told]
    figures = reward_model_metrics(model, tokenizer, pairs, scale=2.0, panel=True)
    assert 0 <= figures["accuracy"] <= 1 and figures["accuracy_ceiling"] > 0.9  # nobody likes "Blue the."
    assert reward_model_metrics(model, tokenizer, pairs, scale=2.0, panel=False)["accuracy_ceiling"] is None
    nothing = reward_model_metrics(model, tokenizer, [], scale=1.0, panel=True)
    assert nothing == {"accuracy": None, "accuracy_ceiling": None, "calibration": []}
