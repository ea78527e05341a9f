"""One ending token by token: every number by hand, sums equal to PPO's, and text that stays text."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor, nn

from rlhf_mini import kl
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import encode_prompts, frozen_copy
from rlhf_mini.plots.tokens import token_plot
from rlhf_mini.ppo import compare_to_reference, gae, shaped_rewards, start_ppo
from rlhf_mini.sampling import Rollout, sample
from rlhf_mini.token_views import TokenView, describe, view_tokens
from rlhf_mini.widgets import KLMicroscope

CONFIG = PPOConfig(max_new_tokens=9, temperature=0.7, kl_coef=0.3, gamma=1.0, lam=0.9)
PROMPTS = ["Mia found a kite in the park.", "Tom wanted a red ball.", "Ana was at the pond."]
SCORES = torch.tensor([1.5, -0.5, 0.25])
NASTY = TokenView(' <img src=x onerror="alert(1)">$\\frac$', -0.5, -1.0, 0.5, 0.125, 0.1065, 0.2, 0.0, -0.05, 0.3, -0.4,
                  ((" <b>bold</b>", 0.6), (" a", 0.4)), ((" <i>", 0.5),))


class Fixed(nn.Module):
    """A language model of three tokens whose logits are the same wherever it stands."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.base_model, self.embed = Ones(), nn.Embedding(3, 1)
        self.head = nn.Linear(1, 3, bias=False)
        self.head.weight.data = torch.tensor(probabilities).log()[:, None]

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def get_input_embeddings(self) -> nn.Module:
        return self.embed


class Ones(nn.Module):
    def forward(self, inputs_embeds: Tensor, **_: Any) -> Any:
        state = torch.ones_like(inputs_embeds)
        return dataclasses.make_dataclass("Output", ["last_hidden_state"])(state)


class Letters:
    eos_token_id = 0

    def decode(self, tokens: list[int]) -> str:
        return " " + "?ab"[tokens[0]]


def by_hand(config: PPOConfig, row: int = 0) -> list[TokenView]:
    """The ending "a" and EOS, written by P = (1/4, 1/2, 1/4) beside a reference Q = (1/2, 1/4, 1/4)."""
    tokens, mask = torch.tensor([[1, 0, 2], [2, 2, 0]]), torch.tensor([[True, True, False], [True, True, True]])
    probabilities = torch.tensor([0.25, 0.5, 0.25])
    rollout = Rollout(((1,), (1,)), tokens, mask,
                      probabilities.log()[tokens] * mask, torch.ones(2, 3, 1), torch.full((2, 3), 0.5),
                      torch.ones(2, dtype=torch.bool))
    policy, reference = Fixed(probabilities.tolist()), Fixed([0.5, 0.25, 0.25])
    return view_tokens(policy, reference, rollout, row, torch.tensor([2.0, 7.0]), config, Letters())


