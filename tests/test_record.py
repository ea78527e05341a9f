"""`make record`: what is out of date and why, in which order things are made, and that stopping loses nothing.

The recordings here are fakes that take no time; the command, its processes, and the files that it keeps are the real
ones. At the end the real micro-run and the real declarations are looked at.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import micro_run
import nbformat
import pytest
from freshness import CLOSE, NOTHING, content, difference, stamp_of
from keeping import Recording, as_text, keep_part, kept_parts, part_path, read, rounded, write

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "assets" / "record" / "record.py"
MADE, PARTS = "assets/record/made.json", "assets/record/parts"

FAKES = '''
import json, time
from pathlib import Path
from keeping import Recording, write

LOG, ASSETS = Path("log"), Path("assets")

def micro_run():
    return {"loss": float(Path("digits").read_text())}

def make(name):
    def made(part, work):
        with LOG.open("a") as log:
            log.write(f"{name}:{part}\\n")
        if Path(f"break-{part}").exists():
            raise RuntimeError("broken on purpose")
        while Path(f"hold-{part}").exists():
            time.sleep(0.02)
        return [name, part]
    return made

def gather(name):
    def gathered(found):
        with LOG.open("a") as log:
            log.write(f"{name} gathered\\n")
        write(ASSETS / f"{name}.json", found)
        return f"{name} has {len(found)} parts" if name == "table" else None
    return gathered

def settings(name):
    return json.loads(Path("settings").read_text()).get(name)

def recording(name, reads, parts, **more):
    return Recording(name, (f"assets/{name}.json",), reads, settings(name), parts, make(name), gather(name), **more)

RECORDINGS = [
    recording("run", ("assets/base",), {"3": ()}),
    recording("table", ("assets/base",), {"4": (), "5": ()}, gather_reads=("assets/run.json",)),
    recording("sweep", ("assets/run.json",), {"refit": ("free",), "free": (), "plain": ()}),
    recording("clock", ("assets/run.json",), {"seconds": ()}, alone=True),
    recording("page", ("assets/sweep.json", "source"), {"cells": ()}, core=False),
]
'''
ALL = ["run", "table", "sweep", "clock", "page"]


class Top:
    """A top folder with fake recordings, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (("assets/base", "base"), ("source", "x = 1"), ("digits", "0.5"), ("settings", "{}"),
                           ("assets/record/recordings.py", FAKES)):
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(SCRIPT), "--declared", str(self.folder / "assets/record/recordings.py"),
                *arguments]

    def record(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.DEVNULL)

    def log(self) -> list[str]:
        """What has been made and gathered since the last look."""
        path = self.folder / "log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def stale(self) -> dict[str, str]:
        """What --list says of everything that is not up to date."""
        lines = [line.split(maxsplit=1) for line in self.record("--list").splitlines()]
        assert [name for name, _ in lines] == ALL
        return {name: said for name, said in lines if said != "up to date"}


def until(happens: Any) -> None:
    """Wait for what another process is about to do."""
    for _ in range(3000):
        if happens():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within a minute")


@pytest.fixture
def top(tmp_path: Path) -> Top:
    return Top(tmp_path)


@pytest.fixture
def made(top: Top) -> Top:
    """Everything is recorded."""
    top.record()
    top.log()
    return top


# --- order, and what is up to date ------------------------------------------------------------------------------


def test_everything_is_made_in_the_order_of_who_reads_whom(top: Top) -> None:
    said = top.record("--jobs", "3")
    log = top.log()
    done = {line: place for place, line in enumerate(log)}
    assert len(log) == len(done) == 8 + len(ALL)
    assert done["run gathered"] < min(done["sweep:free"], done["sweep:plain"], done["table gathered"])
    assert done["sweep:free"] < done["sweep:refit"] < done["sweep gathered"] < done["page:cells"]
    assert top.json("assets/sweep.json") == {"refit": ["sweep", "refit"], "free": ["sweep", "free"],
                                             "plain": ["sweep", "plain"]}
    assert "run: it was not recorded by this command" in said
    assert "table: 4 done in" in said and "table: recorded; table has 2 parts" in said
    assert not (top.folder / PARTS).exists()


