"""Output that cannot be written: nothing that was done is lost, and there is no traceback."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_mini import cli, console, rankings, team
from rlhf_mini.errors import InputError
from rlhf_mini.run.progress import progress

PYTHON = f'PYTHONPATH="{Path(__file__).parents[1]}" "{sys.executable}"'
MERGE = f"{PYTHON} -m rlhf_mini merge"


class Closed(io.StringIO):
    """A terminal, or a pipe, that nobody reads any more."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, cwd=cwd, timeout=120,
                          check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the rankings of an annotator whose name is Chinese."""
    rankings.save_rankings([rankings.Ranking(id="1", prompt="p", completions=["a", "b"], annotator="小明",
                                             ranking=[[0], [1]])], tmp_path / "a.jsonl")
    return tmp_path


@pytest.mark.parametrize(("before", "after", "code"), [
    ("", "| true", 0), ("", "| head -1", 0), ("", ">&-", 0), ("", ">&- 2>&- <&-", 0), ("", "2>&1 >/dev/full", 1),
    ("PYTHONIOENCODING=ascii", "", 0), ("PYTHONIOENCODING=cp1252:strict", "2>&-", 0),
    ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0", "", 0),
])
def test_a_command_does_its_work_whatever_becomes_of_its_output(before: str, after: str, code: int,
                                                                 folder: Path) -> None:
    ended = shell(f"{before} {MERGE} a.jsonl --out b.jsonl {after}", folder)
    assert ended.returncode == code
    assert ended.stderr == b"" and b"Traceback" not in ended.stdout
    assert (folder / "b.jsonl").exists()
    if not after:
        assert rb"\u5c0f\u660e" in ended.stdout
    if code:
        assert ended.stdout.count(b"\n") == 1 and b"output cannot be written" in ended.stdout


@pytest.mark.parametrize("after", ["2>&-", "2>/dev/full", "2>&1 | true", ">&- 2>&- <&-"])
def test_a_refusal_that_cannot_be_printed_still_has_its_exit_code(after: str, tmp_path: Path) -> None:
    ended = shell(f"{PYTHON} -m rlhf_mini --sede 3 {after}", tmp_path)
    assert (ended.returncode, ended.stderr) == (2, b"")


def test_a_file_never_gets_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """A library in C that warns on stderr would write into that file."""
    code = ("import os, sys; from rlhf_mini import console\n"
            "with console.safe_streams(): sys.exit(os.open('file', os.O_RDWR | os.O_CREAT))")
    assert shell(f"{PYTHON} -c \"{code}\" <&- >&- 2>&-", tmp_path).returncode > 2


@pytest.mark.parametrize("terminal", [True, False])
def test_a_closed_stderr_does_not_stop_the_steps(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (Closed(terminal), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress(range(5), 5, "work", str)) == list(range(5))
        cli.complain("something")


def test_streams_are_as_before_after_the_block() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), console.safe_streams():
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


def test_complaints_are_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    cli.complain("no file\n\x1b[2Jname\u2028.jsonl")
    assert capsys.readouterr().err == "rlhf_mini: no file \\x1b[2Jname .jsonl\n"


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "x"), ("WORLD_SIZE", "2"), ("RANK", "-1")])
def test_a_half_set_launcher_gets_one_line(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "GRACE", 0)
    with pytest.raises(InputError, match="torchrun"):
        team.join()
    cli.complain("this can be said")


def test_bad_settings_of_progress_bars_are_forgotten(folder: Path) -> None:
    """tqdm cannot even be imported with them."""
    code = "import sys; from rlhf_mini.cli import main; code = main(sys.argv[1:]); import tqdm; sys.exit(code)"
    ended = shell(f"TQDM_NCOLS=wide {PYTHON} -c '{code}' merge a.jsonl --out b.jsonl", folder)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "TQDM_NCOLS" not in os.environ
