"""Functions that take texts or rows of tokens say in one line what else they were given; nothing is taken by letter."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from rlhf_mini import plots, tales
from rlhf_mini.config import RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import sample_endings
from rlhf_mini.given import text_stream
from rlhf_mini.language_model import encode, encode_endings, encode_prompts
from rlhf_mini.metrics import judge_tales, reward_model_metrics, tales_means
from rlhf_mini.pretrain import PretrainConfig, train_lm, train_tokenizer
from rlhf_mini.reward import fit_reward, pair_accuracy
from rlhf_mini.reward_model import normalise, reward_model_from, score_texts, score_tokens, token_rows
from rlhf_mini.run.settings import fits_context
from rlhf_mini.run.tasks import ask_panel
from rlhf_mini.sft import mean_loss, train_sft
from rlhf_mini.teaching import taste
from rlhf_mini.teaching.overoptimisation import measuring

TWO = ["Tom ran.", "Mia sat."]
FRAME = Dataset.from_dict({"prompt": TWO, "chosen": TWO}).to_pandas()
NO_LIST = {"one text": "Tom ran.", "a dict": {"prompt": "Tom ran."}, "a table": FRAME, "bytes": b"Tom", "None": None,
           "a number": 3, "a set": {"Tom ran."}, "no text in it": ["Tom ran.", None], "a list in it": [["Tom"], "b"]}
RNG = random.Random(0)
ANN = tales.PANEL[0]

Call = Callable[[Any, Any, Any], Any]  # model, tokenizer, what is given


@pytest.fixture(scope="module")
def tiny_model(_tiny_model: Any) -> Any:
    """One copy for all tests of this file: what is refused changes nothing."""
    return copy.deepcopy(_tiny_model)


reward_model = functools.cache(lambda model, tokenizer: reward_model_from(model, tokenizer, 0))


def generate(model: Any, tokenizer: Any, prompts: Any) -> Any:
    return sample_endings(model, tokenizer, prompts, max_new_tokens=2, temperature=1.0, seed=0)


def fit(model: Any, tokenizer: Any, examples: Any) -> Any:
    return list(fit_reward(*reward_model(model, tokenizer), examples, RewardConfig(epochs=1)))


def on_rewards(function: Callable[..., Any], *order: int) -> Call:
    """The function on a reward model, with what is given as its first or second list of texts."""
    def call(model: Any, tokenizer: Any, given: Any) -> Any:
        lists = [[given, TWO][i] for i in order]
        return function(*reward_model(model, tokenizer), *lists)

    return call


OF_TEXTS: dict[str, Call] = {
    "encode": lambda m, t, given: encode(t, given),
    "encode_prompts": lambda m, t, given: encode_prompts(t, given),
    "encode_endings": lambda m, t, given: encode_endings(t, given),
    "sample_endings": generate,
    "score_texts, prompts": on_rewards(score_texts, 0, 1), "score_texts, endings": on_rewards(score_texts, 1, 0),
    "token_rows, prompts": on_rewards(token_rows, 0, 1), "token_rows, endings": on_rewards(token_rows, 1, 0),
    "normalise, prompts": on_rewards(normalise, 0, 1), "normalise, endings": on_rewards(normalise, 1, 0),
    "judge_tales, prompts": lambda m, t, given: judge_tales(given, TWO),
    "judge_tales, endings": lambda m, t, given: judge_tales(TWO, given),
    "tales_means": lambda m, t, given: tales_means(given, given, True),
    "fits_context": lambda m, t, given: fits_context(m, t, given, given),
    "train_tokenizer": lambda m, t, given: train_tokenizer(given, 300),
    "impressions": lambda m, t, given: ANN.impressions("Tom ran.", given, RNG),
    "rank": lambda m, t, given: ANN.rank("Tom ran.", given, RNG),
    "rate": lambda m, t, given: ANN.rate("Tom ran.", given, RNG),
    "taste_items": lambda m, t, given: taste.taste_items(m, t, given),
    "utilities, prompts": lambda m, t, given: taste.utilities(ANN, given, TWO),
    "utilities, endings": lambda m, t, given: taste.utilities(ANN, TWO, given),
    "blind_pairs, prompts": lambda m, t, given: taste.blind_pairs(given, TWO, TWO, 0),
    "blind_pairs, before": lambda m, t, given: taste.blind_pairs(TWO, given, TWO, 0),
    "blind_pairs, after": lambda m, t, given: taste.blind_pairs(TWO, TWO, given, 0),
    "overused, after": lambda m, t, given: measuring.overused(given, TWO),
    "overused, before": lambda m, t, given: measuring.overused(TWO, given),
    "overview": lambda m, t, given: plots.overview([], given)}
OF_TUPLES: dict[str, Call] = {
    "train_sft": lambda m, t, given: list(train_sft(m, t, given, SFTConfig(steps=1))),
    "mean_loss": mean_loss,
    "pair_accuracy": on_rewards(pair_accuracy, 0),
    "reward_model_metrics": lambda m, t, given: reward_model_metrics(m, t, given, scale=1.0, panel=False),
    "fit_reward": fit}


def line_of(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    return str(caught.value)


@pytest.mark.parametrize("given", NO_LIST)
@pytest.mark.parametrize("name", OF_TEXTS)
def test_what_is_no_list_of_texts_is_refused_in_one_line(name: str, given: str, tiny_model: Any,
                                                         tiny_tokenizer: Any) -> None:
    line = line_of(lambda: OF_TEXTS[name](tiny_model, tiny_tokenizer, NO_LIST[given]))
    assert "give a" in line


@pytest.mark.parametrize("given", [*NO_LIST.values(), [("a", "b", "c", "d")], [("a",)], [{"prompt": "a"}], [("a", 1)],
                                   [("a", "b", None)], ("Tom ran.", "He won.", "He lost.")])
@pytest.mark.parametrize("name", OF_TUPLES)
def test_what_is_no_list_of_tuples_of_texts_is_refused_in_one_line(name: str, given: Any, tiny_model: Any,
                                                                   tiny_tokenizer: Any) -> None:
    line_of(lambda: OF_TUPLES[name](tiny_model, tiny_tokenizer, given))


@pytest.mark.parametrize("items", ["Tom ran.", {"Tom": ["a", "b"]}, FRAME, None])
def test_items_for_the_panel_are_a_list(items: Any, tmp_path: Path) -> None:
    assert line_of(lambda: ask_panel(items, 1, tmp_path, 0)).startswith("items is")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranking", ["01", None, [0, 1], [[0], [2]], {"a": 1}, [[0]], ["0", "1"], 3])
def test_an_example_without_a_ranking_is_refused_in_one_line(ranking: Any, tiny_model: Any,
                                                             tiny_tokenizer: Any) -> None:
    assert "is not a ranking of 2" in line_of(lambda: fit(tiny_model, tiny_tokenizer, [("Tom", ["a", "b"], ranking)]))


def test_completions_are_not_taken_by_letter(tiny_model: Any, tiny_tokenizer: Any) -> None:
    line = line_of(lambda: fit(tiny_model, tiny_tokenizer, [("Tom", "ab", [[0], [1]])]))
    assert line == "examples[0], completions, is one text, 'ab': give a list of texts"


@pytest.mark.parametrize("form", [list, tuple, iter, np.array, lambda values: Dataset.from_dict({"a": values})["a"],
                                  lambda values: FRAME["prompt"]])
def test_texts_in_any_clear_form_are_the_same_texts(form: Callable[[Any], Any], tiny_model: Any,
                                                    tiny_tokenizer: Any) -> None:
    assert encode(tiny_tokenizer, form(TWO)) == encode(tiny_tokenizer, TWO)
    assert generate(tiny_model, tiny_tokenizer, form(TWO)).endings == generate(tiny_model, tiny_tokenizer, TWO).endings
    assert judge_tales(form(TWO), form(TWO))["gold"].tolist() == judge_tales(TWO, TWO)["gold"].tolist()
    pairs = [["Tom ran.", "He won."], ["Mia sat.", "She ate."]]
    of_arrays = mean_loss(tiny_model, tiny_tokenizer, np.array(pairs))
    assert of_arrays == mean_loss(tiny_model, tiny_tokenizer, map(tuple, pairs))  # type: ignore[arg-type]


def test_lists_of_different_lengths_are_named(tiny_model: Any, tiny_tokenizer: Any) -> None:
    line = line_of(lambda: on_rewards(score_texts, 0, 1)(tiny_model, tiny_tokenizer, ["a"] * 3))
    assert line == "there are 3 prompts, 2 endings: give equally many of each"
    assert "2 endings and 1 of ended" in line_of(lambda: encode_endings(tiny_tokenizer, TWO, [True]))


def test_a_text_that_cannot_be_encoded_is_named(tiny_tokenizer: Any) -> None:
    assert line_of(lambda: encode_prompts(tiny_tokenizer, ["a", "b\ud800"])).startswith("prompts[1] is 'b\\ud800'")


@pytest.mark.parametrize("call", [tales.read, tales.gold_reward, ANN.utility,
                                  lambda a, b: tales.preference_probability(a, b, "c"),
                                  lambda a, b: (tales.is_held_out(a), tales.skeleton(b))])
@pytest.mark.parametrize("given", [None, ["Tom ran."], 3, b"Tom", {"a": "b"}])
def test_a_tale_is_two_texts(call: Callable[[Any, Any], Any], given: Any) -> None:
    assert "opening is" in line_of(lambda: call(given, "He won."))
    assert "give a text" in line_of(lambda: call("Tom ran.", given))


def test_openings_are_of_a_split_that_exists() -> None:
    assert "split is 'test'" in line_of(lambda: tales.openings(1, 0, "test"))


@pytest.mark.parametrize("rows", ["Tom", ["Tom ran."], [[5, 6], []], [5, 6], None, {"a": [5]}])
def test_rows_of_tokens_are_no_texts_and_not_empty(rows: Any, tiny_model: Any, tiny_tokenizer: Any) -> None:
    model, _ = reward_model(tiny_model, tiny_tokenizer)
    assert line_of(lambda: score_tokens(model, rows)).startswith("rows")


@pytest.mark.parametrize("documents", ["Tom", ["Tom ran."], [5, 6], None, {"a": [5]}])
def test_documents_are_rows_of_tokens(documents: Any, tiny_model: Any) -> None:
    assert line_of(lambda: list(train_lm(tiny_model, documents, PretrainConfig(), 0))).startswith("documents")


def test_a_stream_stays_a_stream() -> None:
    def endless() -> Any:
        while True:
            yield "a"

    assert next(text_stream("texts", endless())) == "a"