@pytest.fixture
def batch(tiny_model: Any, tiny_tokenizer: Any) -> tuple[Any, Any, Rollout, Any]:
    """A policy that has moved and can value, its reference, what it wrote, and the tokenizer."""
    state, reference = start_ppo(tiny_model, CONFIG), frozen_copy(tiny_model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in state.policy.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    rollout = sample(state.policy, encode_prompts(tiny_tokenizer, PROMPTS), max_new_tokens=9, temperature=0.7,
                     eos_id=tiny_tokenizer.eos_token_id, pad_id=tiny_tokenizer.pad_token_id, generator=generator)
    return state.policy, reference, rollout, tiny_tokenizer


# What is seen --------------------------------------------------------------------------------------------------


def test_every_number_of_a_token_by_hand() -> None:
    ln2 = math.log(2)
    first, last = by_hand(PPOConfig(temperature=1.0, kl_coef=0.1, gamma=1.0, lam=1.0))
    assert (first.text, last.text) == (" a", "(end)")
    got = [(v.logp, v.logp_ref, v.k1, v.k2, v.k3, v.kl, v.score, v.reward, v.value, v.advantage) for v in (first, last)]
    exact = -0.25 * ln2 + 0.5 * ln2
    expected = [(-ln2, -2 * ln2, ln2, ln2**2 / 2, ln2 - 0.5, exact, 0, -0.1 * ln2, 0.5, 1.5),
              (-2 * ln2, -ln2, -ln2, ln2**2 / 2, 1 - ln2, exact, 2, 2 + 0.1 * ln2, 0.5, 1.5 + 0.1 * ln2)]
    for numbers, row_expected in zip(got, expected, strict=True):
        assert numbers == pytest.approx(row_expected, abs=1e-6)
    assert [p for _, p in first.policy_choices] == pytest.approx([0.5, 0.25, 0.25])
    assert (first.policy_choices[0][0], first.reference_choices[0][0]) == (" a", "(end)")


def test_the_score_of_the_row_that_is_looked_at() -> None:
    views = by_hand(PPOConfig(temperature=1.0), row=1)
    assert [v.score for v in views] == [0, 0, 7] and views[1].k1 == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("row", range(3))
def test_its_sums_are_those_of_ppo_on_the_whole_batch(batch: tuple[Any, Any, Rollout, Any], row: int) -> None:
    policy, reference, rollout, tokenizer = batch
    views = view_tokens(policy, reference, rollout, row, SCORES, CONFIG, tokenizer)
    logp_ref, exact, _ = compare_to_reference(policy, reference, rollout, CONFIG.temperature)
    rewards = shaped_rewards(SCORES, rollout.logp, logp_ref, rollout.mask, CONFIG.kl_coef)
    advantages, _ = gae(rewards, rollout.values, rollout.mask, CONFIG.gamma, CONFIG.lam)
    live, k1 = rollout.mask[row], kl.masked_sum(kl.estimate(rollout.logp, logp_ref, "k1"), rollout.mask)[row].item()
    assert len(views) == rollout.lengths[row]
    assert abs(k1) > 0.01
    assert sum(v.k1 for v in views) == pytest.approx(k1, abs=1e-4)
    assert sum(v.reward for v in views) == pytest.approx(SCORES[row].item() - CONFIG.kl_coef * k1, abs=1e-4)
    assert [v.kl for v in views] == pytest.approx(exact[row][live].tolist(), abs=1e-5)
    assert [v.advantage for v in views] == pytest.approx(advantages[row][live].tolist(), abs=1e-4)


def test_what_another_policy_wrote_is_refused(batch: tuple[Any, Any, Rollout, Any]) -> None:
    _, reference, rollout, tokenizer = batch
    with pytest.raises(InputError, match="sample the rollout again"):
        view_tokens(reference, reference, rollout, 0, SCORES, CONFIG, tokenizer)


def test_no_tensor_depends_on_the_default_device(batch: tuple[Any, Any, Rollout, Any]) -> None:
    """A tensor made without a device would be on `meta` here, which holds no data and cannot meet a CPU tensor."""
    policy, reference, rollout, tokenizer = batch
    expected = view_tokens(policy, reference, rollout, 0, SCORES, CONFIG, tokenizer)
    with torch.device("meta"):
        assert view_tokens(policy, reference, rollout, 0, SCORES, CONFIG, tokenizer) == expected


# How it is shown -----------------------------------------------------------------------------------------------


def test_the_sentences_state_the_numbers() -> None:
    last = by_hand(PPOConfig(temperature=1.0, kl_coef=0.1, lam=1.0))[-1]
    sentences = " ".join(describe(last, 0.1))
    for part in ("25.0%", "50.0%", "k1 -0.693", "k2 0.240", "k3 0.307", "0.173 nats", "+2.069", "+2.00", "better"):
        assert part in sentences, part
    assert "whole ending" not in " ".join(describe(NASTY, 0.1)) and "worse" in " ".join(describe(NASTY, 0.1))


def test_the_still_picture_has_a_column_for_every_token_and_shows_text_as_text() -> None:
    axes = token_plot([NASTY, NASTY, dataclasses.replace(NASTY, text=" a")])
    try:
        axes[0].figure.canvas.draw()  # a dollar sign read as mathematics would raise here
        labels = [label.get_text() for label in axes[-1].get_xticklabels()]
        assert len(axes) == 4 and labels == [NASTY.text.strip()] * 2 + ["a"]
        assert sorted(bar.get_height() for bar in axes[1].patches) == [0.2, 0.2, 0.2]
    finally:
        plt.close(axes[0].figure)


def test_choosing_shows_the_numbers_of_a_token() -> None:
    views = by_hand(PPOConfig(temperature=1.0))
    lens = KLMicroscope([views[0], dataclasses.replace(views[1], kl=9.0)], 0.2, opening="Ada found a drum.")
    tokens = lens.view["tokens"]
    assert lens.chosen == 1 and tokens[1]["numbers"][0].startswith("Token 2 of 2.")  # at first, where KL is largest
    lens.choose(0)
    assert lens.chosen == 0 and tokens[0]["numbers"] == lens.numbers(0)
    assert lens.view["opening"] == "Ada found a drum."
    assert "2 tokens" in repr(lens) and len(repr(lens)) < 100
    with pytest.raises(InputError, match="place is 2: give 0 to 1"):
        lens.choose(2)


@pytest.mark.parametrize("text, shown", [(" drum", "drum"), ("ing", "-ing"), (".", "."), ("(end)", "(end)"),
                                         (" ", "' '"), ("\n", r"'\n'"), ("", "''")])
def test_pieces_that_go_on_with_a_word_are_seen_as_such(text: str, shown: str) -> None:
    assert KLMicroscope([dataclasses.replace(NASTY, text=text)], 0.2).view["tokens"][0]["label"] == shown


def test_warmer_means_more_kl() -> None:
    lens = KLMicroscope([dataclasses.replace(NASTY, kl=value) for value in (-1e-9, 0.4, 0.8)], 0.2)
    assert [token["colour"] for token in lens.view["tokens"]] == ["#ffffff", "#eaae80", "#d55e00"]


def test_nothing_is_minus_zero() -> None:
    columns = ("logp", "logp_ref", "k1", "k2", "k3", "kl", "score", "reward", "value", "advantage")
    small: Any = dict.fromkeys(columns, -1e-5)
    view = dataclasses.replace(NASTY, **small)
    axes = token_plot([view])
    try:
        titles = " ".join(ax.get_title(loc="left") for ax in axes)
    finally:
        plt.close(axes[0].figure)
    lens = KLMicroscope([view], 0.2)
    shown = " ".join([*lens.numbers(0), lens.view["tokens"][0]["title"], titles])
    assert not re.search(r"-0\.0+(?!\d)", shown), shown


def test_nothing_to_look_at_is_an_error() -> None:
    with pytest.raises(InputError, match="no tokens"):
        KLMicroscope([], 0.2)
