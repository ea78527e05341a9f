"""What a person sees of a command that runs: its plan, its stages, the time left, in a terminal and in a pipe."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_mini import console
from rlhf_mini.run import screen as screen_module
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.lines import clock, fitting
from rlhf_mini.run.plan import RUN, Measured, Plan, Work, pretrain_plan, run_plan
from rlhf_mini.run.progress import batches_shown, expect, passed, progress, run_steps, stage
from rlhf_mini.run.screen import Bar, Screen, doing, screen, showing, write_line

TITLES = {"one": "first", "two": "second"}


class Stream(io.StringIO):
    """A terminal without a size, or a pipe."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stream:
    made = Stream(getattr(request, "param", False))
    monkeypatch.setattr(screen_module, "sys", SimpleNamespace(stderr=made))
    return made


terminal = pytest.mark.parametrize("stream", [True], indirect=True)
pipe = pytest.mark.parametrize("stream", [False], indirect=True)


class Watch:
    """A clock that is moved by hand."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def two_stages(watch: Any = None, measured: Measured | None = None) -> Plan:
    plan = Plan("A plan:", TITLES, {"one": "does this", "two": "does that"}, measured or Measured(),
                **({"now": watch} if watch else {}))
    plan.expect({"one": [Work("first", "step", 10)], "two": [Work("second", "step", 20), Work("later", "other")]})
    return plan


def steps(plan: Plan, watch: Watch, title: str, seconds: list[float]) -> None:
    for each in seconds:
        watch.seconds += each
        plan.step(title)


# --- the plan ----------------------------------------------------------------------------------------------

def test_every_stage_of_a_run_is_in_its_plan_with_its_number(tmp_path: Path) -> None:
    lines = run_plan(RunConfig(out=tmp_path / "run")).lines()
    assert [line.split()[0] for line in lines[1:]] == [f"{k}/6" for k in range(1, 7)]
    assert all(title in line for title, line in zip(RUN.values(), lines[1:], strict=True))
    assert all(len(line) < 80 for line in lines[1:]) and "begins in" in lines[0]
    assert "goes on in" in run_plan(RunConfig(out=tmp_path / "run"), resume=True).lines()[0]
    assert all(len(line) < 80 for line in pretrain_plan(Path("out")).lines())


def test_given_rankings_come_first() -> None:
    plan = run_plan(RunConfig(out=Path("run"), rankings=(Path("a.jsonl"),)))
    assert plan.head("rankings") == "1/6 rankings" and plan.head("sft") == "2/6 fine-tuning"


def test_names_of_folders_are_data() -> None:
    assert "\x1b" not in run_plan(RunConfig(out=Path("\x1b[2Jrun"))).lines()[0]


def test_nothing_is_told_that_was_not_measured() -> None:
    watch = Watch()
    plan = two_stages(watch)
    assert plan.left() == (0.0, False) and plan.newly_known() == {}
    plan.begin("one")
    plan.begin_bar("first", 10, 0)
    steps(plan, watch, "first", [50.0, 2.0])  # the first step is slower; two are too few
    assert plan.newly_known() == {}
    steps(plan, watch, "first", [2.0])
    assert plan.newly_known() == {"one": pytest.approx(68.0)} and plan.newly_known() == {}
    assert plan.left() == (pytest.approx(14.0), False)  # of "later" nothing is known
    steps(plan, watch, "first", [2.0] * 7)
    plan.end_bar()
    plan.end("one")
    plan.begin("two")
    plan.begin_bar("later", 4, 0)
    steps(plan, watch, "later", [1.0] * 3)
    assert plan.newly_known() == {"two": pytest.approx(44.0)}
    assert plan.left() == (pytest.approx(41.0), True)


def test_what_one_run_has_measured_is_known_to_the_next() -> None:
    watch, measured = Watch(), Measured()
    plan = two_stages(watch, measured)
    plan.begin("two")
    for title, total in (("second", 20), ("later", 4)):
        plan.begin_bar(title, total, 0)
        steps(plan, watch, title, [1.0] * total)
        plan.end_bar()
    again = two_stages(watch, measured)
    assert again.newly_known() == {"one": pytest.approx(10.0), "two": pytest.approx(24.0)}
    assert again.left() == (pytest.approx(34.0), True)


def test_a_resumed_bar_has_only_the_rest_left() -> None:
    watch = Watch()
    plan = two_stages(watch)
    plan.end("two")
    plan.begin("one")
    plan.begin_bar("first", 10, 6)
    steps(plan, watch, "first", [3.0] * 3)
    assert plan.left() == (pytest.approx(3.0), True)


def test_a_bar_within_a_bar_does_not_stop_its_clock() -> None:
    watch = Watch()
    plan = two_stages(watch)
    plan.begin("one")
    plan.begin_bar("first", 10, 0)
    for _ in range(3):
        plan.begin_bar("look", 2, 0)
        steps(plan, watch, "look", [1.0] * 2)
        plan.end_bar()
        steps(plan, watch, "first", [3.0])
    assert plan.measured.rates["step"] == pytest.approx(5.0)


# --- the screen --------------------------------------------------------------------------------------------

def run_both() -> None:
    with stage("one"):
        expect({"one": [Work("first", "step", 40)], "two": [Work("second", "step", 40)]})
        run_steps(range(40), 40, "first", lambda step: f"loss {step}.123")
    with stage("two"):
        assert list(batches_shown(range(0, 10, 4), "sampling")) == [0, 4, 8]
        run_steps(range(40), 40, "second", str)


@pipe
def test_a_pipe_gets_the_plan_and_lines_without_bars(stream: Stream) -> None:
    with showing(two_stages(), "loading"):
        assert stream.getvalue() == ""  # a refusal is one line
        run_both()
    told = stream.getvalue()
    assert told.startswith("A plan:\n  1/2 first   does this\n  2/2 second  does that\n")
    assert "1/2 first: 40/40 loss 39.123" in told and "2/2 second: sampling 10/10" in told
    assert "1/2 first: done in 0 s\n" in told and "2/2 second: done in 0 s\n" in told
    assert not {"\r", "\x1b", "█", "|"} & set(told)


@pipe
def test_a_silent_pipe_gets_a_line_now_and_then(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "SILENCE", 0.0)
    monkeypatch.setattr(screen_module, "TICK", 0.001)
    told = threading.Event()
    say = Screen.say

    def heard(self: Screen, line: str) -> None:
        say(self, line)
        told.set()

    monkeypatch.setattr(Screen, "say", heard)
    with showing(two_stages(), "loading torch"):
        assert told.wait(20)
        doing("something")
        shown = screen()
        assert shown and shown.text().startswith("something ... ")
    assert stream.getvalue().startswith("loading torch ... 0 s\n")


@terminal
def test_a_terminal_gets_the_plan_at_once_and_one_line_that_is_cleared(stream: Stream) -> None:
    with showing(two_stages(), "loading torch"):
        assert stream.getvalue().count("\n") == 3 and "loading torch ... 0 s" in stream.getvalue()
        run_both()
    told = stream.getvalue()
    assert "1/2 first: done in 0 s; loss 39.123" in told and "1/2 first 40/40 |█" in told
    drawn = [piece for line in told.split("\n") for piece in line.split("\r")]
    assert max(map(len, drawn)) <= 79 and drawn[-1] == ""


@terminal
@pytest.mark.parametrize("width", [79, 60, 40, 20])
def test_lines_fit_and_no_number_is_cut(stream: Stream, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen_module, "columns", lambda _: width)
    told = "score +0.52, gold +0.31, KL 12.34, coherent 97%"
    with showing(two_stages(), "loading"):
        shown = screen()
        assert shown
        bar = Bar("second", 60, 30, told)
        with stage("two"), shown.bar(bar):
            stream.truncate(0)
            shown.draw()
            line = stream.getvalue().split("\r")[-1]
            assert len(line.strip("\0")) <= width
            assert all(part in told.split(", ") for part in line.split("|")[-1].strip().split(", ") if " " in part)


@pytest.mark.parametrize("stream", [True, False], indirect=True)
def test_notes_stand_on_lines_of_their_own(stream: Stream) -> None:
    with showing(two_stages(), "loading"):
        write_line("a note {0}")
    assert "a note {0}\n" in stream.getvalue()
    write_line("another")
    assert stream.getvalue().endswith("another\n")


@pytest.mark.parametrize("stream", [True, False], indirect=True)
def test_an_error_takes_the_screen_away(stream: Stream) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError

    with pytest.raises(KeyError), showing(two_stages(), "loading"), stage("one"):
        run_steps(broken(), 2, "first", str)
    assert screen() is None and "done" not in stream.getvalue()
    assert "progress" not in [thread.name for thread in threading.enumerate()]


@pipe
def test_without_a_plan_there_are_bars_alone(stream: Stream) -> None:
    with stage("one"):
        assert list(progress(range(8), 8, "work", str)) == list(range(8))
    passed("one")
    expect({})
    assert list(batches_shown(range(0, 10, 4), "sampling")) == [0, 4, 8]
    assert stream.getvalue() == "work: 2/8 1\nwork: 4/8 3\nwork: 6/8 5\nwork: 8/8 7\n"


@terminal
def test_a_bar_without_a_plan_stays(stream: Stream) -> None:
    run_steps(range(8), 8, "work {}", str)
    assert stream.getvalue().split("\r")[-1].startswith("work {} 8/8 ") and stream.getvalue().endswith(" 7\n")


def test_only_whole_parts_are_kept() -> None:
    parts = ["score +0.52", "gold +0.31", "KL 12.34"]
    assert fitting(parts, 80, "3:40 left") == " 3:40 left  score +0.52, gold +0.31, KL 12.34"
    assert fitting(parts, 30) == " score +0.52, gold +0.31" == fitting(parts, 25)
    assert fitting(parts, 10, "3:40 left") == " 3:40 left"
    assert fitting(parts, 3, "3:40 left") == ""


def test_times_by_hand() -> None:
    assert [clock(seconds) for seconds in (0, 52.4, 723, 4330)] == ["0:00", "0:52", "12:03", "1:12:10"]


def test_the_report_has_an_address_that_only_a_terminal_gets_marked(tmp_path: Path) -> None:
    path = tmp_path / "a run" / "report\x1b.html"
    address = f"file://{tmp_path}/a%20run/report%1B.html"
    assert console.link(path, Stream(False)) == address
    assert console.link(path, Stream(True)) == f"\x1b]8;;{address}\x1b\\{address}\x1b]8;;\x1b\\"
