"""The command line: what it refuses, in one line, and what it does."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_mini import cli, pipeline, tales
from rlhf_mini.cli import main
from rlhf_mini.errors import InputError
from rlhf_mini.files import NotSavedError
from rlhf_mini.language_model import save_language_model
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.rankings import Ranking, save_rankings
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.saved_config import requested_config

INSTALLED = os.environ.get("RLHF_MINI_INSTALLED") == "required"  # by .ci/run: the wheel is tried, not the source tree
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "" if INSTALLED else str(Path(__file__).parents[1])}


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "rlhf_mini", *arguments], capture_output=True, text=True,
                          cwd=cwd, env=ENVIRONMENT, timeout=900, check=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the arguments are refused."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(("arguments", "reason"), [
    (["--sede", "3"], "--sede"),
    (["pretrian"], "pretrian"),
    (["--seed", "x"], "--seed"),
    (["--seed", "-1"], "seed"),
    (["--kl-coef", "-0.1"], "kl_coef"),
    (["--kl-coef", "nan"], "kl_coef"),
    (["--kl-coef", "much"], "--kl-coef"),
    (["--temperature", "0"], "temperature"),
    (["--temperature", "inf"], "temperature"),
    (["--base", "./no/such/folder"], "no/such/folder"),
    (["--base", "nobody/no-such-model"], "download"),
    (["--rankings", "no_such_file.jsonl"], "no_such_file.jsonl"),
    (["--resume", "--out", "no_such_run"], "no run to resume"),
    (["--resume"], "no unfinished run"),
    (["merge", "no_such_file.jsonl", "--out", "merged.jsonl"], "no_such_file.jsonl"),
    (["merge", "no_such_file.jsonl"], "--out"),
    (["seeds", "--out", "somewhere"], "--seeds"),
    (["pretrain", "--out", "somewhere", "--seed", "12345678901234567890"], "seed"),
    (["--out", "n" * 300], "too long"),
    (["--out", ""], "empty"),
    (["--rankings", ""], "empty"),
    (["pretrain", "--out", ""], "empty"),
    (["--out", "\udcff"], "not UTF-8"),
    (["pretrain", "--out", "\udcff"], "not UTF-8"),
    (["merge", "", "--out", "merged.jsonl"], "empty"),
    (["merge", "class.jsonl", "--out", ""], "empty"),
    (["--rankings", "\x1b[2Jfile.jsonl"], r"\x1b[2Jfile.jsonl"),
    (["--base", "no\nsuch\x1b[1Afolder"], r"\x1b"),
])
def test_bad_options_get_one_line(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str],
                                  tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []  # nothing was written


@pytest.mark.parametrize("content", [b"", b"not json\n", b'{"kind": "skip"}\n', b"\x00\xff\xfe\n"])
def test_damaged_ranking_files(content: bytes, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "rankings.jsonl").write_bytes(content)
    message = refused(capsys, "--rankings", str(tmp_path / "rankings.jsonl"), "--out", str(tmp_path / "run"))
    assert "rankings.jsonl" in message
    assert not (tmp_path / "run").exists()


def judgement(number: int, **other: object) -> dict[str, object]:
    return {"id": str(number), "annotator": "Ada", "prompt": f"p{number}", "completions": ["a", "b"],
            "ranking": [[0], [1]], **other}


@pytest.mark.parametrize(("records", "reason"), [
    ([judgement(1, prompt="half \ud800"), judgement(2)], "unpaired surrogate"),
    ([judgement(1, completions=["a", "\udfff"]), judgement(2)], "unpaired surrogate"),
    ([judgement(1), *(judgement(number, ranking=[[0, 1]]) for number in (2, 3))], "no preference"),
])
def test_rankings_that_nothing_can_be_learnt_from(records: list[dict[str, object]], reason: str, tmp_path: Path,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """The third file has one preference, which seed 3 keeps for the test: that may not come to light after training."""
    (tmp_path / "file.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    given = ("--rankings", str(tmp_path / "file.jsonl"), "--out", str(tmp_path / "run"), "--seed", "3")
    assert reason in refused(capsys, *given) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"sft": 3}', '"\\ud800"', "NaN", "[" * 100_000])
def test_settings_of_a_run_that_are_damaged_are_named(content: str, tmp_path: Path,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(RunConfig(out=tmp_path / "run")):
        pass
    (tmp_path / "run" / "config.json").write_text(content)
    assert "config.json" in refused(capsys, "--resume", "--out", str(tmp_path / "run"))


def test_a_base_that_is_no_language_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTModel"]}')
    assert str(tmp_path) in refused(capsys, "--base", str(tmp_path), "--out", str(tmp_path / "run"))


def test_help_answers_at_once_and_without_torch(tmp_path: Path) -> None:
    code = ("import sys, rlhf_mini.cli as cli\n"
            "try: cli.main(['--help'])\n"
            "finally: print('torch' in sys.modules)")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT,
                            cwd=tmp_path, check=True)
    assert "--kl-coef" in answer.stdout and "pretrain" in answer.stdout and answer.stdout.endswith("False\n")


def test_options_reach_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = requested_config({"out": Path("run"), "seed": 5, "kl_coef": 0.2, "adaptive": True, "quick": True,
                         "rankings": [Path("a.jsonl")], "temperature": 0.7, "base": "gpt2"})
    assert (config.seed, config.quick, config.base) == (5, True, "gpt2")
    assert (config.ppo.kl_coef, config.ppo.adaptive, config.ppo.temperature) == (0.2, True, 0.7)
    assert config.rankings == (tmp_path / "a.jsonl",)


def test_a_base_is_found_again_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert requested_config({"out": Path("run"), "base": "./mine"}).base == str((tmp_path / "mine").resolve())
    assert requested_config({"out": Path("run"), "base": "somebody/gpt2"}).base == "somebody/gpt2"
    with pytest.raises(InputError, match="--base is empty"):
        requested_config({"out": Path("run"), "base": ""})


def test_ranking_files_given_one_by_one_are_all_used() -> None:
    given = cli._run_parser().parse_args(["--rankings", "a.jsonl", "--rankings", "b.jsonl", "c.jsonl"])
    assert [path.name for path in given.rankings] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def full_disk(*_: object) -> None:
    raise NotSavedError(errno.ENOSPC, "not saved: a file cannot be written (No space left on device)")


def test_a_run_that_cannot_write_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(config: RunConfig, resume: bool) -> None:
        with RunFolder(config):
            full_disk()

    for run, advice in ((full_disk, "nothing has been written; repeat the command"),
                        (stopped, f"to continue: python -m rlhf_mini --resume --out '{tmp_path / 'a run'}'")):
        monkeypatch.setattr(pipeline, "run", run)
        assert main(["--out", str(tmp_path / "a run")]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and "No space left" in told and told.rstrip().endswith(advice)


@pytest.mark.parametrize("arguments", [["pretrain", "--out", "new"], ["seeds", "--seeds", "1", "--out", "new"]])
def test_another_command_that_cannot_write_is_to_be_repeated(arguments: list[str], capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, arguments[0], (cli.COMMANDS[arguments[0]][0], full_disk))
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.endswith("repeat the command\n")


def test_a_run_takes_no_warning_of_the_shells_for_an_error(tmp_path: Path) -> None:
    code = ("import sys, warnings; from rlhf_mini import cli\n"
            "def command(options):\n"
            "    warnings.warn('half\\n\\x1b[2J of it'); warnings.warn('old', FutureWarning); return 0\n"
            "cli.COMMANDS['merge'] = (cli.COMMANDS['merge'][0], command)\n"
            "sys.exit(cli.main(['merge', 'a', '--out', 'b']))")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
                           env={**ENVIRONMENT, "PYTHONWARNINGS": "error"})
    assert (ended.returncode, ended.stderr) == (0, "rlhf_mini: note: half \\x1b[2J of it\n")


def test_a_deleted_folder_to_be_in_gets_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "current folder" in refused(capsys, "--out", str(tmp_path / "run"))
    monkeypatch.chdir(tmp_path)


def test_merge_pools_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("Ada", "Bo"):
        record = Ranking(id=name, prompt="p", completions=["a", "b"], annotator=name, ranking=[[0], [1]])
        save_rankings([record], tmp_path / f"{name}.jsonl")
    files = [str(tmp_path / f"{name}.jsonl") for name in ("Ada", "Bo")]
    assert main(["merge", *files, "--out", str(tmp_path / "all.jsonl")]) == 0
    assert "2 records" in capsys.readouterr().out
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 2
    assert "exists" in refused(capsys, "merge", *files, "--out", str(tmp_path / "all.jsonl"))
    assert main(["merge", *files, "--out", str(tmp_path / "new/folder/all.jsonl")]) == 0
    assert (tmp_path / "new/folder/all.jsonl").exists()
    capsys.readouterr()
    assert main(["merge", *files, "--out", str(tmp_path / ("n" * 300))]) == 2
    assert "too long" in capsys.readouterr().err


@pytest.mark.filterwarnings("default::rlhf_mini.rankings.RankingFileWarning")
def test_merge_takes_a_folder_or_a_pattern_and_shows_names_in_one_line(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every shell replaces a pattern by the files; a name may hold what a terminal obeys."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "class").mkdir()
    for number, name in enumerate(("\x1b[2JBo\nCem  9  99%", "小明")):
        record = Ranking(id="\x1b[2J", prompt=str(number), completions=["a", "b"], annotator=name, ranking=[[0], [1]])
        save_rankings([record], tmp_path / "class" / f"{number}.jsonl")
    for number, given in enumerate(("class", "class/*.jsonl")):
        assert main(["merge", given, "--out", f"all{number}.jsonl"]) == 0
        told = capsys.readouterr()
        assert "1 records" in told.out and r"'\x1b[2JBo\nCem  9  99%'" in told.out and "小明" in told.err
        assert not {"\x1b", "\r"} & set(told.out + told.err)
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    assert "load_preferences" in refused(capsys, "merge", "pairs.jsonl", "--out", "pooled.jsonl")
    assert "no file matches" in refused(capsys, "merge", "none/*.jsonl", "--out", "pooled.jsonl")


def stopped_by_ctrl_c(command: list[str], out: Path, cwd: Path) -> None:
    """Start a run, press Ctrl-C when PPO has logged four iterations, and look at what it says and leaves."""
    process = subprocess.Popen([*command, "--out", str(out), "--seed", "1"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=cwd, preexec_fn=heed_ctrl_c)
    history = out / "history.jsonl"
    while process.poll() is None and not (history.exists() and history.read_bytes().count(b"\n") > 3):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "--resume" in errors and "Traceback" not in errors
    assert "not finished" in (out / "report.html").read_text()


def heed_ctrl_c() -> None:
    """A shell's background jobs ignore it, and so would everything that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_run_survives_ctrl_c(tmp_path: Path) -> None:
    """Real signals and real processes, with a model and stages that take a moment."""
    told = [f"{opening} {ending}" for opening, ending in map(tales.write, range(300))]
    tokenizer = train_tokenizer(told, vocab_size=400)
    save_language_model(new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=1,
                                           n_head=2, n_embd=32, n_positions=256, seed=0), tokenizer, tmp_path / "base")
    small = [sys.executable, str(Path(__file__).with_name("small_run.py")), "--base", str(tmp_path / "base")]
    stopped_by_ctrl_c(small, tmp_path / "run", tmp_path)
    resumed = subprocess.run([*small, "--resume", "--out", str(tmp_path / "run")], capture_output=True, text=True,
                             cwd=tmp_path, env=ENVIRONMENT, timeout=900, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "report.html" in resumed.stdout and "where the time went" in resumed.stdout
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["seed"] == 1


@pytest.mark.faults
def test_a_quick_run_survives_ctrl_c(tmp_path: Path) -> None:
    """The real thing in an empty folder, roughly: stopped by Ctrl-C in PPO, resumed, finished, not done again."""
    place = subprocess.run([sys.executable, "-c", "import rlhf_mini; print(rlhf_mini.__file__)"], capture_output=True,
                           text=True, cwd=tmp_path, env=ENVIRONMENT, check=True).stdout
    assert ("site-packages" in place) == INSTALLED, place
    out = tmp_path / "run"
    stopped_by_ctrl_c([sys.executable, "-m", "rlhf_mini", "run", "--quick"], out, tmp_path)

    resumed = command("--resume", "--out", str(out), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "report.html" in resumed.stdout and "where the time went" in resumed.stdout
    assert "not finished" not in (out / "report.html").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["sft"]["samples"] >= 512 and metrics["seed"] == 1
    assert metrics["sft"]["grammatical"] > metrics["base"]["grammatical"]

    again = command("--quick", "--out", str(out), cwd=tmp_path)
    assert again.returncode == 2 and "finished run" in again.stderr