def test_what_only_gathering_needs_no_part_waits_for(top: Top) -> None:
    """The parts of the table are made beside the run, which only its gathering reads."""
    top.write("hold-3", "")
    begun = top.begin("--jobs", "3")
    log = top.folder / "log"
    until(lambda: log.exists() and "table:4" in log.read_text())
    (top.folder / "hold-3").unlink()
    assert begun.wait(120) == 0


def test_what_is_up_to_date_is_skipped(made: Top) -> None:
    assert made.stale() == {}
    assert "everything is up to date" in made.record()
    assert made.log() == []


def test_only_what_is_named_is_made_and_what_it_reads_has_to_be_there(top: Top) -> None:
    said = top.record("sweep", code=1)
    assert "sweep: not recorded, it reads run, of which: out of date and not asked for" in said
    assert top.log() == []
    top.record("run", "sw*")
    assert {line.split(":")[0] for line in top.log()} == {"run", "run gathered", "sweep", "sweep gathered"}
    assert "page: recorded" in top.record("page.ipynb")
    assert "no recording is called 'wsp'" in top.record("wsp", code=1)


# --- what makes things out of date ------------------------------------------------------------------------------


def test_a_changed_input_reaches_those_that_read_it_and_their_readers(made: Top) -> None:
    made.write("assets/base", "another")
    changed, waits = "out of date: assets/base has changed", "reads run, which is out of date"
    assert made.stale() == {"run": changed, "table": changed, "sweep": waits, "clock": waits,
                            "page": "reads sweep, which is out of date"}
    made.record()
    # the fakes make of another base what they made before, so nothing further has to be made again
    assert sorted(made.log()) == ["run gathered", "run:3", "table gathered", "table:4", "table:5"]
    assert made.stale() == {}


def test_changed_source_reaches_only_what_names_it(made: Top) -> None:
    made.write("source", "y = 1  # renamed")
    assert made.stale() == {"page": "out of date: source has changed"}
    made.record()
    assert made.log() == ["page:cells", "page gathered"]


def test_changed_settings_are_told_by_name(made: Top) -> None:
    made.write("settings", '{"table": {"ppo": {"iterations": 30}}}')
    assert made.stale() == {"table": "out of date: ppo.iterations is 30, was nothing"}
    made.record()
    made.write("settings", '{"table": {"ppo": {"iterations": 60}}}')
    assert made.stale() == {"table": "out of date: ppo.iterations is 60, was 30"}


def test_other_digits_of_the_core_reach_all_that_is_computed_by_it(made: Top) -> None:
    made.write("digits", f"{0.5 + CLOSE / 2}")  # another processor
    assert made.stale() == {}
    made.write("digits", "0.51")
    found = made.stale()
    assert {name for name, said in found.items() if "the micro-run's loss is 0.51, was 0.5" in said} == {
        "run", "table", "sweep", "clock"}
    assert found["page"] == "reads sweep, which is out of date"


def test_another_set_of_parts_is_made_anew(made: Top) -> None:
    made.write("assets/record/recordings.py", FAKES.replace('"5": ()', '"6": ()'))
    assert made.stale() == {"table": "out of date: it has other parts now"}
    made.record()
    assert list(made.json("assets/table.json")) == ["4", "6"]


def test_a_file_that_is_gone_or_was_changed_by_hand_is_made_again(made: Top) -> None:
    (made.folder / "assets/table.json").unlink()
    made.write("assets/clock.json", "{}")
    assert made.stale() == {"table": "out of date: assets/table.json is missing",
                            "clock": "out of date: assets/clock.json is not what was recorded"}
    made.record()
    assert made.stale() == {}


