"""The command `export`: what it writes from a finished run, and what it refuses. (tests/test_trl_export.py trains.)"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import finished_run
import pytest
from tiny_run import make_base, tiny_config

from rlhf_mini import cli
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.export import trl
from rlhf_mini.export.run_data import read_run
from rlhf_mini.language_model import EOS, load_language_model
from rlhf_mini.rankings import Ranking, from_dataset, load_rankings, save_rankings, to_pairs
from rlhf_mini.reward import load_reward_model
from rlhf_mini.run.saved_config import config_to_json


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of small settings."""
    folder = tmp_path_factory.mktemp("runs") / "001"
    with pytest.MonkeyPatch.context() as patch:
        finished_run.shrink_constants(patch)
        finished_run.make_run(folder)
    config = replace(tiny_config(folder / "sft", folder), seed=3, demonstrations=6)
    (folder / "config.json").write_text(json.dumps(config_to_json(config)))
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run.shrink_constants(monkeypatch)


def table(out: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "data" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The last line on stderr, with which the arguments are refused."""
    assert cli.main(["export", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_everything_of_a_run_is_written(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "for trl"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main(["export", str(run), "--to", "trl", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "'" + str(out) + "/train_trl.py'" in printed
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"settings.json", "train_trl.py", "README.md"} <= files
    assert {path.rpartition(".")[2] for path in files} == {"json", "jsonl", "safetensors", "py", "md"}  # no pickle
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    data = read_run(run)
    for name in trl.contents(data, trl.tables_of(data)):
        assert name in printed and f"`{name}`" in (out / "README.md").read_text() and (out / name).exists()
    assert [(row["prompt"], row["completion"]) for row in table(out, "sft")] == [
        (opening, " " + ending) for opening, ending in data.task.demonstrations]
    assert [row["prompt"] for row in table(out, "prompts")] == data.task.prompts
    for name, judgements in (("preferences", data.train), ("preferences_test", data.test)):
        read = from_dataset(table(out, name), "read again")
        assert sorted(to_pairs(read)) == sorted(set(to_pairs(judgements)))
    assert not {row["prompt"] for row in table(out, "preferences")} & data.task.test_prompts
    for name in ("base", "sft"):
        model, tokenizer = load_language_model(out / "models" / name)
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
    model, tokenizer = load_reward_model(out / "models" / "reward_model")
    source, _ = load_reward_model(run / "reward_model")
    assert all(value.equal(source.state_dict()[name]) for name, value in model.state_dict().items())
    kept = json.loads((out / "settings.json").read_text())
    assert kept["ppo"]["kl_coef"] == 0.15 and kept["seed"] == 3 and kept["context"] == 256


def test_the_folder_is_a_data_set_that_datasets_reads(run: Path, tmp_path: Path) -> None:
    import datasets

    trl.export_trl(run, tmp_path / "out")
    read = datasets.load_dataset(str(tmp_path / "out"), "preferences", split="train", cache_dir=str(tmp_path / "cache"))
    assert read.column_names == ["prompt", "chosen", "rejected"]
    assert list(read) == table(tmp_path / "out", "preferences")


def test_rankings_by_people_are_exported_as_the_run_divided_them(run: Path, tmp_path: Path) -> None:
    """A text that spells a special token is read otherwise by TRL: that is said."""
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    records = [Ranking(id=str(i), annotator="Ольга", prompt=f"Tom found{EOS * (i == 1)} {i}.", ranking=[[0], [1]],
                       completions=[f"He played it {i} times — «да».", "It was soup."]) for i in range(12)]
    save_rankings(records, copy / "rankings2.jsonl")
    (copy / "rankings2.jsonl").replace(copy / "rankings.jsonl")
    config = replace(tiny_config(copy / "sft", copy), rankings=(copy / "gone.jsonl",))
    (copy / "config.json").write_text(json.dumps(config_to_json(config)))
    with pytest.warns(UserWarning, match=r"TRL reads 1 of \d+ rows of \w+\.jsonl .*as other tokens") as notes:
        written = trl.export_trl(copy, tmp_path / "out")
    assert all(f"Tom found{EOS} 1." in str(note.message) for note in notes)
    rows = table(tmp_path / "out", "preferences") + table(tmp_path / "out", "preferences_test")
    judged = to_pairs(load_rankings(copy / "rankings.jsonl"))
    assert sorted((row["prompt"], row["chosen"], row["rejected"]) for row in rows) == sorted(
        (prompt, " " + better, " " + worse) for prompt, better, worse in judged)
    assert "— «да»" in (tmp_path / "out" / "data" / "sft.jsonl").read_text(encoding="utf-8")
    assert "the annotators" in written["data/preferences.jsonl"]


def test_a_run_without_its_settings_has_those_of_its_seed(run: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """As the recorded run that comes with the project."""
    (copy := tmp_path / "run").mkdir()
    for name in ("metrics.json", "rankings.jsonl", "sft", "reward_model"):
        (copy / name).symlink_to(run / name)
    monkeypatch.setattr("rlhf_mini.export.run_data.choose_sizes", lambda config, seen: replace(
        config, demonstrations=5))
    data = read_run(copy)
    assert data.config.seed == 3 and len(data.task.demonstrations) == 5


def test_nothing_is_overwritten(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path, tmp_path / "mine.txt", tmp_path / "link", run):
        line = refused(capsys, str(run), "--to", "trl", "--out", str(taken))
        assert f"{taken} is there already and holds something: choose another --out" in line
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    trl.export_trl(run, tmp_path / "empty")
    assert (tmp_path / "empty" / "train_trl.py").exists()


def test_what_cannot_be_exported_gets_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def line(source: Path | str) -> str:
        return refused(capsys, str(source), "--to", "trl", "--out", str(tmp_path / "out"))

    assert f"there is no folder {tmp_path / 'no'}: give the folder of a finished run" in line(tmp_path / "no")
    assert "holds no finished run, metrics.json is missing" in line(tmp_path)
    assert "run is empty: give a folder" in line("")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(run, unfinished)
    (unfinished / "metrics.json").unlink()
    assert f"finish it with python -m rlhf_mini --resume --out {unfinished}" in line(unfinished)
    shutil.copy(run / "metrics.json", unfinished)
    config = tiny_config(make_base(tmp_path / "base"), unfinished)
    (unfinished / "config.json").write_text(json.dumps(config_to_json(config)))
    shutil.rmtree(tmp_path / "base")
    assert f"the base of the run in {unfinished}: there is no folder '{tmp_path / 'base'}'" in line(unfinished)
    shutil.copy(run / "config.json", unfinished)
    (unfinished / "reward_model" / "model.safetensors").write_bytes(b"")
    assert "model.safetensors is empty" in line(unfinished)
    assert not (tmp_path / "out").exists()
    assert "choose from" in refused(capsys, str(run), "--to", "verl", "--out", str(tmp_path / "out"))


def test_without_datasets_it_says_what_to_install(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        trl.export_trl(run, tmp_path / "out")


# --- the page ---------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent / "notebooks" / "guide" / "past_one_machine.md").read_text(encoding="utf-8")


def functions_of_the_page() -> dict[str, Any]:
    space: dict[str, Any] = {}
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S):
        exec(compile(text, "past_one_machine.md", "exec"), space)  # the page is part of this repository
    return space


def test_the_page_s_functions_write_what_openrlhf_and_verl_read(run: Path, tmp_path: Path) -> None:
    import datasets

    out, space = tmp_path / "out", functions_of_the_page()
    trl.export_trl(run, out)
    space["for_openrlhf"](out, tmp_path / "openrlhf")
    for name in ("sft", "preferences"):
        lines = (tmp_path / "openrlhf" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        for before, after in zip(table(out, name), map(json.loads, lines), strict=True):
            assert after == {key: text if key == "prompt" else text + EOS for key, text in before.items()}
    space["for_verl"](out, tmp_path / "prompts.parquet")
    read = datasets.Dataset.from_parquet(str(tmp_path / "prompts.parquet"), cache_dir=str(tmp_path / "cache"))
    assert set(read.column_names) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    tokenizer = load_language_model(out / "models" / "sft")[1]
    template = re.search(r'custom_chat_template="(.*?)"', PAGE)
    assert template
    written = [tokenizer.apply_chat_template(row["prompt"], chat_template=template[1], tokenize=False) for row in read]
    assert written == [row["prompt"] for row in table(out, "prompts")]


def test_our_column_of_the_page_holds_our_defaults() -> None:
    cells = [row.split(" | ")[1] for row in PAGE.splitlines() if row.startswith("| ") and row.count(" | ") >= 5]
    stated = [pair for cell in cells for pair in re.findall(r"`(\w+)` ([\w.-]+?)(?=,|$| )", cell)]
    assert len(stated) == 12
    for name, value in stated:
        assert str(getattr(PPOConfig(), name)) in (value, str(float(value) if value[0].isdigit() else value)), name
