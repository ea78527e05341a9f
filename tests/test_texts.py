"""Texts and lists as callers give them, and foreign text as messages show it."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from rlhf_mini.errors import InputError, shown, visible
from rlhf_mini.texts import listed, texts, whole_numbers

DATASET = Dataset.from_dict({"prompt": ["a", "b"]})
FRAME = DATASET.to_pandas()


@pytest.mark.parametrize("values", [
    ["a", "b"], ("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object), FRAME["prompt"], DATASET["prompt"],
    (letter for letter in "ab"), {"x": "a", "y": "b"}.values(), {"a": 1, "b": 2}.keys(), iter("ab")])
def test_a_list_of_texts_in_any_form_is_taken(values: Any) -> None:
    found = texts("prompts", values)
    assert found == ["a", "b"] and all(type(entry) is str for entry in found)


@pytest.mark.parametrize("values, told", [
    ("abc", "prompts is one text, 'abc': give a list of texts"),
    (np.str_("abc"), "prompts is one text, 'abc': give a list of texts"),
    (b"abc", "prompts is bytes, b'abc'"), ({"b", "a"}, "prompts is a set, which has no order"),
    ({"sft": "a"}, "prompts is a dict with the keys 'sft'"),
    (DatasetDict(train=DATASET), "prompts is a dict with the keys 'train'"),
    (FRAME, "prompts is a table with the columns 'prompt'"),
    (DATASET, "prompts[0] is {'prompt': 'a'}: give a text"),
    (None, "prompts is None"), (3, "prompts is 3"), (np.array("abc"), "prompts is array('abc'"),
    (["a", None], "prompts[1] is None: give a text"), (["a", float("nan")], "prompts[1] is nan"),
    (["a", b"b"], "prompts[1] is b'b'"), ([["a"]], "prompts[0] is ['a']"), (np.array([["a"]]), "prompts[0] is array"),
    (["x" * 10_000, 1], "prompts[1] is 1"), ("x" * 10_000, "prompts is one text, 'xxx"),
])
def test_what_is_no_list_of_texts_is_named_in_one_line(values: Any, told: str) -> None:
    with pytest.raises(InputError) as error:
        texts("prompts", values)
    assert str(error.value).startswith(told) and "\n" not in str(error.value) and len(str(error.value)) < 160


def test_an_error_within_a_generator_is_not_hidden() -> None:
    def broken() -> Any:
        yield "a"
        raise TypeError("mine")

    with pytest.raises(TypeError, match="mine"):
        listed("prompts", broken(), "a list")


def test_whole_numbers_become_ints_and_nothing_else_does() -> None:
    taken = whole_numbers([1, 2.0, np.int64(3), np.float32(4), 10**400])
    assert taken == [1, 2, 3, 4, 10**400] and all(type(number) is int for number in taken)
    odd = [True, 1.5, "2", None, float("inf"), np.bool_(True)]
    assert all(kept is given for kept, given in zip(whole_numbers(odd), odd, strict=True))


@pytest.mark.parametrize("name", [
    "Ada", "小明", "山田\u3000太郎", "Ольга", "علي", "می\u200cخواهم", "क्\u200dष", "José", "e\u0301",
    "👩🏽\u200d💻", "❤\ufe0f\u200d🔥",
    "葛\U000e0100", "O'Brien — «x»"])
def test_names_in_any_script_stay_readable(name: str) -> None:
    assert visible(name) == name and name.replace("'", "\\'") in shown(name)


@pytest.mark.parametrize("hidden, escape", [
    ("\x1b", r"\x1b"), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t"), ("\x9b", r"\x9b"), ("\x85", r"\x85"),
    ("\x7f", r"\x7f"), ("\u2028", r"\u2028"), ("\u2029", r"\u2029"), ("\u202e", r"\u202e"), ("\u2066", r"\u2066"),
    ("\u2069", r"\u2069"), ("\u200b", r"\u200b"), ("\u200d", r"\u200d"), ("\u200f", r"\u200f"),
    ("\ufeff", r"\ufeff"), ("\u3164", r"\u3164"), ("\ud83d", r"\ud83d"), ("\U000e0041", r"\U000e0041")])
def test_what_acts_on_a_terminal_or_hides_is_escaped(hidden: str, escape: str) -> None:
    assert visible(f"Ada{hidden}B") == f"Ada{escape}B"
    assert shown(f"Ada{hidden}B") == f"'Ada{escape}B'"
    assert str(InputError(f"{hidden}: give a name")) == f"{escape}: give a name"


@given(st.text())
def test_shown_text_is_one_line_that_can_be_written(text: str) -> None:
    for found in (visible(text), shown(text), shown([text])):
        assert len(found.splitlines()) <= 1 and isinstance(found.encode(), bytes)
        assert not any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") for letter in found)
