"""What a check returns, functions that are kept for later notebooks, checks of plain answers, and predictions."""

from __future__ import annotations

import json
import linecache
from pathlib import Path
from typing import Any

import pytest

from rlhf_mini import checks, kl
from rlhf_mini.checks.keep import IGNORED, keep, kept
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.teaching.predictions import predict

RIGHT = "def my_k3(logp, logp_ref):\n    r = (logp_ref - logp).exp()\n    return r - 1 - r.log()\n"


@pytest.fixture(autouse=True)
def a_student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IGNORED, raising=False)


def typed(source: str, name: str, **names: Any) -> Any:
    """A function as a notebook's cell defines it: its source can be found, and it sees the notebook's names."""
    file = f"<cell of {name} {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), names)
    return names[name]


# --- results ----------------------------------------------------------------------------------------------------


def test_a_result_prints_as_one_line_and_counts_points() -> None:
    right = checks.check_k3(typed(RIGHT, "my_k3"))
    assert str(right).startswith("k3: correct.") and right.points == 2 and right.reasons == ()
    wrong = checks.check_k3(lambda logp, logp_ref: logp - logp_ref)
    assert wrong.points == 0 and wrong.to_dict()["reasons"] == [wrong.line]
    assert json.dumps(right.to_dict()) == '{"exercise": "k3", "points": 2, "of": 2, "reasons": []}'


def test_right_on_ordinary_numbers_only_is_worth_one_point() -> None:
    whole = checks.check_whiten(lambda x, mask: kl.masked_whiten(x, mask) + 7.0 * ~mask)
    assert whole.points == 1 and "masked slot" in whole.line


# --- keep -------------------------------------------------------------------------------------------------------


def test_an_accepted_function_is_kept_and_found_again(tmp_path: Path) -> None:
    result = keep(checks.check_k3(typed(RIGHT, "my_k3")), checks.check_k3, tmp_path)
    assert result.points == 2 and "Kept in " in str(result)
    assert checks.check_k3(kept(tmp_path)["my_k3"]).points == 2


@pytest.mark.parametrize("source", ["def my_k3(logp, logp_ref):\n    ...\n",
                                    "def my_k3(logp, logp_ref):\n    return logp\n"])
def test_what_is_not_right_is_not_kept(tmp_path: Path, source: str) -> None:
    assert keep(checks.check_k3(typed(source, "my_k3")), checks.check_k3, tmp_path).points == 0
    assert kept(tmp_path) == {}


def test_an_earlier_version_is_renamed_and_a_later_failure_changes_nothing(tmp_path: Path) -> None:
    other = RIGHT.replace("r = ", "# another way\n    r = ")
    for source in (RIGHT, RIGHT, other, "def my_k3(logp, logp_ref):\n    return logp\n"):
        keep(checks.check_k3(typed(source, "my_k3")), checks.check_k3, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_k3.1.py", "my_k3.py"]
    assert "another way" in (tmp_path / "my_k3.py").read_text()
    assert list(kept(tmp_path)) == ["my_k3"]


def test_a_function_that_leans_on_its_notebook_is_not_kept_and_told_why(tmp_path: Path) -> None:
    leaning = typed("def my_k3(logp, logp_ref):\n    return helper(logp, logp_ref)\n", "my_k3",
                    helper=lambda logp, logp_ref: kl.estimate(logp, logp_ref, "k3"))
    result = keep(checks.check_k3(leaning), checks.check_k3, tmp_path)
    assert "not kept" in str(result) and "helper" in str(result) and kept(tmp_path) == {}


def test_kept_functions_may_call_one_another(tmp_path: Path) -> None:
    (tmp_path / "my_double.py").write_text("def my_double(x):\n    return 2 * x\n")
    (tmp_path / "my_again.py").write_text("def my_again(x):\n    return my_double(my_double(x))\n")
    assert kept(tmp_path)["my_again"](3) == 12


def test_a_student_s_functions_are_left_out_where_notebooks_are_compared(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    keep(checks.check_k3(typed(RIGHT, "my_k3")), checks.check_k3, tmp_path)
    monkeypatch.setenv(IGNORED, "1")
    assert kept(tmp_path) == {}
    assert "Kept" not in str(keep(checks.check_k3(typed(RIGHT, "my_k3")), checks.check_k3, tmp_path))


# --- plain answers ----------------------------------------------------------------------------------------------


def reversed_order(words: list[str]) -> list[str]:
    """the order is turned round"""
    return words[::-1]


WORDS = PlainExercise("words", lambda words: sorted(words), (reversed_order,),
                      {"three words": {"words": ["b", "c", "a"]}})


def test_a_plain_answer_is_right_wrong_a_known_mistake_or_not_there() -> None:
    said = {name: str(check_plain(WORDS, function)) for name, function in {
        "right": lambda words: tuple(sorted(words)), "known": lambda words: words[::-1], "unknown": lambda words: [],
        "stub": lambda words: ..., "broken": lambda words: words[7], "in place": lambda words: words.sort() or words,
        "no function": 7}.items()}
    assert said["right"] == "words: correct. It agrees with the package on all 1 cases."
    assert said["known"].startswith("words: the order is turned round. Three words: found ['a', 'c', 'b'], expected")
    assert "nor one of the usual mistakes" in said["unknown"]
    assert said["stub"] == "words: not attempted yet"
    assert "IndexError" in said["broken"] and "in place" in said["in place"]
    assert "without calling" in said["no function"]


# --- predictions ------------------------------------------------------------------------------------------------


def test_a_prediction_is_kept_until_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    guess = predict("How many nats?")
    guess.beside(2.5)
    guess.field.value = " 3 "
    guess.beside(2.5)
    assert capsys.readouterr().out.splitlines() == ["How many nats? You said: no prediction. Found: 2.5",
                                                    "How many nats? You said: 3. Found: 2.5"]
    assert guess._repr_mimebundle_()["text/plain"] == "Predict: How many nats? [          ]"
