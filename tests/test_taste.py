"""A taste of one: judgements, the fit, the blind test and its interval, and the recording."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import taste as recorded
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages import FinishedRun
from tiny_texts import ENDINGS, OPENINGS

from rlhf_mini import tales
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import Samples
from rlhf_mini.forward import pad_right
from rlhf_mini.language_model import encode_endings, encode_prompts, pad_id
from rlhf_mini.rankings import Ranking, RankingSession, RankingStore, to_pairs
from rlhf_mini.reward import pair_accuracy, reward_model_from, score_rollout, score_texts
from rlhf_mini.sampling import Rollout, sample
from rlhf_mini.teaching.measured import Measured
from rlhf_mini.teaching.taste import (
    SIMULATED_TASTES,
    TASTE_FIT,
    BlindTest,
    Outcome,
    blind_pairs,
    learn_taste,
    openings_needed,
    ratings_on_own_scale,
    score_by_text,
    shift,
    simulate_judging,
    taste_items,
    utilities,
    win_rate,
)

ROOT = Path(__file__).parent.parent


# --- the interval -----------------------------------------------------------------------------------------------


def test_the_interval_of_ten_in_twenty_by_hand() -> None:
    # z^2 = 3.8415; middle 1/2; reach 1.96 / 1.19207 * sqrt(0.25 / 20 + 3.8415 / 1600) = 0.2007
    rate, low, high = win_rate(10, 10, 0)
    assert rate == 0.5
    assert (low, high) == (pytest.approx(0.2993, abs=1e-4), pytest.approx(0.7007, abs=1e-4))


def test_the_interval_of_ten_in_ten_ends_at_one_and_begins_at_n_by_n_plus_z_squared() -> None:
    rate, low, high = win_rate(10, 0, 0)
    assert (rate, high) == (1.0, pytest.approx(1.0))
    assert low == pytest.approx(10 / 13.8415, abs=1e-5)


def test_a_tie_is_half_a_win() -> None:
    assert win_rate(11, 5, 4) == win_rate(13, 7, 0)
    assert win_rate(0, 0, 3).rate == 0.5


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 50))
def test_the_interval_holds_the_rate_keeps_within_0_and_1_and_mirrors(wins: int, losses: int, ties: int) -> None:
    rate, low, high = win_rate(wins, losses, ties)
    assert 0 <= low < rate < high <= 1
    mirrored = win_rate(losses, wins, ties)
    assert mirrored == pytest.approx((1 - rate, 1 - high, 1 - low))


@pytest.mark.parametrize("counts", [(0, 0, 0), (-1, 3, 0), (2, 0, -1)])
def test_no_pairs_no_interval(counts: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="judge at least one pair"):
        win_rate(*counts)


# --- how long an exam is ----------------------------------------------------------------------------------------


def test_the_openings_that_an_exam_needs_by_hand() -> None:
    # a gap of 2 errors needs hardly fewer than the 9 openings that there are; half of it, four times as many
    assert openings_needed(Measured(0.0, 0.1), 9, 0.2) == 9
    assert openings_needed(Measured(0.0, 0.1), 9, 0.1) == 35  # 9 * 1.959964^2 = 34.6
    assert openings_needed(Measured(-0.5, 0.1), 9, -0.2) == 9  # 0.196^2 / 0.2^2 = 0.9604, times 9 is 8.64


def test_no_exam_is_long_enough_for_a_gap_of_nothing() -> None:
    with pytest.raises(InputError, match="endless exam"):
        openings_needed(Measured(0.1, 0.1), 9, 0.0)


# --- blind pairs ------------------------------------------------------------------------------------------------

PROMPTS = [f"Opening {i}." for i in range(40)]
BEFORE, AFTER = ([f"{when} {i}." for i in range(40)] for when in ("Before", "After"))


def prefers(word: str) -> Any:
    """A judge who puts whatever begins with the word first, and ties texts that are alike."""
    def judge(prompt: str, shown: Sequence[str]) -> list[list[int]]:
        best = [i for i, text in enumerate(shown) if text.startswith(word)]
        rest = [i for i in range(len(shown)) if i not in best]
        return [group for group in (best, rest) if group]
    return judge


def submit_all(session: RankingSession, judge: Any) -> list[Ranking]:
    while item := session.current:
        session.submit(judge(item.prompt, item.shown))
    return session.records


def test_blind_pairs_hold_both_endings_in_a_shuffled_order_that_the_seed_repeats() -> None:
    test = blind_pairs(PROMPTS, BEFORE, AFTER, seed=1)
    assert [prompt for prompt, _ in test.items] == PROMPTS
    assert all(sorted(pair) == sorted(told) for (_, pair), told in zip(test.items, map(list, zip(BEFORE, AFTER,
               strict=True)), strict=True))
    after_first = sum(pair[0].startswith("After") for _, pair in test.items)
    assert 10 <= after_first <= 30
    assert test.items == blind_pairs(PROMPTS, BEFORE, AFTER, seed=1).items
    assert test.items != blind_pairs(PROMPTS, BEFORE, AFTER, seed=2).items


def test_printing_a_blind_test_does_not_open_the_envelope() -> None:
    test = blind_pairs(PROMPTS[:1], ["She sang."], ["He slept."], seed=0)
    assert "after=" not in repr(test)


@pytest.mark.parametrize("seed", range(3))
def test_who_wins_does_not_depend_on_where_it_stood(seed: int) -> None:
    test = blind_pairs(PROMPTS, BEFORE, AFTER, seed)
    assert test.outcome(submit_all(RankingSession(test.items, "Ada", seed=seed), prefers("After"))) == (40, 0, 0)
    assert test.outcome(submit_all(RankingSession(test.items, "Tom", seed=seed), prefers("Before"))) == (0, 40, 0)


def test_outcome_heeds_undo_leaves_out_skips_and_counts_equal_texts_as_ties(tmp_path: Path) -> None:
    test = blind_pairs(PROMPTS[:5], BEFORE[:5], [*AFTER[:4], BEFORE[4]], seed=0)
    store = RankingStore(tmp_path, "Ada")
    session = RankingSession(test.items, "Ada", store, seed=0)
    assert session.current is not None
    session.submit(prefers("Before")("", session.current.shown))
    session.undo()
    session.submit(prefers("After")("", session.current.shown))  # 0: a win after all
    session.skip()  # 1
    session.submit([[0, 1]])  # 2: a tie
    session.submit(prefers("Before")("", session.current.shown))  # 3: a loss
    session.submit([[0], [1]])  # 4: the same text twice, whatever is said of it
    assert test.outcome(store.records()) == Outcome(wins=1, losses=1, ties=2)


def test_outcome_is_about_these_pairs_only() -> None:
    test = blind_pairs(PROMPTS[:2], BEFORE[:2], AFTER[:2], seed=0)
    others = submit_all(RankingSession([(PROMPTS[0], ["One.", "Two."]), (PROMPTS[5], ["One.", "Two."])], "Ada"),
                        prefers("One"))
    assert test.outcome(others) == (0, 0, 0)


def test_verdicts_name_the_side_for_each_opening_and_are_of_one_annotator() -> None:
    test = blind_pairs(PROMPTS[:3], BEFORE[:3], AFTER[:3], seed=0)
    mine = submit_all(RankingSession(test.items[:2], "Ada"), prefers("Before"))
    mine[1] = replace(mine[1], ranking=[[0, 1]])
    assert test.verdicts(mine) == {PROMPTS[0]: "before", PROMPTS[1]: "neither"}
    theirs = submit_all(RankingSession(test.items, "Tom"), prefers("After"))
    with pytest.raises(InputError, match="judged by Ada, Tom: give the records of one annotator"):
        test.outcome(mine + theirs)


def test_a_prompt_that_comes_twice_is_refused() -> None:
    with pytest.raises(InputError, match="of 2 prompts only 1 differ"):
        blind_pairs(["A.", "A."], ["b", "c"], ["d", "e"], seed=0)


def test_a_pair_is_asked_again_after_a_restart_only_if_it_was_not_judged(tmp_path: Path) -> None:
    test: BlindTest = blind_pairs(PROMPTS[:3], BEFORE[:3], AFTER[:3], seed=0)
    first = RankingSession(test.items, "Ada", RankingStore(tmp_path, "Ada"))
    first.submit([[0], [1]])
    again = RankingSession(test.items, "Ada", RankingStore(tmp_path, "Ada"))
    assert again.progress == (1, 3)


# --- simulated tastes -------------------------------------------------------------------------------------------


def example_stories(count: int) -> tuple[list[str], list[str]]:
    pairs = [tales.write(seed) for seed in range(count)]
    return [opening for opening, _ in pairs], [ending for _, ending in pairs]


def test_simulated_tastes_say_so_in_their_names_and_sit_on_no_panel() -> None:
    names = [annotator.name for annotator in SIMULATED_TASTES.values()]
    assert all(name.startswith("simulated-") for name in names)
    assert not set(names) & {annotator.name for annotator in tales.PANEL}


@pytest.mark.parametrize("name", SIMULATED_TASTES)
def test_a_taste_differs_clearly_from_the_panels(name: str) -> None:
    openings, endings = example_stories(400)
    own = utilities(SIMULATED_TASTES[name], openings, endings)
    gold = torch.tensor([tales.gold_reward(*pair) for pair in zip(openings, endings, strict=True)])
    assert torch.corrcoef(torch.stack([own, gold.double()]))[0, 1] < 0.6
    assert own.std() > 0.6  # more than the noise of an annotator


def test_utilities_are_the_annotators_own() -> None:
    openings, endings = example_stories(3)
    taste = SIMULATED_TASTES["gloomy"]
    assert utilities(taste, openings, endings).tolist() == [
        taste.utility(*pair) for pair in zip(openings, endings, strict=True)]


def test_shift_by_hand() -> None:
    before, after = torch.tensor([1.0, 3.0]), torch.tensor([4.0, 4.0, 4.0])
    assert shift(before, after) == pytest.approx(2 / math.sqrt(2))  # means 2 and 4, unbiased deviation sqrt 2


def test_shift_has_no_unit_where_nothing_varies() -> None:
    with pytest.raises(InputError, match="are all equal"):
        shift(torch.ones(3), torch.zeros(3))


def test_own_marks_by_hand() -> None:
    # half a standard deviation of 2 is 1: 10 is usual and gets 4, 11 gets 5, what is far off the ends of the scale
    assert ratings_on_own_scale([10.0, 11.0, 9.0, 12.9, 99.0, -99.0], mean=10.0, deviation=2.0) == [4, 5, 3, 7, 7, 1]


def items_of_tales(count: int) -> list[tuple[str, list[str]]]:
    openings, endings = example_stories(count)
    return [(opening, [endings[i], endings[i - 1], endings[i - 2]]) for i, opening in enumerate(openings)]


def test_a_simulated_taste_ranks_and_rates_with_the_same_impressions() -> None:
    taste, items = SIMULATED_TASTES["gloomy"], items_of_tales(12)
    ranked = simulate_judging(RankingSession(items, taste.name, simulated=True), taste, seed=3)
    rated = simulate_judging(RankingSession(items, taste.name, simulated=True), taste, seed=3, scale=(0.0, 1.0))
    assert {record.kind for record in ranked} == {"ranking"}
    assert {record.kind for record in rated} == {"rating"}
    orders = set(to_pairs(ranked))
    assert orders
    assert not orders & {(prompt, rejected, chosen) for prompt, chosen, rejected in to_pairs(rated)}


def test_a_simulated_taste_repeats_itself_and_writes_into_the_store(tmp_path: Path) -> None:
    taste, items = SIMULATED_TASTES["stern"], items_of_tales(5)
    store = RankingStore(tmp_path, taste.name)
    first = simulate_judging(RankingSession(items, taste.name, store, simulated=True), taste, scale=(0.5, 1.0))
    again = simulate_judging(RankingSession(items, taste.name, simulated=True), taste, scale=(0.5, 1.0))
    assert [record.ratings for record in first] == [record.ratings for record in again]
    assert store.records() == first
    assert simulate_judging(RankingSession(items, taste.name, store, simulated=True), taste) == []  # nothing is left


def test_items_have_different_endings_and_each_opening_once(tiny_model: Any, tiny_tokenizer: Any,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    told = ["a", "b", "a", "c", "d", "e", "x", "x", "x", "x", "x", "x", "y", "y", "z", "y", "y", "y"]
    written = Samples([], told, [], [], torch.zeros(0), torch.zeros(0))
    monkeypatch.setattr("rlhf_mini.teaching.taste.sample_endings", lambda *_, **__: written)
    items = taste_items(tiny_model, tiny_tokenizer, OPENINGS[:3], each=4)
    assert items == [(OPENINGS[0], ["a", "b", "c", "d"]), (OPENINGS[2], ["y", "z"])]


def test_items_depend_on_the_seed_only(tiny_model: Any, tiny_tokenizer: Any) -> None:
    first, again, other = (taste_items(tiny_model, tiny_tokenizer, ["Mia ran."], each=2, seed=seed)
                           for seed in (0, 0, 1))
    assert first == again != other


# --- learning ---------------------------------------------------------------------------------------------------


@pytest.fixture
def panels(tiny_model: Any, tiny_tokenizer: Any) -> tuple[Any, Any]:
    """Stands for the panel's reward model: a random one."""
    return reward_model_from(tiny_model, tiny_tokenizer, seed=0)


