"""A run whose files are damaged, cut or missing is done again where that is needed, and ends with the same numbers."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import make_base, numbers, shrink_constants, tiny_config

from rlhf_mini import disk, pipeline, rankings
from rlhf_mini.cli import main
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.finished import finished_metrics, latest_unfinished
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.history import History
from rlhf_mini.run.json_files import read_json, write_json
from rlhf_mini.run.saved_config import config_to_json, load_config
from rlhf_mini.run.stages import Stages

STAGES = ("sft", "rankings", "reward_model", "ppo", "ppo_no_kl", "evaluation")


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
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "metrics.json").unlink()
    return out


def resumed(out: Path) -> tuple[dict[str, Any], list[str]]:
    """The numbers of a run that is resumed, and the stages that it said are done again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline.run(load_config(out), resume=True)
    said = [str(warning.message) for warning in caught]
    return numbers(out), [stage for stage in STAGES if any(f"stage '{stage}' is done again" in line for line in said)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def lines_of(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


DAMAGE: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "weights cut": (lambda out: cut(out / "sft" / "model.safetensors"), ["sft"]),
    "a tokenizer removed": (lambda out: (out / "sft" / "tokenizer.json").unlink(), ["sft"]),
    "rankings cut": (lambda out: cut(out / "rankings.jsonl"), ["rankings"]),
    "rankings without a line": (lambda out: lines_of(out / "rankings.jsonl", lambda x: x[:-1]), ["rankings"]),
    "a byte of the reward model": (lambda out: flip(out / "reward_model" / "model.safetensors"), ["reward_model"]),
    "figures that are texts": (lambda out: (out / "state" / "reward_model.json").write_text('{"accuracy": "x"}'),
                               ["reward_model"]),
    "a policy removed": (lambda out: shutil.rmtree(out / "policy"), ["ppo"]),
    "a history cut": (lambda out: cut(out / "history.jsonl"), ["ppo_no_kl"]),
    "a history without its first line": (lambda out: lines_of(out / "history.jsonl", lambda x: x[1:]), ["ppo"]),
    "a history without its last line": (lambda out: lines_of(out / "history.jsonl", lambda x: x[:-1]), ["ppo_no_kl"]),
    "another number in the history": (lambda out: lines_of(out / "history.jsonl", lambda x: [
        x[0].replace(b'"episodes": 6', b'"episodes": 7'), *x[1:]]), ["ppo"]),
    "an empty evaluation": (lambda out: (out / "state" / "evaluation.json").write_text("{}"), ["evaluation"]),
    "an evaluation removed": (lambda out: (out / "state" / "evaluation.json").unlink(), ["evaluation"]),
    "stages of another shape": (lambda out: (out / "state" / "stages.json").write_text('{"sft": {"done": true}}'), []),
    "no stages": (lambda out: (out / "state" / "stages.json").unlink(), []),
    "metrics cut": (lambda out: (out / "metrics.json").write_text('{"sft": {'), []),
    "metrics that are none": (lambda out: (out / "metrics.json").write_text('{"sft": {"gold_mean": "x"}}'), []),
    "settings cut": (lambda out: cut(out / "settings.json"), []),
}


SOME = [pytest.param(name, marks=[] if number % 3 == 1 else pytest.mark.faults) for number, name in enumerate(DAMAGE)]


@pytest.mark.parametrize("damage", SOME)
def test_what_is_damaged_is_done_again_and_nothing_else(damage: str, finished: Path, stopped: Path) -> None:
    harm, again = DAMAGE[damage]
    harm(stopped)
    found, said = resumed(stopped)
    assert found == numbers(finished)
    assert said == again
    assert not list(stopped.rglob("*.tmp"))


def test_stages_after_one_that_comes_out_differently_are_done_again(finished: Path, stopped: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    (stopped / "reward_model" / "model.safetensors").unlink()
    monkeypatch.setattr(pipeline, "NORMALISE_ON", 24)  # as another version might
    found, said = resumed(stopped)
    assert said == ["reward_model", "ppo", "ppo_no_kl", "evaluation"]
    assert found["weights"].keys() == numbers(finished)["weights"].keys() and found != numbers(finished)


@pytest.mark.parametrize("harm", ["no file", "cut", "not finite", "another model", "history is shorter"])
def test_a_state_of_ppo_that_cannot_be_used_lets_the_arm_begin_again(harm: str, finished: Path, stopped: Path) -> None:
    """The folder `state/ppo` is not taken for the file in it: a run stopped at its first checkpoint went nowhere."""
    state = stopped / "state" / "ppo" / "ppo_state.safetensors"
    shutil.rmtree(stopped / "policy")
    if harm == "no file":
        state.unlink()
        state.with_name("ppo_state.safetensors.1-0123abcd.tmp").write_bytes(b"half")
    elif harm == "history is shorter":
        lines_of(stopped / "history.jsonl", lambda x: [x[0], *x[5:]])
    elif harm == "another model":
        shutil.copy(stopped / "sft" / "model.safetensors", state)
    else:
        (cut if harm == "cut" else lambda path: path.write_bytes(with_nan(path)))(state)
    found, said = resumed(stopped)
    assert found == numbers(finished) and said == ["ppo"]
    assert not list(stopped.rglob("*.tmp"))


def with_nan(path: Path) -> bytes:
    """The last number of a file of float32 tensors is not a number any more."""
    return path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f"


def test_a_copy_of_given_rankings_that_was_cut_is_made_again(finished: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "given.jsonl", tmp_path / "run"
    shutil.copy(finished / "rankings.jsonl", source)
    config = replace(load_config(finished), out=out, rankings=(source,))
    unbroken = pipeline.run(replace(config, out=tmp_path / "unbroken"))
    pipeline.run(config)
    (out / "metrics.json").unlink()
    cut(out / "rankings.jsonl")
    with pytest.warns(UserWarning, match=r"'rankings' is done again, as rankings\.jsonl is missing or has changed"):
        metrics = pipeline.run(config, resume=True)
    assert (out / "rankings.jsonl").read_bytes() == (tmp_path / "unbroken" / "rankings.jsonl").read_bytes()
    assert {**metrics, "seconds": 0} == {**unbroken, "seconds": 0}
    (out / "metrics.json").unlink()
    cut(out / "rankings.jsonl")
    source.unlink()
    with pytest.raises(InputError, match=r"given\.jsonl cannot be read"):
        pipeline.run(config, resume=True)


def test_a_base_that_was_trained_on_since_is_fine_tuned_again(finished: Path, tmp_path: Path) -> None:
    """Or the base model of the report would be another than the one that the run began with."""
    base, out = tmp_path / "base", tmp_path / "run"
    shutil.copytree(finished.parent / "base", base)
    pipeline.run(tiny_config(base, out))
    (out / "metrics.json").unlink()
    model, tokenizer = load_language_model(base)
    with torch.no_grad():
        next(model.parameters())[:9] += 0.1
    save_language_model(model, tokenizer, base)
    found, said = resumed(out)
    assert said == list(STAGES)
    pipeline.run(tiny_config(base, tmp_path / "again" / "run"))
    assert found == numbers(tmp_path / "again" / "run") != numbers(finished)


def test_settings_are_adapted_again_to_rankings_that_have_changed(finished: Path, tmp_path: Path) -> None:
    """The limit of the endings that the shorter prompts had left was kept, and led beyond the context."""
    source, out = tmp_path / "given.jsonl", tmp_path / "run"
    shutil.copy(finished / "rankings.jsonl", source)
    config = replace(load_config(finished), out=out, rankings=(source,))
    pipeline.run(config)
    before = json.loads((out / "settings.json").read_text())["ppo"]["max_new_tokens"]
    (out / "metrics.json").unlink()
    cut(out / "rankings.jsonl")
    longer = [replace(record, prompt=record.prompt + " a" * 60) for record in rankings.load_rankings(source)]
    source.unlink()
    rankings.save_rankings(longer, source)
    found, said = resumed(out)
    with warnings.catch_warnings(action="ignore"):  # some are left out
        pipeline.run(replace(config, out=tmp_path / "anew" / "run"))
    assert found == numbers(tmp_path / "anew" / "run") and set(said) >= {"rankings", "sft", "evaluation"}
    assert json.loads((out / "settings.json").read_text())["ppo"]["max_new_tokens"] <= before


@pytest.mark.parametrize("name", ["history.jsonl", "sft", "state/stages.json", "report.html"])
def test_a_link_in_a_run_is_not_written_through(name: str, stopped: Path, tmp_path: Path) -> None:
    place, target = stopped / name, tmp_path / "target"
    if place.is_dir():
        shutil.rmtree(place)
        target.mkdir()
    else:
        place.unlink()
        target.write_text("somebody's")
    place.symlink_to(target)
    with pytest.raises(InputError, match=f"{place.name} is a link"):
        pipeline.run(load_config(stopped), resume=True)
    assert list(target.iterdir()) == [] if target.is_dir() else target.read_text() == "somebody's"


def test_what_others_keep_in_the_folder_of_a_run_stays(finished: Path, tmp_path: Path) -> None:
    """Links, unfinished files of other programs, and a folder called tmp are none of a run's business."""
    out = tmp_path / "project"
    (out / "thesis.tmp").mkdir(parents=True)
    (out / "thesis.tmp" / "chapter.txt").write_text("mine")
    (out / "notes.tmp").write_text("mine")
    (out / "link").symlink_to(tmp_path)
    (out / "metrics.json.99-0123abcd.tmp").write_text("left by a run that was killed")
    with RunFolder(replace(load_config(finished), out=out)):
        pass
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if "link" not in path.parts}
    assert {"thesis.tmp/chapter.txt", "notes.tmp"} <= left and "metrics.json.99-0123abcd.tmp" not in left
    assert (out / "link").is_symlink()


def test_a_base_that_has_changed_lets_every_stage_be_done_again(finished: Path, stopped: Path, tmp_path: Path) -> None:
    config = load_config(stopped)
    base = tmp_path / "base"
    shutil.copytree(str(config.base), base)
    config = replace(config, base=str(base))
    write_json(stopped / "config.json", config_to_json(config))
    assert resumed(stopped)[1] == []
    (stopped / "metrics.json").unlink()
    model, tokenizer = load_language_model(base)
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    save_language_model(model, tokenizer, base)
    found, said = resumed(stopped)
    assert said == list(STAGES)
    pipeline.run(replace(config, out=tmp_path / "anew" / "run"))
    assert found == numbers(tmp_path / "anew" / "run") != numbers(finished)


def test_metrics_of_another_version_are_not_replaced(stopped: Path, finished: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    del metrics["best_of_16"]
    metrics["versions"]["rlhf_mini"] = "0.0.1"
    (stopped / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match=r"metrics\.json is of another version of rlhf_mini, '0\.0\.1'"):
        pipeline.run(load_config(stopped), resume=True)
    with pytest.raises(InputError, match="no unfinished run"):
        latest_unfinished(stopped.parent)


def test_a_model_is_saved_where_only_its_own_folder_can_be_written(finished: Path, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, a mounted disk, or one whose parent belongs to somebody else: what is there is kept."""
    model, tokenizer = load_language_model(finished / "sft")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    monkeypatch.chdir(folder)
    save_language_model(model, tokenizer, ".")
    assert (folder / "README.md").read_text() == "mine" and not list(folder.glob("*.tmp"))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    load_language_model(folder)
@pytest.mark.parametrize("extra", [b'{"arm": "ppo", "iteration": 99}\n', b"\0" * 40, "the lines of another attempt"])
def test_a_finished_history_has_each_iteration_once_and_nothing_else(extra: Any, finished: Path, stopped: Path) -> None:
    history = stopped / "history.jsonl"
    lines = history.read_bytes().splitlines(keepends=True)
    history.write_bytes(b"".join([*lines, *(lines[:2] if isinstance(extra, str) else [extra])]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed(stopped)
    assert history.read_bytes() == (finished / "history.jsonl").read_bytes()


LACKS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a figure": lambda metrics: metrics["sft"].pop("gold_std"), "versions": lambda metrics: metrics.pop("versions"),
    "a number": lambda metrics: metrics["ppo"].update(kl=None), "seconds": lambda metrics: metrics.pop("seconds"),
    "what only some know": lambda metrics: metrics["ppo"].update(gold_mean=None),
    "a sum": lambda metrics: metrics["seconds"].update(total=None),
    "numbers for seconds": lambda metrics: metrics["seconds"].update(sft="long"),
    "reasons by name": lambda metrics: metrics.update(reasons=["none"])}


@pytest.mark.parametrize("part", LACKS)
def test_metrics_that_lack_what_is_shown_are_no_finished_run(part: str, finished: Path, tmp_path: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    LACKS[part](metrics)
    write_json(tmp_path / "metrics.json", metrics)
    assert finished_metrics(finished) is not None and finished_metrics(tmp_path) is None


def test_a_finished_run_is_not_shown_for_other_settings(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--resume", "--out", str(finished), "--seed", "0"]) == 0
    assert "PPO with KL" in capsys.readouterr().out
    assert main(["--resume", "--out", str(finished), "--seed", "7"]) == 2
    assert "started with seed = 0, not 7" in capsys.readouterr().err


def test_a_folder_that_is_moved_while_the_run_goes_on_is_not_made_anew(finished: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest went into a new folder under the old name, which looked finished and had half of the files."""
    out, elsewhere = tmp_path / "run", tmp_path / "elsewhere" / "run"
    elsewhere.parent.mkdir()
    append, lines = History.append, []

    def and_move(history: History, line: dict[str, Any]) -> None:
        append(history, line)
        lines.append(line)
        if len(lines) == 3:
            out.rename(elsewhere)

    monkeypatch.setattr(History, "append", and_move)
    with pytest.raises(InputError, match="moved or removed"):
        pipeline.run(replace(load_config(finished), out=out))
    assert not out.exists() and len(lines) == 3
    assert resumed(elsewhere) == (numbers(finished), [])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("metrics.json", "config.json", "history.jsonl"):
        os.mkfifo(tmp_path / name)
    assert finished_metrics(tmp_path) is None
    for read in (lambda: load_config(tmp_path), History(tmp_path / "history.jsonl").read):
        with pytest.raises(InputError, match="it is a pipe"):
            read()


def test_what_a_person_has_in_the_folder_of_a_run_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "run"
    mine = out / "thesis.tmp"
    left = [out / "metrics.json.12-0123abcd.tmp", out / "state" / "stages.json.12-0123abcd.tmp"]
    out.mkdir()
    mine.write_text("mine")
    with RunFolder(RunConfig(out=out)):
        pass
    for path in left:
        path.write_text("half")
    with RunFolder(RunConfig(out=out), resume=True):
        assert mine.read_text() == "mine" and not any(path.exists() for path in left)


def test_a_state_that_no_run_has_made_is_not_touched(tmp_path: Path) -> None:
    """The stage `rankings` begins with an empty state/rankings."""
    mine = tmp_path / "state" / "rankings" / "mine.jsonl"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match="already has a state"), RunFolder(RunConfig(out=tmp_path)):
        pass
    assert mine.read_text() == "mine"
    shutil.rmtree(mine.parent)
    (tmp_path / "state" / "lock").write_text("1")  # by a process that was killed at once
    with RunFolder(RunConfig(out=tmp_path)):
        pass


@pytest.mark.parametrize("setting", ["double precision", "a device", "no gradients", "inference"])
def test_what_a_caller_has_set_in_torch_changes_no_number(setting: str, finished: Path, tmp_path: Path) -> None:
    config = replace(load_config(finished), out=tmp_path / "run")
    with ExitStack() as back:
        if setting == "double precision":
            torch.set_default_dtype(torch.float64)
            back.callback(torch.set_default_dtype, torch.float32)
        elif setting == "a device":
            torch.set_default_device("meta")
            back.callback(torch.set_default_device, None)
        else:
            back.enter_context(torch.no_grad() if setting == "no gradients" else torch.inference_mode())
        pipeline.run(config)
        assert torch.is_grad_enabled() == (setting in ("double precision", "a device"))
        assert (torch.get_default_dtype() == torch.float64) == (setting == "double precision")
        assert (torch.get_default_device().type == "meta") == (setting == "a device")
    assert numbers(tmp_path / "run") == numbers(finished)


def test_a_path_that_is_not_utf_8_is_written_and_read_again(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"path": "\udcff.jsonl", "name": "小明"})
    assert read_json(tmp_path / "x.json", None) == {"path": "\udcff.jsonl", "name": "小明"}


# --- one line or a right value, whatever a file holds ------------------------------------------------------------

JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(
                        ["arm", "iteration", "score", "seconds", "stages", "read", "made", "sft"]), inner, max_size=4))
