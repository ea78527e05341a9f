"""Stored numbers against new ones: the rule by itself, and through `pytest --nbval` with the notebooks' conftest."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from rlhf_mini.teaching.compared import MEASURED, Number, differences, numbers, words

ROOT = Path(__file__).parent.parent
STORED = """what PPO changed over 60 iterations:
                    gold    KL (nats)      coherent
after SFT    +0.00 ± 0.05                97.3 ± 1.0 %
PPO          +1.04 ± 0.04  2.31 ± 0.06   96.1 ± 1.2 %
PPO, free    -0.87 ± 0.09  9.88 ± 0.20   61.0 ± 3.0 %
± is one standard error over 256 endings; the longest was 41 tokens
"""
COUNT = len(numbers(STORED))


def moved(text: str, place: int, errors: float = 0, times: float = 1) -> str:
    """A text with one of its numbers moved by so many of its errors, and its error multiplied."""
    found = list(MEASURED.finditer(text))[place]
    number = numbers(text)[place]
    places = -int(number.value.as_tuple().exponent)
    value, error = float(number.value) + errors * float(number.error), times * float(number.error)
    sign = "+" if found[0].startswith("+") else ""
    new = f"{value:{sign}.{places}f}{found['unit']} ± {error:.{places}f}"
    return text[:found.start()] + new + text[found.end():]


def test_every_number_of_the_table_is_seen() -> None:
    assert COUNT == 8
    assert [str(number.value) for number in numbers(STORED)[1:5]] == ["97.3", "1.04", "2.31", "96.1"]


@pytest.mark.parametrize("place", range(COUNT))
def test_one_error_passes_and_eight_fail(place: int) -> None:
    for errors in (1, -1, 5):
        assert not differences(STORED, moved(STORED, place, errors)), errors
    for errors in (8, -8):
        [line] = differences(STORED, moved(STORED, place, errors))
        assert f"number {place + 1} of {COUNT}" in line and "5.7 combined errors apart (at most 4)" in line


@pytest.mark.parametrize("place", [2, 5])
def test_a_sign_turned_fails(place: int) -> None:
    number = numbers(STORED)[place]
    assert number.errors_from_zero > 6
    assert differences(STORED, moved(STORED, place, -2 * float(number.value / number.error)))


@pytest.mark.parametrize("place", range(COUNT))
def test_an_error_grown_threefold_fails_and_one_grown_by_half_passes(place: int) -> None:
    for times in (3.0, 1 / 3):
        assert "one error is" in differences(STORED, moved(STORED, place, times=times))[0], times
    assert not differences(STORED, moved(STORED, place, times=1.5))


def test_a_word_or_a_plain_number_changed_fails() -> None:
    assert differences(STORED, STORED.replace("coherent", "grammatical"))
    assert differences(STORED, STORED.replace("41 tokens", "42 tokens"))[1:] == [
        "- ± is one standard error over 256 endings; the longest was 41 tokens",
        "+ ± is one standard error over 256 endings; the longest was 42 tokens"]
    assert differences(STORED, STORED.replace("nats", "bits"))
    assert differences(STORED, STORED.replace(" %", ""))
    assert differences(STORED, STORED.replace("\nPPO,", " PPO,"))  # a line break is no blank


def test_an_aligned_table_moves_with_its_numbers() -> None:
    wider = STORED.replace("      coherent", "       coherent").replace("  9.88 ± 0.20", "  10.12 ± 0.20")
    assert wider != STORED and not differences(STORED, wider)
    assert not differences(" 9.9 ± 0.2\n", "10.1 ± 0.2\n")


def test_a_text_without_measured_numbers_is_equal_to_the_letter() -> None:
    assert not differences("a  b 0.83", "a  b 0.83")
    assert differences("a  b 0.83", "a b 0.83") and differences("loss 0.83", "loss 0.84")
    assert differences("clipped at ± 0.2", "clipped at ± 0.3")


@pytest.mark.parametrize(("text", "value", "error"), [
    ("gain +0.83 ± 0.05", "0.83", "0.05"), ("gain=-0.83 ± 0.05", "-0.83", "0.05"), ("(−0.83 ± 0.05)", "-0.83", "0.05"),
    ("83% ± 3%", "83", "3"), ("83.1 % ± 0.9 %", "83.1", "0.9"), ("83.1 ± 0.9 %", "83.1", "0.9"),
    ("0.3 nats ± 0.1", "0.3", "0.1"), ("12,345 ± 67", "12345", "67"), ("1.2e-05 ± 3e-06", "0.000012", "0.000003"),
    ("<td>0.83&nbsp;</td><td>0.83 &plusmn; 0.05</td>", "0.83", "0.05"), ("1-3 ± 0.2", "3", "0.2"),
    ("0.83\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.05", "0.83", "0.05")])
def test_how_numbers_may_be_written(text: str, value: str, error: str) -> None:
    [found] = numbers(text)
    assert (f"{found.value:f}", f"{found.error:f}") == (value, error)


def test_several_numbers_in_a_line() -> None:
    line = "from 1.2 ± 0.1 to -3.4 ± 0.2 and 5 ± 1; 7 in all"
    assert [number.text for number in numbers(line)] == ["1.2 ± 0.1", "-3.4 ± 0.2", "5 ± 1"]
    assert words(line) == "from ⟨number⟩ to ⟨number⟩ and ⟨number⟩ ; 7 in all"


def test_one_last_digit_always_passes_and_is_exact() -> None:
    assert not differences("9.9 ± 0.0", "10.0 ± 0.0") and differences("9.9 ± 0.0", "10.1 ± 0.0")
    assert not differences("0.3 ± 0.0", "0.2 ± 0.1")
    assert not differences("0.5 ± 0.035", "0.5 ± 0.04")  # digits are those of the errors
    assert Number("", *numbers("1.0 ± 0.0")[0][1:]).errors_from_zero == float("inf")


# What a cell prints, what is stored for it, and whether nbval has to pass it.
CELLS = [
    ("print('gain +0.88 ± 0.05, cost 2.31 ± 0.06')", "gain +0.83 ± 0.05, cost 2.37 ± 0.06\n", True),
    ("print('gain +0.83 ± 0.05\\ncost 2.79 ± 0.06')", "gain +0.83 ± 0.05\ncost 2.31 ± 0.06\n", False),
    ("print('gain −0.83 ± 0.05')", "gain +0.83 ± 0.05\n", False),
    ("print('loss +0.83 ± 0.05')", "gain +0.83 ± 0.05\n", False),
    ("print('gain +0.83 ± 0.15')", "gain +0.83 ± 0.05\n", False),
    ("print('name        x\\nfree 10.1 ± 0.2')", "name       x\nfree 9.9 ± 0.2\n", True),
    ("HTML('<td>82.5 ± 0.9 %</td>')", "<td>83.1 ± 0.9 %</td>", True),
    ("HTML('<td>62.5 ± 0.9 %</td>')", "<td>83.1 ± 0.9 %</td>", False),
    ("HTML('<b style=\"color: red\">story</b>')", "<b style='color: blue'>story</b>", True),
    ("HTML('<b>tale ' + 'x' * 9000 + '</b>')", "<b>story" + "x " * 9000 + "</b>", False),
    ("print('\\n'.join(f'line {i} is old' for i in range(3000)))", "row of old\n" * 3000, False),
    ("print('loss 0.84')", "loss 0.83\n", False),
    ("print('loss  0.83')", "loss 0.83\n", False),
    ("print(os.environ['OMP_NUM_THREADS'], repr(os.environ['CUDA_VISIBLE_DEVICES']))", "1 ''\n", True),
]


def notebook(path: Path) -> None:
    """Write CELLS as a notebook, with what is stored for them."""
    sources = [("import os\nfrom IPython.display import HTML", ""), *((source, text) for source, text, _ in CELLS)]
    cells = []
    for number, (source, text) in enumerate(sources, 1):
        shown = nbformat.v4.new_output("execute_result", execution_count=number, data={
            "text/html": text, "text/plain": "<IPython.core.display.HTML object>"})
        printed = nbformat.v4.new_output("stream", name="stdout", text=text)
        outputs = [shown if source.startswith("HTML") else printed] if text else []
        cells.append(nbformat.v4.new_code_cell(source, execution_count=number, outputs=outputs))
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {
        "name": "python3", "display_name": "Python 3", "language": "python"}}), path)


def test_nbval_itself_compares_so_and_says_which_number_fails(tmp_path: Path) -> None:
    shutil.copy(ROOT / "notebooks" / "conftest.py", tmp_path)
    notebook(tmp_path / "tiny.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--nbval", "-rA", "--color=no",
               str(tmp_path / "tiny.ipynb")]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    found = {int(cell): word for word, cell in re.findall(r"^(PASSED|FAILED) \S*::Cell (\d+)", done.stdout, re.M)}
    assert found == {0: "PASSED", **{number: "PASSED" if passes else "FAILED"
                                     for number, (*_, passes) in enumerate(CELLS, 1)}}, done.stdout
    assert "plugin exception" not in done.stdout
    assert ("number 2 of 2: 2.31 ± 0.06 stored, 2.79 ± 0.06 new: the values are 5.7 combined errors apart (at most 4)"
            in done.stdout)


def test_both_conftests_may_be_loaded_in_one_call() -> None:
    """Tests used to import texts from `conftest`, which would now be the notebooks'."""
    both = ["notebooks/00_the_map.ipynb", "tests/test_sft.py"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *both]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "tests/test_sft.py::" in done.stdout and "00_the_map.ipynb::Cell 0" in done.stdout