def test_a_taste_is_learnt_normalised_and_the_panels_model_stays_as_it_was(panels: tuple[Any, Any]) -> None:
    model, tokenizer = panels
    items = [(opening, ENDINGS) for opening in OPENINGS]
    records = submit_all(RankingSession(items, "Ada"), prefers("He "))
    prompts, endings = [opening for opening in OPENINGS for _ in ENDINGS], ENDINGS * len(OPENINGS)
    old = {name: value.clone() for name, value in model.state_dict().items()}
    mine = learn_taste(model, tokenizer, records, prompts, endings,
                       RewardConfig(epochs=40, batch_size=5, learning_rate=0.3, dropout=0.0))
    assert pair_accuracy(mine, tokenizer, to_pairs(records))[0] == 1.0
    scores = score_texts(mine, tokenizer, prompts, endings)
    assert scores.mean().abs() < 1e-4
    assert scores.std() == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(old[name], value) for name, value in model.state_dict().items())
    moved = {name for name, value in mine.state_dict().items() if not torch.equal(old[name], value)}
    assert moved == {"score.weight", "transformer.ln_f.bias"}  # the head, and the shift that normalising folds in


def test_what_was_undone_or_skipped_is_not_learnt(panels: tuple[Any, Any]) -> None:
    model, tokenizer = panels
    session = RankingSession([(OPENINGS[0], ENDINGS[:2])], "Ada")
    session.submit([[0], [1]])
    session.undo()
    session.skip()
    with pytest.raises(InputError, match="prefers anything"):
        learn_taste(model, tokenizer, session.records, OPENINGS, ENDINGS)


