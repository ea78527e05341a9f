"""The stories that a policy tells while it trains are kept, and no number of the run depends on them."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import make_base, numbers, shrink_constants, tiny_config

from rlhf_mini import pipeline
from rlhf_mini.errors import InputError
from rlhf_mini.run.history import History
from rlhf_mini.run.looks import LOOKS, looks_every
from rlhf_mini.run.saved_config import load_config
from rlhf_mini.run.story_log import StoryLog

SMALL = {"arm": "ppo", "updates": 2, "stories": [{"opening": "Mira", "ending": "ran.", "ended": True, "proxy": 0.5,
                                                  "gold": None, "grammatical": None, "coherent": None}]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small run that nothing stopped; every later run in this module is as small."""
    with pytest.MonkeyPatch.context() as patch:
        shrink_constants(patch)
        folder = tmp_path_factory.mktemp("finished")
        pipeline.run(tiny_config(make_base(folder / "base"), folder / "run"))
        yield folder / "run"


@pytest.fixture
def stopped(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, stopped just before its end."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    return tmp_path / "run"


def test_both_arms_tell_the_same_openings_every_few_updates(finished: Path) -> None:
    looks = StoryLog(finished / "stories.jsonl").read()
    assert [(look["arm"], look["updates"]) for look in looks] == [
        (arm, updates) for arm in ("ppo", "ppo_no_kl") for updates in (0, 2, 4, 5)]
    openings = {tuple(story["opening"] for story in look["stories"]) for look in looks}
    assert len(openings) == 1 and len(openings.pop()) == 8
    assert looks[0]["stories"] == looks[4]["stories"]  # both arms begin with the fine-tuned model
    assert set(looks[0]["stories"][0]) == {"opening", "ending", "ended", "proxy", "gold", "grammatical", "coherent"}


def test_the_last_look_sees_the_endings_of_the_evaluation(finished: Path) -> None:
    measured = json.loads((finished / "samples.json").read_text())["stories"]
    for look in StoryLog(finished / "stories.jsonl").read():
        if look["updates"] == 5:
            assert [(one["opening"], one["ending"]) for one in look["stories"]] == [
                (one["opening"], one[look["arm"]]["ending"]) for one in measured]


def test_no_number_of_a_run_depends_on_them(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(pipeline, "looking", lambda *given: given[-1])
    pipeline.run(tiny_config(finished.parent / "base", out))
    assert not (out / "stories.jsonl").exists()
    assert "were not recorded" in (out / "report.html").read_text()
    (out / "stories.jsonl").write_bytes((finished / "stories.jsonl").read_bytes())
    assert numbers(out) == numbers(finished)


@pytest.mark.parametrize("lines", [pytest.param(n, marks=[] if n == 3 else pytest.mark.faults) for n in range(1, 10)])
def test_a_stopped_run_ends_with_the_same_stories(lines: int, finished: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it stops before or after a saved state, a look is neither lost nor kept twice."""
    append, appended = History.append, []

    def stopping(history: History, line: dict[str, Any]) -> None:
        append(history, line)
        appended.append(line)
        if len(appended) == lines:
            raise KeyboardInterrupt

    monkeypatch.setattr(History, "append", stopping)
    config = tiny_config(finished.parent / "base", tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    pipeline.run(config, resume=True)
    assert numbers(tmp_path / "run") == numbers(finished)


@pytest.mark.faults
def test_a_run_stopped_while_it_looks_takes_the_look_again(finished: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    append, appended = StoryLog.append, []

    def torn(log: StoryLog, look: dict[str, Any]) -> None:
        appended.append(look)
        append(log, look)
        if len(appended) == 3:
            log.path.write_bytes(log.path.read_bytes()[:-30])
            raise KeyboardInterrupt

    monkeypatch.setattr(StoryLog, "append", torn)
    config = tiny_config(finished.parent / "base", tmp_path / "run")
    with warnings.catch_warnings(action="ignore"):  # the report of what there is leaves half a line out
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(config)
        pipeline.run(config, resume=True)
    assert numbers(tmp_path / "run") == numbers(finished)


def test_stories_that_are_lost_are_missing_in_the_report_and_nothing_is_done_again(stopped: Path,
                                                                                   finished: Path) -> None:
    (stopped / "stories.jsonl").unlink()
    with warnings.catch_warnings(action="error"):
        pipeline.run(load_config(stopped), resume=True)
    assert "were not recorded" in (stopped / "report.html").read_text()
    assert (stopped / "history.jsonl").read_bytes() == (finished / "history.jsonl").read_bytes()


@pytest.mark.parametrize("damaged", [
    b"half a li", b"[1]", b'{"arm": "ppo", "updates": 1}', b'{"arm": "other", "updates": 1, "stories": []}',
    b'{"arm": "ppo", "updates": true, "stories": [{}]}', b'{"arm": "ppo", "updates": 1, "stories": [{"opening": 1}]}'])
def test_a_damaged_line_is_left_out_and_named(damaged: bytes, tmp_path: Path) -> None:
    log = StoryLog(tmp_path / "stories.jsonl")
    log.path.write_bytes(damaged + b"\n")
    log.append(SMALL)
    with pytest.warns(UserWarning, match=r"stories\.jsonl, line 1 is left out: "):
        assert log.read() == [SMALL]
    with warnings.catch_warnings(action="ignore"):
        log.keep("ppo_no_kl", 0)
    assert log.read() == [SMALL]


def test_a_folder_in_the_place_of_the_file_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "stories.jsonl").mkdir()
    with pytest.raises(InputError, match=r"stories\.jsonl cannot be read .*: remove it"):
        StoryLog(tmp_path / "stories.jsonl").read()


@pytest.mark.parametrize(("iterations", "every"), [(1, 2), (5, 2), (10, 2), (60, 4), (150, 10)])
def test_how_often_a_run_looks(iterations: int, every: int) -> None:
    assert looks_every(iterations) == every and iterations / every <= LOOKS