CONTENT = st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode())
LINE = st.sampled_from([
    b'{"arm": "ppo", "iteration": 1, "score": 0.5}', b'{"arm": "ppo", "iteration": 2}', b"", b"\0" * 9,
    b'{"arm": "ppo_no_kl", "iteration": 1, "score": NaN}', b'{"arm": "x", "iteration": 1}'])


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(CONTENT | LINE, max_size=6), iterations=st.integers(0, 3))
def test_any_history(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], iterations: int) -> None:
    history = History(tmp_path_factory.mktemp("history") / "history.jsonl")
    history.path.write_bytes(b"\n".join(lines))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = history.of_arm("ppo")
        history.keep("ppo", iterations)
    assert history.of_arm("ppo") == before[:iterations]
    assert [line["iteration"] for line in before] == list(range(1, len(before) + 1))
    history.append({"arm": "ppo", "iteration": len(before[:iterations]) + 1, "score": float("inf")})
    assert history.of_arm("ppo")[-1]["score"] is None


@settings(max_examples=60, deadline=None)
@given(content=CONTENT)
def test_any_stages(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("stages") / "stages.json"
    path.write_bytes(content)
    stages = Stages(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stages.load()
    assert stages.seconds >= 0
    stages.save(1.5)
    again = Stages(path)
    again.load()
    assert (again.seconds, again.by_name) == (1.5, stages.by_name)


@settings(max_examples=40, deadline=None)
@given(content=CONTENT)
def test_any_metrics(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "metrics.json").write_bytes(content)
    assert finished_metrics(folder) is None


def test_history_names_the_line_that_it_leaves_out(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.append({"arm": "ppo", "iteration": 1})
    for line, why in ((b'{"arm": "ppo", "iter', "Unterminated"), (b"\0" * 40, ""),
                      (b'{"iteration": 1}', "not an iteration"),
                      (b"[1]", "not an iteration"), (b'{"arm": "\xff"}', "utf-8"),
                      (b'{"arm": "ppo", "iteration": 2, "score": "high"}', "its score is not a number")):
        history.path.write_bytes(history.path.read_bytes().split(b"\n")[0] + b"\n" + line + b"\n")
        with pytest.warns(UserWarning, match=rf"history\.jsonl, line 2 is left out: .*{why}"):
            assert len(history.read()) == 1


def test_a_run_without_locks_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(disk.fcntl, "flock", no_locks)
    monkeypatch.setattr(disk, "_TOLD", [])
    with pytest.warns(disk.FileSystemWarning, match="no locks") as caught, RunFolder(RunConfig(out=tmp_path / "run")):
        pass
    assert len(caught) == 1