def sampled(model: Any, tokenizer: Any, length: int = 6) -> Any:
    return sample(model, encode_prompts(tokenizer, OPENINGS), max_new_tokens=length, temperature=1.0,
                  eos_id=tokenizer.eos_token_id, pad_id=pad_id(tokenizer), generator=torch.Generator().manual_seed(0))


def test_a_score_by_text_is_that_of_prompt_ending_and_eos_where_it_ended(panels: tuple[Any, Any],
                                                                         foreign: tuple[Any, Any]) -> None:
    model, tokenizer = panels
    policy, foreign_tokenizer = foreign
    rollout = sampled(policy, foreign_tokenizer)
    found = score_by_text(model, tokenizer, foreign_tokenizer)(rollout)
    endings = [foreign_tokenizer.decode(row[live & (row != foreign_tokenizer.eos_token_id)]).removeprefix(" ")
               for row, live in zip(rollout.tokens, rollout.mask, strict=True)]
    assert torch.allclose(found, score_texts(model, tokenizer, OPENINGS, endings, rollout.ended.tolist()), atol=1e-5)


def test_a_score_by_text_is_that_of_the_tokens_where_a_tokenizer_would_choose_the_same(panels: tuple[Any, Any]) -> None:
    model, tokenizer = panels
    ended = [True, False, True, True, False]
    rows = encode_endings(tokenizer, ENDINGS, ended)
    tokens, lengths = pad_right(rows, tokenizer.pad_token_id), torch.tensor([len(row) for row in rows])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    nothing = torch.zeros(tokens.shape)
    prompts = tuple(map(tuple, encode_prompts(tokenizer, OPENINGS)))
    rollout = Rollout(prompts, tokens, mask, nothing, nothing[..., None], nothing, torch.tensor(ended))
    assert torch.allclose(score_by_text(model, tokenizer, tokenizer)(rollout),
                          score_rollout(model, rollout), atol=1e-5)


