"""The command under torchrun: the numbers of one process, resumed by another number, and failing in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_team import start

PROGRAM = Path(__file__).parent / "team_run.py"
pytestmark = pytest.mark.faults  # each starts several processes, and each of them imports torch


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("team") / "prepared"
    done = start(1, PROGRAM, folder)
    assert done.returncode == 0, done.stderr
    return folder


def copy_of(prepared: Path, name: str) -> Path:
    return Path(shutil.copytree(prepared, prepared.parent / name))


def metrics(folder: Path) -> dict[str, Any]:
    """The figures of a finished run, without its seconds."""
    return {name: value for name, value in json.loads((folder / "metrics.json").read_text()).items()
            if name not in ("seconds", "versions")}


@pytest.fixture(scope="module")
def alone(prepared: Path) -> Path:
    folder = copy_of(prepared, "alone")
    done = start(1, PROGRAM, "--resume", "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder


def flattened(value: Any, name: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flattened(part, f"{name}.{key}").items()}
    if isinstance(value, list):
        return {k: v for i, part in enumerate(value) for k, v in flattened(part, f"{name}.{i}").items()}
    return {name: value}


def test_two_processes_print_once_and_measure_what_one_does(prepared: Path, alone: Path) -> None:
    folder = copy_of(prepared, "two")
    done = start(2, PROGRAM, "--resume", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("where the time went") == 1 and done.stderr.count("fine-tuning: 4/4") == 1
    assert flattened(metrics(folder)) == pytest.approx(flattened(metrics(alone)), abs=1e-4)
    lines, expected = ((path / "history.jsonl").read_text().splitlines() for path in (folder, alone))
    assert len(lines) == len(expected) == 8


def test_several_seeds_are_gathered_by_two_processes_as_by_one(tmp_path: Path) -> None:
    program = Path(__file__).parent / "small_run.py"
    for processes in (1, 2):
        done = start(processes, program, "seeds", "--seeds", "1", "2", "--out", tmp_path / str(processes))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Seeds 1, 2: median") == 1
    one, two = (json.loads((tmp_path / name / "seeds.json").read_text()) for name in "12")
    for gathered in (one, two):
        del gathered["seconds"]
    assert flattened(two) == pytest.approx(flattened(one), abs=1e-4)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_stopped_run_is_resumed_by_another_number_of_processes(before: int, after: int, prepared: Path, alone: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(prepared, f"{before}-then-{after}")
    monkeypatch.setenv("STOP_AFTER", "3")
    stopped = start(before, PROGRAM, "--resume", "--out", folder)
    assert stopped.returncode != 0 and stopped.stderr.count("to continue: python -m rlhf_mini --resume") == 1
    monkeypatch.delenv("STOP_AFTER")
    done = start(after, PROGRAM, "--resume", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert flattened(metrics(folder)) == pytest.approx(flattened(metrics(alone)), abs=1e-4)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_process_fails_all_end_and_it_says_why_in_one_line(rank: int, prepared: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of(prepared, f"failing-{rank}")
    monkeypatch.setenv("FAIL_IN", str(rank))
    done = start(2, PROGRAM, "--resume", "--out", folder)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("rlhf_mini:")]
    assert said == ["rlhf_mini: this process fails: look at its line"]
    assert "rlhf_mini/cli.py" not in done.stderr  # torchrun prints a traceback of its own, none of ours
    assert not (folder / "metrics.json").exists()
