"""The reward model: losses by hand, scores that padding cannot move, fitting, and weights that carry the scale."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_texts import ENDINGS, OPENINGS
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2ForSequenceClassification

from rlhf_mini import forward
from rlhf_mini.config import RewardConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import pad_right
from rlhf_mini.language_model import save_language_model
from rlhf_mini.rankings import RankingSession, RankingStore, current
from rlhf_mini.reward import (
    bradley_terry_loss,
    bradley_terry_losses,
    competition,
    fit_reward,
    load_reward_model,
    normalise,
    pair_accuracy,
    plackett_luce_loss,
    plackett_luce_losses,
    reward_model_from,
    score_rollout,
    score_texts,
    score_tokens,
    token_rows,
)
from rlhf_mini.sampling import Rollout

PROMPTS = [opening for opening in OPENINGS for _ in ENDINGS]
COMPLETIONS = ENDINGS * len(OPENINGS)
property_test = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def rankings(draw: Any) -> list[list[int]]:
    """Any ranking with ties."""
    size = draw(st.integers(1, 6))
    levels = draw(st.lists(st.integers(0, size), min_size=size, max_size=size))
    return [[i for i in range(size) if levels[i] == level] for level in sorted(set(levels))]


def numbers(size: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-5, 5), min_size=size, max_size=size)


def naive_loss(scores: list[float], ranking: list[list[int]]) -> float:
    """The definition in words: each member competes with itself and everything strictly below."""
    total = 0.0
    for depth, group in enumerate(ranking):
        below = [j for lower in ranking[depth + 1:] for j in lower]
        for i in group:
            total += math.log(sum(math.exp(scores[j]) for j in [i, *below])) - scores[i]
    return total


@pytest.fixture
def rewarder(tiny_model: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """An untrained reward model on the tiny language model, and its tokenizer."""
    return reward_model_from(tiny_model, tiny_tokenizer, seed=0)


# --- losses -----------------------------------------------------------------------------------------------------


def test_a_pair_by_hand() -> None:
    assert bradley_terry_loss(torch.tensor([1.0]), torch.tensor([0.0])).item() == pytest.approx(0.313262, abs=1e-6)
    mean = bradley_terry_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])).item()
    assert mean == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.e)) / 2)


def test_far_scores_neither_overflow_nor_vanish() -> None:
    far = torch.tensor([-1e4])
    assert bradley_terry_loss(far, -far).item() == pytest.approx(2e4)
    assert plackett_luce_loss(torch.tensor([-1e4, 1e4]), [[0], [1]]).item() == pytest.approx(2e4)


@pytest.mark.parametrize(("ranking", "loss"), [
    ([[0], [1]], math.log(2)), ([[2], [0], [3], [1]], math.log(24)), ([[0], [1, 2, 3]], math.log(4)),
    ([[0, 1, 2, 3]], 0.0), ([[0, 1], [2]], 2 * math.log(2)), ([[0], [1, 2]], math.log(3)), ([[0]], 0.0)])
def test_losses_at_equal_scores(ranking: list[list[int]], loss: float) -> None:
    scores = torch.full((sum(map(len, ranking)),), 0.7)
    assert plackett_luce_loss(scores, ranking).item() == pytest.approx(loss, abs=1e-6)


def test_a_ranking_by_hand() -> None:
    # 2 is chosen from {0, 1, 2}, then 0 from {0, 1}.
    loss = plackett_luce_loss(torch.tensor([0.0, -1.0, 1.0]), [[2], [0], [1]]).item()
    assert loss == pytest.approx(math.log(math.e + 1 + 1 / math.e) - 1 + math.log(1 + 1 / math.e))


@given(st.data())
@property_test
def test_the_loss_is_its_definition_alone_and_in_a_batch(data: Any) -> None:
    many = data.draw(st.lists(rankings(), min_size=1, max_size=5))
    size = max(sum(map(len, ranking)) for ranking in many)
    scores = torch.tensor([data.draw(numbers(size)) for _ in many], dtype=torch.float64)
    batched = plackett_luce_losses(scores, competition(many, size))
    for row, ranking, loss in zip(scores, many, batched, strict=True):
        own = row[:sum(map(len, ranking))]
        assert loss.item() == pytest.approx(naive_loss(own.tolist(), ranking), abs=1e-9)
        assert plackett_luce_loss(own, ranking).item() == pytest.approx(loss.item(), abs=1e-9)


@given(st.floats(-5, 5), st.floats(-5, 5))
@property_test
def test_two_completions_are_bradley_terry(first: float, second: float) -> None:
    scores = torch.tensor([first, second], dtype=torch.float64)
    assert plackett_luce_loss(scores, [[1], [0]]).item() == pytest.approx(
        bradley_terry_loss(scores[1:], scores[:1]).item(), abs=1e-9)


@given(numbers(4))
@property_test
def test_the_probabilities_of_all_rankings_add_up(scores: list[float]) -> None:
    tensor = torch.tensor(scores, dtype=torch.float64)
    total = sum(math.exp(-plackett_luce_loss(tensor, [[i] for i in order]).item()) for order in permutations(range(4)))
    assert total == pytest.approx(1)


@given(st.data(), st.floats(-3, 3))
@property_test
def test_only_differences_of_scores_matter(data: Any, shift: float) -> None:
    ranking = data.draw(rankings())
    scores = torch.tensor(data.draw(numbers(sum(map(len, ranking)))), dtype=torch.float64)
    assert plackett_luce_loss(scores + shift, ranking).item() == pytest.approx(
        plackett_luce_loss(scores, ranking).item(), abs=1e-8)


def test_a_ranking_exploded_into_pairs_by_hand() -> None:
    scores = torch.tensor([[2.0, 0.5, 1.0], [2.0, 0.5, 9.0]])
    losses = bradley_terry_losses(scores, competition([[[0], [1, 2]], [[1], [0]]], 3))
    chosen, rejected = torch.tensor([[2.0], [2.0], [0.5]]), torch.tensor([[0.5], [1.0], [2.0]])
    pairs = [bradley_terry_loss(a, b).item() for a, b in zip(chosen, rejected, strict=True)]
    assert losses.tolist() == pytest.approx([pairs[0] + pairs[1], pairs[2]])


def test_slots_without_a_completion_take_no_gradient() -> None:
    scores = torch.tensor([[0.3, -0.2, 9.0]], requires_grad=True)
    plackett_luce_losses(scores, competition([[[0], [1]]], size=3)).sum().backward()
    assert scores.grad is not None and scores.grad[0, 2] == 0 and scores.grad[0, 0] < 0 < scores.grad[0, 1]


@pytest.mark.parametrize("ranking", [
    [], [[]], [[0], [1]], [[0], [1], [1]], [[0], [1], [3]], [[0], [], [1, 2]], [[-1], [0], [1]], [0, 1, 2],
    [["a"], [1, 2]], [[0], [1], [2], [3]], [[False], [True], [2]]])
def test_what_is_no_ranking_of_three_is_an_error(ranking: Any) -> None:
    with pytest.raises(InputError, match="is not a ranking of 3 completions"):
        plackett_luce_loss(torch.zeros(3), ranking)


def test_scores_of_the_wrong_shape_are_an_error() -> None:
    with pytest.raises(InputError, match="one score per completion"):
        plackett_luce_loss(torch.zeros(1, 2), [[0], [1]])
    for chosen, rejected in [((2,), (2, 1)), ((0,), (0,))]:
        with pytest.raises(InputError, match="for every pair"):
            bradley_terry_loss(torch.zeros(chosen), torch.zeros(rejected))


def test_chosen_equal_to_rejected_gives_ln_2_and_no_gradient(rewarder: Any) -> None:
    model, tokenizer = rewarder
    rows = token_rows(model, tokenizer, OPENINGS[:1] * 2, ENDINGS[:1] * 2)
    chosen, rejected = score_tokens(model, rows).split(1)
    loss = bradley_terry_loss(chosen, rejected)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    of_one_score = torch.autograd.grad(chosen.sum(), parameters)
    assert loss.item() == pytest.approx(math.log(2))
    for gradient, size in zip(gradients, of_one_score, strict=True):
        assert gradient.abs().max() <= 1e-6 * max(1.0, size.abs().max().item())


# --- the model --------------------------------------------------------------------------------------------------


def test_the_trunk_is_the_language_models_and_the_head_is_new(rewarder: Any, tiny_model: Any) -> None:
    model, tokenizer = rewarder
    assert type(model).__name__ == "GPT2ForSequenceClassification" and model.config.num_labels == 1
    trunk = tiny_model.base_model.state_dict()
    assert all(torch.equal(weight, trunk[name]) for name, weight in model.base_model.state_dict().items())
    model.base_model.wte.weight.data.zero_()
    assert tiny_model.base_model.wte.weight.any()  # a copy: fitting the reward model leaves the policy alone
    assert model.score.bias is None and model.config.pad_token_id == tokenizer.pad_token_id == 1


def test_the_head_starts_small_and_from_its_seed(tiny_model: Any, tiny_tokenizer: Any) -> None:
    def head(seed: int) -> torch.Tensor:
        model: Any = reward_model_from(tiny_model, tiny_tokenizer, seed)[0]
        return model.score.weight

    heads = torch.cat([head(seed) for seed in range(40)])
    assert heads.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.1)
    assert torch.equal(heads[:1], head(0))


def test_a_foreign_base_gets_a_pad_of_its_own_and_stays_as_it_is(foreign: Any) -> None:
    language_model, language_tokenizer = foreign
    rows = language_model.get_input_embeddings().num_embeddings
    model, tokenizer = reward_model_from(language_model, language_tokenizer, seed=0)
    assert language_tokenizer.pad_token_id is None and language_model.config.pad_token_id is None
    assert language_model.get_input_embeddings().num_embeddings == rows
    assert tokenizer.pad_token_id == model.config.pad_token_id == rows != tokenizer.eos_token_id
    trunk = language_model.base_model.state_dict()
    for name, weight in model.base_model.state_dict().items():
        assert torch.equal(weight[:len(trunk[name])], trunk[name])


def padded_logits(model: Any, tokenizer: Any, rows: list[list[int]]) -> torch.Tensor:
    tokens, lengths = pad_right(rows, tokenizer.pad_token_id), torch.tensor([len(row) for row in rows])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    return model(input_ids=tokens, attention_mask=mask.long()).logits.squeeze(-1)


@pytest.mark.parametrize("base", ["tiny", "foreign"])
def test_our_scores_are_those_of_the_plain_transformers_class(base: str, rewarder: Any, foreign: Any) -> None:
    model, tokenizer = rewarder if base == "tiny" else reward_model_from(foreign[0], foreign[1], seed=0)
    rows = token_rows(model, tokenizer, PROMPTS, COMPLETIONS)
    assert all(row[-1] == tokenizer.eos_token_id for row in rows)  # the EOS is what is scored
    torch.testing.assert_close(score_tokens(model, rows), padded_logits(model, tokenizer, rows), atol=1e-5, rtol=1e-5)


@given(st.lists(st.lists(st.integers(0, 319), min_size=1, max_size=20), min_size=1, max_size=7), st.integers(1, 60))
@property_test
def test_no_other_row_and_no_order_moves_a_score(rewarder: Any, rows: list[list[int]], chunk: int) -> None:
    model, _ = rewarder
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        alone = torch.cat([score_tokens(model, [row]) for row in rows])
        patch.setattr(forward, "CHUNK_TOKENS", chunk)
        torch.testing.assert_close(score_tokens(model, rows), alone, atol=1e-5, rtol=1e-5)


@given(st.integers(0, 20), st.integers(0, 319))
@property_test
def test_padding_moves_no_score(rewarder: Any, right: int, fill: int) -> None:
    model, tokenizer = rewarder
    prompt, ending = [10, 20, 30], [40, 50, tokenizer.eos_token_id]
    tokens, mask = torch.tensor([[*ending, *[fill] * right]]), torch.arange(3 + right)[None] < 3
    empty = torch.zeros(1, 3 + right)
    rollout = Rollout((tuple(prompt),), tokens, mask, empty, empty[..., None], empty, torch.tensor([True]))
    with torch.no_grad():
        alone = score_tokens(model, [prompt + ending])
    assert torch.equal(score_rollout(model, rollout), alone)


def test_an_ending_that_was_cut_is_scored_as_it_stands(rewarder: Any) -> None:
    model, tokenizer = rewarder
    whole, cut = token_rows(model, tokenizer, OPENINGS[:1] * 2, ENDINGS[:1] * 2, ended=[True, False])
    assert whole == [*cut, tokenizer.eos_token_id]
    scores = score_texts(model, tokenizer, OPENINGS[:1] * 2, ENDINGS[:1] * 2, ended=[True, False])
    torch.testing.assert_close(scores, score_tokens(model, [whole, cut]).detach())
    assert scores[0] != scores[1]


def test_scoring_nothing_gives_nothing(rewarder: Any) -> None:
    assert score_texts(rewarder[0], rewarder[1], [], []).shape == (0,)


def test_a_text_longer_than_the_context_is_named(rewarder: Any) -> None:
    with pytest.raises(InputError, match=r"'Once' with its completion has \d+ tokens and the reward model sees 96"):
        score_texts(rewarder[0], rewarder[1], ["Once"], ["zq" * 100])


# --- normalising and saving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["tiny", "foreign"])
def test_the_saved_folder_gives_normalised_scores_to_anyone(base: str, rewarder: Any, foreign: Any, tmp_path: Path,
                                                            capfd: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = rewarder if base == "tiny" else reward_model_from(foreign[0], foreign[1], seed=0)
    before = score_texts(model, tokenizer, PROMPTS, COMPLETIONS)
    mean, std = normalise(model, tokenizer, PROMPTS, COMPLETIONS)
    assert (mean, std) == pytest.approx((before.mean().item(), before.std().item()), rel=1e-4, abs=1e-6)
    save_language_model(model, tokenizer, tmp_path)
    assert capfd.readouterr() == ("", "")

    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    plain_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    scores = padded_logits(plain, plain_tokenizer, token_rows(model, tokenizer, PROMPTS, COMPLETIONS))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4) and scores.std().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(scores, (before - mean) / std, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "model.safetensors").exists() and plain_tokenizer.pad_token_id != plain_tokenizer.eos_token_id

    again = score_texts(*load_reward_model(tmp_path), prompts=PROMPTS, endings=COMPLETIONS)
    torch.testing.assert_close(again, scores.detach(), atol=1e-5, rtol=1e-5)


def test_normalising_twice_changes_nothing_more(rewarder: Any) -> None:
    normalise(rewarder[0], rewarder[1], PROMPTS, COMPLETIONS)
    assert normalise(rewarder[0], rewarder[1], PROMPTS, COMPLETIONS) == pytest.approx((0, 1), abs=1e-4)


def test_scores_that_do_not_vary_cannot_be_normalised(rewarder: Any) -> None:
    for endings in (ENDINGS[:1], ENDINGS[:1] * 2):
        with pytest.raises(InputError, match="do not vary"):
            normalise(rewarder[0], rewarder[1], OPENINGS[:1] * len(endings), endings)


def test_another_architecture_is_told_that_it_cannot_be_normalised(rewarder: Any) -> None:
    model, tokenizer = rewarder
    model.transformer.ln_f.bias = None  # as in an RMSNorm
    with pytest.raises(InputError, match="no bias that moves every score alike"):
        normalise(model, tokenizer, PROMPTS, COMPLETIONS)


def test_a_language_model_is_no_reward_model(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    save_language_model(tiny_model, tiny_tokenizer, tmp_path)
    with pytest.raises(InputError, match="GPT2LMHeadModel: give a reward model"):
        load_reward_model(tmp_path)


def test_a_classifier_of_three_labels_is_no_reward_model(rewarder: Any, tmp_path: Path) -> None:
    model, tokenizer = rewarder
    model.config.num_labels = 3
    other = GPT2ForSequenceClassification(model.config)
    save_language_model(other, tokenizer, tmp_path)
    assert len(json.loads((tmp_path / "config.json").read_text())["id2label"]) == 3
    with pytest.raises(InputError, match="3 labels"):
        load_reward_model(tmp_path)


# --- fitting ----------------------------------------------------------------------------------------------------


def examples() -> list[tuple[str, list[str], list[list[int]]]]:
    """Rankings of different sizes, with ties, that agree with each other."""
    order = [[2], [0, 4], [1], [3]]
    full = [(opening, ENDINGS, order) for opening in OPENINGS]
    return [*full, *[(opening, ENDINGS[2:4], [[0], [1]]) for opening in OPENINGS]]


def test_fitting_learns_the_ranking(rewarder: Any) -> None:
    model, tokenizer = rewarder
    config = RewardConfig(epochs=25, batch_size=5, learning_rate=5e-3)
    stats = list(fit_reward(model, tokenizer, examples(), config))
    assert len(stats) == 50 and set(stats[0]) == {"step", "loss", "accuracy", "learning_rate"}
    # 0 and 4 are tied, so each competes with itself and two below: at equal scores ln 5 + 2 ln 3 + ln 2, or ln 2.
    assert stats[0]["loss"] > 1 and stats[-1]["loss"] < 0.3 and stats[-1]["accuracy"] > 0.95
    scores = score_texts(model, tokenizer, PROMPTS, COMPLETIONS).view(len(OPENINGS), len(ENDINGS))
    assert bool((scores[:, 2] > scores[:, 0]).all() and (scores[:, 1] > scores[:, 3]).all())
    accuracy, margins = pair_accuracy(model, tokenizer, [(p, ENDINGS[2], ENDINGS[3]) for p in OPENINGS])
    assert accuracy == 1 and bool((margins > 0).all())
    assert pair_accuracy(model, tokenizer, [(p, ENDINGS[3], ENDINGS[2]) for p in OPENINGS])[0] == 0


def test_ratings_teach_as_rankings_do(rewarder: Any, tmp_path: Path) -> None:
    model, tokenizer = rewarder
    session = RankingSession([(opening, ENDINGS) for opening in OPENINGS], "Ada", RankingStore(tmp_path, "Ada"))
    points = dict(zip(ENDINGS, [5, 3, 7, 1, 5], strict=True))  # the order of `examples`
    while session.current:
        session.rate([points[text] for text in session.current.shown])
    rated = [(judged.prompt, judged.completions, judged.ranking) for judged in current(session.records)]
    config = RewardConfig(epochs=25, batch_size=5, learning_rate=5e-3)
    *_, last = fit_reward(model, tokenizer, rated, config, bradley_terry_losses)
    assert last["accuracy"] > 0.95
    scores = score_texts(model, tokenizer, PROMPTS, COMPLETIONS).view(len(OPENINGS), len(ENDINGS))
    assert bool((scores[:, 2] > scores[:, 0]).all() and (scores[:, 1] > scores[:, 3]).all())


def test_fitting_depends_on_its_seed_only(tiny_model: Any, tiny_tokenizer: Any) -> None:
    def losses(seed: int, noise: int) -> list[float]:
        torch.manual_seed(noise)
        model, tokenizer = reward_model_from(tiny_model, tiny_tokenizer, seed=0)
        config = RewardConfig(epochs=2, batch_size=3, seed=seed)
        return [s["loss"] for s in fit_reward(model, tokenizer, examples(), config)]

    assert losses(1, noise=1) == losses(1, noise=2) != losses(2, noise=1)


def test_the_first_loss_is_that_of_the_untrained_scores(rewarder: Any) -> None:
    model, tokenizer = rewarder
    expected = []
    for prompt, completions, ranking in examples():
        scores = score_texts(model, tokenizer, [prompt] * len(completions), completions)
        expected.append(naive_loss(scores.tolist(), ranking))
    first = next(iter(fit_reward(model, tokenizer, examples(), RewardConfig(batch_size=10, dropout=0.0))))
    assert first["loss"] == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_equal_scores_are_half_right(rewarder: Any) -> None:
    assert pair_accuracy(rewarder[0], rewarder[1], [(OPENINGS[0], ENDINGS[0], ENDINGS[0])])[0] == 0.5
    with pytest.raises(InputError, match="no pairs"):
        pair_accuracy(rewarder[0], rewarder[1], [])


@pytest.mark.parametrize("bad", [[], [("Once", ["a", "b"], [[0, 1]])], [("Once", ["a", "b"], [[0], [1], [2]])],
                                 [("Once", ["a", "b", "c"], [[0], [1]])]])
def test_rankings_that_teach_nothing_are_an_error(rewarder: Any, bad: Any) -> None:
    with pytest.raises(InputError, match=r"prefers anything|is not a ranking"):
        list(fit_reward(rewarder[0], rewarder[1], bad, RewardConfig()))


def test_fitting_stops_when_the_loss_is_no_number(rewarder: Any) -> None:
    model, tokenizer = rewarder
    with torch.no_grad():
        model.score.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="the loss is nan at step 1"):
        list(fit_reward(model, tokenizer, examples(), RewardConfig()))