def test_a_text_longer_than_the_context_is_judged_by_its_beginning(panels: tuple[Any, Any], tiny_model: Any) -> None:
    model, tokenizer = panels
    rollout = sampled(tiny_model, tokenizer, length=70)
    model.config.n_positions = model.config.max_position_embeddings = 20
    assert torch.isfinite(score_by_text(model, tokenizer, tokenizer)(rollout)).all()


# --- the recording ----------------------------------------------------------------------------------------------

QUICK = recorded.Settings(judged=6, exam=3, normalise_on=16, samples=16, pairs=4, prompts=16, demonstrations=64,
                          fit=replace(TASTE_FIT, epochs=1), ppo=PPOConfig(iterations=1, episodes=8),
                          other=SFTConfig(steps=2))


def test_the_cases_are_each_taste_in_each_seed_its_control_and_another_checkpoint() -> None:
    cases = recorded.cases(["stern", "gloomy"], [0, 1])
    both = ("stern", "gloomy")
    assert [(case.tastes, case.seed, case.judged, case.checkpoint) for case in cases.values()] == [
        (("stern",), 0, "rankings", "run"), (("stern",), 1, "rankings", "run"),
        (("gloomy",), 0, "rankings", "run"), (("gloomy",), 1, "rankings", "run"),
        (both, 0, "nothing, turned", "run"), (both, 1, "nothing, turned", "run"),
        (("stern",), 0, "rankings", "small GPT-2")]
    assert list(cases)[-1] == "stern-0-rankings-small-GPT-2"