def test_what_is_kept_stays_until_it_is_named(made: Top) -> None:
    entries = made.json(MADE)
    entries["sweep"] = {"kept": "made with other settings"}
    made.write(MADE, json.dumps(entries))
    made.write("digits", "0.7")
    assert made.stale()["sweep"] == "kept: made with other settings"
    assert "page" not in made.stale()
    made.record()
    assert "sweep:free" not in made.log()
    assert made.stale() == {"sweep": "kept: made with other settings"}
    made.record("sweep")
    assert "sweep gathered" in made.log()
    assert made.stale() == {}


def test_a_list_of_what_is_made_that_cannot_be_read_is_not_replaced(made: Top) -> None:
    made.write(MADE, "{")
    assert "made.json cannot be read" in made.record(code=1)
    assert (made.folder / MADE).read_text() == "{"


# --- stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_after_a_stop_only_what_is_missing_is_made(top: Top, how: signal.Signals) -> None:
    top.write("hold-5", "")
    process = top.begin("--jobs", "2")
    until(lambda: (top.folder / PARTS / "table/4.json").exists() and "table:5" in (top.folder / "log").read_text())
    until(lambda: (top.folder / "assets/page.json").exists())
    process.send_signal(how)
    process.wait(30)
    before = top.log()
    assert "table:4" in before and "table gathered" not in before
    assert "1 of 2 parts are finished" in top.stale()["table"]
    (top.folder / "hold-5").unlink()
    time.sleep(0.5)  # a part that had outlived its parent would finish now
    assert not (top.folder / PARTS / "table/5.json").exists()
    top.record()
    assert [line for line in top.log() if "clock" not in line] == ["table:5", "table gathered"]
    assert top.stale() == {}


def test_a_half_written_part_is_not_believed(top: Top) -> None:
    top.write("break-5", "")
    top.record("table", "run", code=1)
    top.log()
    kept = top.folder / PARTS / "table/4.json"
    kept.write_text(kept.read_text()[:-20])
    (top.folder / "break-5").unlink()
    top.record("table")
    assert sorted(top.log()) == ["table gathered", "table:4", "table:5"]


def test_parts_made_of_something_else_are_not_used(top: Top) -> None:
    top.write("break-5", "")
    top.record("table", "run", code=1)
    (top.folder / "break-5").unlink()
    top.write("digits", "0.6")
    top.log()
    top.record("table", "run")
    assert {"table:4", "table:5"} <= set(top.log())


def test_a_set_that_is_not_whole_is_not_gathered_and_the_rest_is_made(top: Top) -> None:
    top.write("break-free", "")
    said = top.record(code=1)
    assert "sweep: free failed after" in said and "RuntimeError: broken on purpose" in said
    assert "page: not recorded, it reads sweep, of which: part free failed" in said
    assert not (top.folder / "assets/sweep.json").exists()
    assert {"table gathered", "clock gathered"} <= set(top.log())
    assert (top.folder / PARTS / "sweep/plain.json").exists()
    (top.folder / "break-free").unlink()
    top.record()
    assert top.log() == ["sweep:free", "sweep:refit", "sweep gathered", "page:cells", "page gathered"]


def test_two_commands_at_once_are_refused(top: Top) -> None:
    top.write("hold-3", "")
    process = top.begin()
    until(lambda: (top.folder / "log").exists())
    assert "another command is recording" in top.record(code=1)
    process.kill()
    process.wait(30)


def test_what_measures_time_has_the_machine_to_itself(top: Top) -> None:
    top.write("hold-free", "")
    process = top.begin("--jobs", "3")
    until(lambda: (top.folder / "assets/table.json").exists())
    time.sleep(0.5)
    assert "clock:seconds" not in (top.folder / "log").read_text()
    (top.folder / "hold-free").unlink()
    assert process.wait(60) == 0
    assert "clock:seconds" in top.log()


