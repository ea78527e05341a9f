"""One odd text among many is left out and named; the limits of a run follow from the others."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_mini import rankings
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import encode_prompts
from rlhf_mini.rankings import Ranking
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.settings import adapt_to_model, leave_out, odd_prompts
from rlhf_mini.run.tasks import Task, rankings_task, tales_task

CONTEXT = 96  # of `tiny_model`
CONFIG = RunConfig(samples=8)


class Letters:
    """A tokenizer that makes one token of each letter."""

    eos_token_id = 0

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1] * len(text) for text in texts]}


@pytest.fixture
def letters() -> Any:
    return Letters()


def judged(number: int, prompt: str, completions: Sequence[str] = ("ab", "c"), tied: bool = False) -> Ranking:
    return Ranking(id=str(number), prompt=prompt, completions=list(completions), annotator="Ada",
                   ranking=[[0, 1]] if tied else [[0], [1]])


def many(count: int = 30) -> list[Ranking]:
    return [judged(number, f"Tom wanted {number:2}") for number in range(count)]


def adapted(records: Sequence[Ranking], model: Any, tokenizer: Any, config: RunConfig = CONFIG) -> tuple[int, Task]:
    """The response limit and the task of a run on these rankings."""
    made, task = adapt_to_model(config, model, tokenizer, rankings_task(config, records))
    return made.ppo.max_new_tokens, task


@pytest.mark.parametrize(("odd", "why"), [
    (judged(99, "x" * 91), "its 91 tokens leave 5 of the model's 96 for a response"),
    (judged(99, "x" * 96), "longer with a completion than the model's context of 96 tokens"),
    (judged(99, "x" * 500), "longer with a completion"), (judged(99, ""), "it is empty"),
    (judged(99, "Ben.", ("y" * 200, "c")), "longer with a completion"),
    (judged(99, "half \ud800"), "unpaired surrogate"), (judged(99, "Ben.", ("\udfff", "c")), "unpaired surrogate")])
def test_one_odd_ranking_changes_nothing_for_the_others(odd: Ranking, why: str, tiny_model: Any, letters: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = adapted(many(), tiny_model, letters)
    with pytest.warns(UserWarning, match=r"^1 of 31 rankings are left out, the first with the prompt .*"
                                         rf"\(record 99\).*{why}") as caught:
        assert adapted([*many(), odd], tiny_model, letters) == expected
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


def test_one_long_ending_does_not_set_the_limit(tiny_model: Any, letters: Any) -> None:
    config = replace(CONFIG, ppo=PPOConfig(max_new_tokens=8))
    usual, _ = adapted([judged(i, f"Tom {i:2}", ("y" * 20, "c")) for i in range(40)], tiny_model, letters, config)
    odd = [judged(i, f"Tom {i:2}", ("y" * (80 if i in (7, 8) else 20), "c")) for i in range(40)]
    assert usual == 22 == adapted(odd, tiny_model, letters, config)[0]


def test_what_is_kept_is_checked_again(tiny_model: Any, letters: Any) -> None:
    ties = [judged(number, f"Tom {number}", tied=True) for number in range(30)]
    long = [judged(100 + number, f"Ana {number}", ("y" * 200, "c")) for number in range(25)]
    with pytest.raises(InputError, match=r"25 of 55 rankings are left out.*30 ranked prompts and 0 preferences"):
        adapted([*ties, *long], tiny_model, letters)
    one_prompt = [*(judged(n, "Tom", ("ab", f"c{n}")) for n in range(3)), judged(9, "Ben.", ("y" * 200, "c"))]
    with pytest.raises(InputError, match=r"1 of 4 rankings are left out.*there are 1 ranked prompts"):
        adapted(one_prompt, tiny_model, letters)


def test_too_little_is_refused(tiny_model: Any, letters: Any) -> None:
    with pytest.raises(InputError, match=r"20 of 30 rankings are left out.*give shorter texts, or a base with a"):
        adapted([judged(n, f"Tom {n:2}" + "x" * 90 * (n >= 10)) for n in range(30)], tiny_model, letters)


def test_a_resumed_run_divides_its_copy_in_the_same_way(tiny_model: Any, letters: Any, tmp_path: Path) -> None:
    records = [*many(), judged(40, "x" * 91), judged(41, ""), judged(42, "Ben.", ("y" * 200, "c"))]
    with pytest.warns(UserWarning, match="3 of 33"):
        limit, task = adapted(records, tiny_model, letters)
    rankings.save_rankings(task.judgements, tmp_path / "copy.jsonl")
    again = adapted(rankings.load_rankings(tmp_path / "copy.jsonl"), tiny_model, letters)
    assert again == (limit, task)


def test_long_prompts_that_are_many_are_kept(tiny_model: Any, letters: Any) -> None:
    """They are not odd: then the responses to all are short."""
    records = [judged(n, f"Tom {n:2}" + "x" * 70 * (n % 2)) for n in range(30)]
    with pytest.warns(UserWarning, match="responses are limited to 20 tokens instead of 64"):
        limit, task = adapted(records, tiny_model, letters)
    assert limit == 20 and len(task.judgements) == 30


def test_tales_that_are_odd_are_left_out_and_the_evaluation_keeps_its_size(tiny_model: Any, letters: Any) -> None:
    config = replace(CONFIG, openings=24, demonstrations=50)
    task = replace(tales_task(config), demonstrations=[("Tom", "y" * 9)] * 49 + [("Tom", "y" * 200)])
    short = {prompt: prompt[:30] + str(number) for number, prompt in enumerate(
        dict.fromkeys([*task.prompts, *task.held_out, *task.to_judge]))}
    task = replace(task, prompts=[short[p] for p in task.prompts], held_out=[short[p] for p in task.held_out],
                   to_judge=[short[p] for p in task.to_judge], test_prompts=frozenset(short[p] for p in
                                                                                      task.test_prompts))
    expected = leave_out(config, tiny_model, letters, replace(task, demonstrations=task.demonstrations[:49]))
    odd = replace(task, prompts=[*task.prompts, "x" * 94], held_out=[*task.held_out[:-1], ""])
    with pytest.warns(UserWarning) as caught:
        found = leave_out(config, tiny_model, letters, odd)
    assert [str(w.message).partition(",")[0] for w in caught] == [
        f"2 of {len(short) + 1} prompts are left out", "1 of 50 demonstrations are left out"]
    assert found.prompts == expected.prompts and found.to_judge == expected.to_judge
    assert len(found.held_out) == len(task.held_out) and found.held_out[-1] == found.held_out[0]


lengths = st.lists(st.integers(0, CONTEXT + 20), min_size=1, max_size=40)


@given(lengths)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_rule_keeps_it_keeps_again(tiny_model: Any, lengths: list[int]) -> None:
    prompts = list(dict.fromkeys("x" * n for n in lengths))
    letters: Any = Letters()
    odd = odd_prompts(CONFIG, tiny_model, letters, prompts)
    kept = [prompt for prompt in prompts if prompt not in odd]
    assert not odd_prompts(CONFIG, tiny_model, letters, kept)
    assert all(prompt in odd for prompt in prompts if not 0 < len(prompt) < CONTEXT)
    if kept:
        room = CONTEXT - max(map(len, kept))
        assert all(len(prompt) > CONTEXT - room for prompt in odd if prompt)  # only longer ones are left out
    fitting = [prompt for prompt in prompts if 0 < len(prompt) <= CONTEXT - 32]
    assert not odd_prompts(CONFIG, tiny_model, letters, fitting)  # all leave half of the 64 that are requested


def test_prompts_of_a_run_are_encoded_as_they_stand(tiny_tokenizer: Any, tiny_model: Any) -> None:
    """A prompt that is only a special token's text is text."""
    assert not odd_prompts(CONFIG, tiny_model, tiny_tokenizer, ["<|endoftext|>", "Tom", " "])
    assert all(encode_prompts(tiny_tokenizer, ["<|endoftext|>", " "]))