@pytest.fixture(scope="module")
def run() -> FinishedRun:
    return FinishedRun.open(ROOT / "assets" / "run-3")


def test_every_case_is_recorded_from_judgements_to_blind_pairs(run: FinishedRun, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    # after two steps from nothing all endings are equally bad, which has no standard deviation
    monkeypatch.setattr(recorded, "storyteller_from_nothing", lambda _: run.sft)
    parts = {part: recorded.make(case, run, QUICK) for part, case in recorded.cases(["bittersweet"], [0]).items()}
    recorded.gather(parts, run, QUICK, tmp_path / "taste.json")
    found = json.loads((tmp_path / "taste.json").read_text())
    assert found["run"] == 3 and found["settings"]["ppo"]["iterations"] == 1
    assert [(row["judged"], row["checkpoint"]) for row in found["results"]] == [
        ("rankings", "run"), ("nothing, turned", "run"), ("rankings", "small GPT-2")]
    for row in found["results"]:
        assert row["wins"] + row["losses"] + row["ties"] == 4
        assert row["low"] < row["rate"] < row["high"]
        assert row["shift"] == pytest.approx((row["mean_after"] - row["mean_before"]) / row["sd_before"], abs=1e-3)
        assert ("exam" in row) == (not row["judged"].startswith("nothing"))


def test_the_exam_of_the_panels_model_turned_is_what_its_own_leaves(run: FinishedRun) -> None:
    annotator = SIMULATED_TASTES["gloomy"]
    pairs = to_pairs(recorded.judgements(run.sft, annotator, 0, QUICK))
    found = recorded.exam(run.reward_model, run.reward_model, pairs)
    assert found["learnt"]["value"] + found["turned"]["value"] == pytest.approx(1)
    assert found["more"]["value"] == pytest.approx(found["learnt"]["value"] - found["turned"]["value"])
    assert found["learnt"]["value"] == pytest.approx(run.reward_model.accuracy(pairs))


def test_a_control_is_one_policy_that_follows_the_turned_scores_measured_with_each_taste(
        run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = []

    def stay(writer: Any, score: Any, *_: Any) -> Any:
        followed.append(score)
        return writer

    monkeypatch.setattr(recorded, "follow", stay)
    case = recorded.Case(("bittersweet", "gloomy"), 0, recorded.TURNED, "run")
    rows = recorded.make(case, run, QUICK)
    assert [row["taste"] for row in rows] == ["bittersweet", "gloomy"]
    panels = run.reward_model
    rollout = sampled(run.sft.model, run.sft.tokenizer)
    read = score_by_text(panels.model, panels.tokenizer, run.sft.tokenizer)
    assert len(followed) == 1 and torch.equal(followed[0](rollout), -read(rollout))


def test_the_other_checkpoint_is_a_gpt2_of_another_shape_with_another_vocabulary() -> None:
    other = recorded.storyteller_from_nothing(QUICK)
    assert other.model.config.n_embd == recorded.SMALL["n_embd"]
    assert len(other.tokenizer) == 1200