# --- files ------------------------------------------------------------------------------------------------------


def test_a_part_is_kept_with_its_stamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording, stamp = Recording("one", (), (), parts={"a/b": ()}), stamp_of((), {"x": (1, 2)}, {"loss": 1.0})
    keep_part(recording, "a/b", stamp, {"value": None}, 1.26)
    assert kept_parts(recording, stamp)["a/b"] == {"stamp": stamp, "seconds": 1.3, "value": {"value": None}}
    assert kept_parts(recording, stamp_of((), {"x": (1, 3)}, {"loss": 1.0})) == {}
    assert part_path(recording, "a/b").exists()


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "x.json", {"a": float("nan")})
    assert read(tmp_path / "x.json") == {"a": 1}
    assert read(tmp_path / "y.json") is None


def test_floats_are_rounded_wherever_they_stand() -> None:
    assert rounded({"a": [1.234567, (2, "x")], "b": None, "c": True, "d": 1e-5, "e": 123456.7}) == {
        "a": [1.2346, [2, "x"]], "b": None, "c": True, "d": 1e-5, "e": 123460.0}


def test_json_stands_on_one_line_where_it_fits_and_says_the_same() -> None:
    value = {"short": {"a": [1, 2]}, "numbers": list(range(100)), "rows": [{"text": "é" * 60, "n": n} for n in (1, 2)]}
    text = as_text(value)
    assert json.loads(text) == value
    assert len(text.splitlines()) == 2 + 1 + 1 + 4


def test_a_hash_of_a_folder_covers_names_and_contents_and_of_a_notebook_its_code(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "a.json", 1)
    first = content(tmp_path / "folder")
    (tmp_path / "folder" / "__pycache__").mkdir()
    (tmp_path / "folder" / "__pycache__" / "x").write_text("x")
    (tmp_path / "folder" / "README.md").write_text("a card")
    assert content(tmp_path / "folder") == first != NOTHING
    (tmp_path / "folder" / "a.json").rename(tmp_path / "folder" / "b.json")
    assert content(tmp_path / "folder") != first
    assert content(tmp_path / "nowhere") == NOTHING

    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("a"), nbformat.v4.new_code_cell("1")])
    path, hashes = tmp_path / "n.ipynb", []
    for cell, source in ((0, "a"), (0, "b"), (1, "2")):
        notebook.cells[cell].source = source
        nbformat.write(notebook, path)
        hashes.append(content(path))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_difference_is_said_in_words() -> None:
    old = stamp_of((), {"ppo": {"lam": 1.0}, "sizes": (1, 2)}, {"kl": 0.1})
    assert difference(old, json.loads(json.dumps(old))) is None
    assert difference(None, old) == "nobody knows what it was made of"
    assert difference(old, stamp_of((), {"ppo": {"lam": 1.0}, "sizes": (1, 3)}, {"kl": 0.1})) == "sizes.1 is 3, was 2"
    assert difference(old, {**old, "micro_run": {}}) == "the micro-run's kl is nothing, was 0.1"
    assert difference(old, {**old, "inputs": {"assets/x": "1"}}) == "assets/x has changed"


# --- the real ones ----------------------------------------------------------------------------------------------


def test_what_is_declared_is_what_assets_and_notebooks_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    import recordings

    declared = {one.name: one for one in recordings.RECORDINGS}
    files = [file for one in declared.values() for file in one.files]
    pictures = {f"assets/{name}.png" for name in (  # of widgets, taken in a browser
        "ranking_widget", "rating_widget_dark", "kl_microscope")}
    there = {f"assets/{path.name}" for path in Path("assets").iterdir()} - pictures
    assert there == {file for file in files if file.startswith("assets/")} | {"assets/record", recordings.BASE}
    assert {f"notebooks/{path.name}" for path in Path("notebooks").glob("*.ipynb")} <= set(files)
    assert {"assets/run-3", "assets/sweep.json", "assets/repairs.json", "rlhf_mini"} <= set(
        declared["notebooks/07_when_the_reward_is_wrong"].reads)
    assert len(declared["label_efficiency"].parts or {}) == 54
    for one in declared.values():
        assert all(Path(path).exists() for path in (*one.reads, *one.gather_reads)), one.name
        json.dumps(one.settings)


