"""The diagnoses of the clinic are graded by cause and by evidence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from rlhf_mini import checks
from rlhf_mini.checks.clinic import CAUSES, earliest
from rlhf_mini.teaching.clinic import RULES, diagnose
from rlhf_mini.teaching.clinic_cases import HEALTHY, clinic

CLINIC = clinic()
NUMBERS = CLINIC.numbers
CASE = {CLINIC.cause(number): number for number in NUMBERS}
FAULTY = [cause for cause in CAUSES if cause != HEALTHY]
NOTEBOOK = Path(__file__).parent.parent / "notebooks" / "10_the_clinic.ipynb"
SOLUTION = re.compile(r"```python\n(diagnosis_(\d+) = .*?)\n```", re.S)


def best(cause: str) -> tuple[str, str, int]:
    """A right diagnosis: what the program finds."""
    evidence = diagnose(CLINIC.history(CASE[cause]))[0].evidence
    assert evidence is not None
    return cause, evidence.quantity, evidence.iteration


# --- diagnoses --------------------------------------------------------------------------------------------------------


def test_every_cause_is_a_case_and_has_a_rule() -> None:
    assert set(CAUSES) == set(CASE) == {HEALTHY, *RULES}


@pytest.mark.parametrize("cause", FAULTY)
def test_the_programs_own_diagnosis_has_both_points(cause: str) -> None:
    result = checks.check_diagnosis(CASE[cause], best(cause))
    assert result.points == 2 and str(result).startswith(f"case {CASE[cause]}: correct, cause and evidence: ")


@pytest.mark.parametrize("cause", FAULTY)
def test_every_quantity_that_tells_a_cause_is_unusual_in_all_its_seeds(cause: str) -> None:
    for history in (CLINIC.history(CASE[cause]), *CLINIC.again(CASE[cause])):
        for quantity in CAUSES[cause][1]:
            assert earliest(history, quantity, CLINIC.references) is not None, quantity


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("cause", CAUSES)
def test_a_wrong_cause_has_no_full_points_and_is_answered_by_what_it_would_show(number: int, cause: str) -> None:
    if cause == CLINIC.cause(number):
        return
    result = checks.check_diagnosis(number, HEALTHY if cause == HEALTHY else (cause, "gold", 20))
    assert result.points == 0 and len(result.reasons) == 1
    assert "something is wrong here" in result.line if cause == HEALTHY else CAUSES[cause][0] in result.line
    assert repr(CLINIC.cause(number)) not in result.line


def test_the_healthy_run_needs_no_evidence() -> None:
    number = CASE[HEALTHY]
    for diagnosis in (HEALTHY, (HEALTHY,), (" Healthy ", None, None)):
        assert checks.check_diagnosis(number, diagnosis).points == 2


def test_cause_and_evidence_have_a_point_each() -> None:
    number = CASE["temperature"]
    late = checks.check_diagnosis(number, ("temperature", "ratio_first", 21))
    assert late.points == 1 and "21 is no iteration of this run" in late.line
    other = checks.check_diagnosis(number, ("temperature", "lenght", 3))
    assert other.points == 1 and "'lenght' is no quantity of the history: choose from iteration, score" in other.line
    same = checks.check_diagnosis(number, ("temperature", "kl_coef", 3))
    assert same.points == 1 and "kl_coef is like that of healthy runs" in same.line
    swapped = checks.check_diagnosis(number, ("dropout", "ratio_first", 1))
    assert swapped.points == 1 and "the evidence is right, and the cause is not" in swapped.line


def test_evidence_has_to_be_unusual_already_and_to_tell_causes_apart() -> None:
    number = CASE["no KL"]
    early = checks.check_diagnosis(number, ("no KL", "kl", 1))
    assert early.points == 1 and "kl is still usual at iteration 1" in early.line
    common = checks.check_diagnosis(number, ("no KL", "gold", 20))
    assert common.points == 1 and "other causes would move it as well" in common.line
    assert checks.check_diagnosis(number, ("NO KL", "kl", 20.0)).points == 2


@pytest.mark.parametrize(("diagnosis", "said"), [
    (..., "not attempted yet"), (None, "not attempted yet"), ((..., ..., ...), "not attempted yet"),
    ("entropy", "'entropy' is none of the causes: choose from healthy, KL sign"),
    (7, 'give cause, quantity and iteration, such as ("no KL", "kl", 12)'),
    (("no KL", "kl"), 'name the evidence as well: ("no KL", quantity, iteration)'),
    ("no KL", "name the evidence as well"),
])
def test_what_is_no_diagnosis_is_asked_for(diagnosis: Any, said: str) -> None:
    result = checks.check_diagnosis(1, diagnosis)
    assert result.points == 0 and said in str(result) and result.to_dict()["exercise"] == "case 1"


def test_there_is_no_twelfth_case() -> None:
    assert "there is no case 12" in checks.check_diagnosis(12, HEALTHY).line


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="a wheel has no notebooks")
def test_every_case_of_the_notebook_has_a_stub_a_check_and_a_solution_with_both_points() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    solved = {int(number): code for cell in cells if cell.cell_type == "markdown"
              for code, number in SOLUTION.findall(cell.source)}
    assert list(solved) == NUMBERS
    sources = [cell.source for cell in cells]
    for number, code in solved.items():
        known: dict[str, Any] = {}
        exec(code, known)
        assert checks.check_diagnosis(number, known[f"diagnosis_{number}"]).points == 2
        assert f"diagnosis_{number} = ...  # cause, quantity, iteration" in sources
        [check] = [cell for cell in cells if cell.source == f"checks.check_diagnosis({number}, diagnosis_{number})"]
        assert f"case {number}: not attempted yet" in str(check.outputs)
