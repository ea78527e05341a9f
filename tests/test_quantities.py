"""The page of metrics: every logged number has its words, and the addresses in its table of symptoms exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import nbformat
import pytest

from rlhf_mini.errors import InputError
from rlhf_mini.teaching.quantities import QUANTITIES, Page, logged_names, recorded_range, span
from rlhf_mini.teaching.recorded import recorded_history, recorded_metrics

PAGE = Path(__file__).parent.parent / "notebooks" / "09_metrics.ipynb"
ADDRESS = re.compile(r"`((?:run\.)?[a-z_]+\.\w+)`")


def test_every_number_of_the_recorded_run_is_explained() -> None:
    logged = {key for line in recorded_history() for key in line} | set(logged_names(recorded_metrics()))
    assert logged == set(QUANTITIES)


def test_names_of_numbers_are_dotted_and_models_share_theirs() -> None:
    metrics = {"seed": 3, "sft": {"kl": 0.0}, "ppo": {"kl": 3.0}, "versions": {"torch": "2"},
               "reward_model": {"calibration": [{"count": 1}]}}
    assert set(logged_names(metrics)) == {"seed", "MODEL.kl", "versions", "reward_model.calibration.count"}


def test_a_page_remembers_what_it_explained(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page()
    page.explain("kl", "seed")
    lines = capsys.readouterr().out.splitlines()
    assert page.explained == {"kl", "seed"}
    assert lines[0].startswith("kl  [nats per ending]  ") and lines[2].startswith("seed  [count]  ")
    assert "healthy: 0 on line 1, 2.78 to 3.36 at the end" in lines[1] and len(lines) == 3
    with pytest.raises(InputError, match="no run logs 'kk'"):
        page.explain("kk")


@pytest.mark.parametrize("key", QUANTITIES)
def test_a_range_fits_on_a_line(key: str) -> None:
    assert len(recorded_range(key)) <= 106


@pytest.mark.parametrize(("values", "text"), [([0.5, 0.25, 0.75], "0.25 to 0.75"), ([1.0, 1.0001], "1"),
                                              ([2.1e-5, 0.0123], "0.000021 to 0.0123"), ([-1e-9, 1e-9], "0"),
                                              ([-10.12, 380.4], "-10.1 to 380")])
def test_a_span_has_three_digits_and_no_exponent(values: list[float], text: str) -> None:
    assert span(values) == text


def test_the_addresses_in_the_table_of_symptoms_exist() -> None:
    table = next(cell.source for cell in nbformat.read(PAGE, as_version=4).cells if "| you see |" in cell.source)
    rows = [row.split("|") for row in table.splitlines() if row.startswith("| ")][1:]
    addresses = {address for row in rows for address in ADDRESS.findall(row[4])}
    assert len(addresses) > 20
    for address in addresses:
        module, name = address.rsplit(".", 1)
        assert hasattr(importlib.import_module(f"rlhf_mini.{module}"), name), address