def test_a_real_run_at_tiny_size_is_put_in_place_continued_and_gathered(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import recordings

    from rlhf_mini import pipeline
    from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
    from rlhf_mini.run import results, tasks
    from rlhf_mini.run.config import RunConfig

    for module, name, size in ((tasks, "PPO_PROMPTS", 16), (pipeline, "NORMALISE_ON", 16),
                               (results, "BEST_OF_PROMPTS", 8)):
        monkeypatch.setattr(module, name, size)
    tiny = RunConfig(demonstrations=40, openings=12, judged_by_all=1, samples=8, sft=SFTConfig(steps=3, batch_size=8),
                     reward=RewardConfig(epochs=1), ppo=PPOConfig(iterations=1, episodes=4))
    monkeypatch.setattr(recordings, "RunConfig", lambda **given: RunConfig(**{**vars(tiny), **given}))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets" / "run-3").mkdir(parents=True)
    (tmp_path / "assets" / "run-3" / "of the old run").touch()

    recordings.make_run("3", Path("work"))
    assert sorted(path.name for path in Path("assets/run-3").iterdir()) == sorted(recordings.SELECTED)
    assert [path.name for path in Path("assets").iterdir()] == ["run-3"]
    written = Path("work/seed-3/metrics.json").stat().st_mtime_ns
    recordings.make_run("3", Path("work"))  # finished already: only put in place again
    assert Path("work/seed-3/metrics.json").stat().st_mtime_ns == written

    figures = recordings.make_figures("4", Path("work"))
    assert figures["metrics"]["seed"] == 4 and recordings.run_of(4).metrics == figures["metrics"]
    said = recordings.gather_seeds({"4": figures})
    found = read(Path("assets/seeds.json"))
    histories = read(Path("assets/seed_histories.json"))
    assert list(histories) == ["3", "4"] and histories["4"]["ppo_no_kl"]["iteration"] == [1]
    assert found["seeds"] == [3, 4] and "| PPO without KL |" in said
    recordings.draw_run({})
    assert Path("assets/proxy_against_gold.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def usual() -> dict[str, Any]:
    """The micro-run as a stamp."""
    return stamp_of((), None, micro_run.micro_run())


def test_the_micro_run_gives_the_same_on_one_thread_and_on_two(usual: dict[str, Any]) -> None:
    threads = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # on a busy machine, waiting threads would spin
    done = subprocess.run([sys.executable, str(SCRIPT), "--micro-run"], capture_output=True, text=True, check=True,
                          env={**os.environ, **threads})
    assert difference(usual, stamp_of((), None, json.loads(done.stdout.splitlines()[-1]))) is None
    assert len(usual["micro_run"]) > 15


@pytest.mark.parametrize(("module", "name", "change"), [
    ("rlhf_mini.ppo", "masked_whiten", lambda right: lambda x, mask: right(x, mask, shift_mean=False)),
    ("rlhf_mini.ppo", "shaped_rewards", lambda right: lambda score, logp, ref, mask, coef: right(
        score, logp, ref, mask, -coef)),
    ("rlhf_mini.sft", "schedule", lambda right: lambda done, warmup: right(done, warmup / 2)),
])
def test_the_micro_run_notices_a_change_of_the_algorithm(module: str, name: str, change: Any, usual: dict[str, Any],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    home = sys.modules[module]
    monkeypatch.setattr(home, name, change(getattr(home, name)))
    assert "the micro-run's" in str(difference(usual, stamp_of((), None, micro_run.micro_run())))
