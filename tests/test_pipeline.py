"""The whole loop on a tiny model: what it leaves behind, and that stopping it changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_mini import pipeline, rankings, tales
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.pretrain import new_language_model, train_tokenizer
from rlhf_mini.run import progress as progress_module
from rlhf_mini.run import results, tasks
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.finished import latest_unfinished, next_folder
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.history import History
from rlhf_mini.run.json_files import write_json
from rlhf_mini.run.saved_config import config_to_json, load_config
from rlhf_mini.run.seeds import markdown, run_seeds
from rlhf_mini.run.settings import adapt_to_model, choose_sizes
from rlhf_mini.run.tasks import Task, given_rankings, make_task, seed_for
from rlhf_mini.sft import train_sft
from rlhf_mini.tables import summary

MODELS = ("base", "sft", "best_of_4", "best_of_16", "ppo", "ppo_no_kl")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 that has seen a few tales."""
    told = [tales.write(seed, "train") for seed in range(1500)]
    tokenizer = train_tokenizer([f"{opening} {ending}" for opening, ending in told], vocab_size=512)
    model = new_language_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, n_layer=1,
                               n_head=2, n_embd=48, n_positions=192, seed=0)
    list(train_sft(model, tokenizer, told, SFTConfig(steps=90, batch_size=16, learning_rate=5e-3)))
    folder = tmp_path_factory.mktemp("tiny-tales")
    save_language_model(model, tokenizer, folder)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that a test can afford."""
    monkeypatch.setattr(tasks, "PPO_PROMPTS", 40)
    monkeypatch.setattr(pipeline, "NORMALISE_ON", 40)
    monkeypatch.setattr(pipeline, "SAVE_EVERY", 2)
    monkeypatch.setattr(results, "BEST_OF_PROMPTS", 8)


@pytest.fixture
def config(checkpoint: Path, tmp_path: Path) -> RunConfig:
    return RunConfig(out=tmp_path / "run", base=str(checkpoint), foreign_sft_steps=6, demonstrations=100,
                     openings=24, judged_by_all=3, samples=16, sft=SFTConfig(steps=6, batch_size=8),
                     reward=RewardConfig(epochs=1), ppo=PPOConfig(iterations=5, episodes=8, minibatches=2, kl_coef=0.1))


@pytest.fixture(scope="session")
def finished(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunConfig]:
    """A run that nothing stopped; tests look at it and leave it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        small.__wrapped__(patch)  # type: ignore[attr-defined]
        made = config.__wrapped__(checkpoint, tmp_path_factory.mktemp("finished"))  # type: ignore[attr-defined]
        pipeline.run(made)
        yield made


def load_task(config: RunConfig) -> Task:
    return make_task(config, given_rankings(config, None))


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def without_seconds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def stop_at(monkeypatch: pytest.MonkeyPatch, title: str, step: int) -> None:
    """Raise KeyboardInterrupt as the given step of a stage is shown."""
    def progress(steps: Any, total: int, name: str, describe: Callable[[Any], str],
                 done: int = 0) -> Iterator[Any]:
        for number, item in enumerate(steps, done + 1):
            describe(item)
            if (name, number) == (title, step):
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(progress_module, "progress", progress)
    for module in (pipeline, results):
        monkeypatch.setattr(module, "progress", progress)


def test_a_run_leaves_what_others_rely_on(finished: RunConfig) -> None:
    metrics = metrics_of(finished.out)
    for name in MODELS:
        assert set(metrics[name]) == {"gold_mean", "gold_std", "proxy_mean", "kl", "grammatical", "coherent",
                                      "ended", "distinct", "length_tokens", "samples"}
        assert metrics[name]["samples"] == (8 if name.startswith("best") else finished.samples)
        assert metrics[name]["gold_mean"] is not None
    assert metrics["sft"]["kl"] == 0 and metrics["base"]["kl"] > 0
    assert metrics["best_of_16"]["proxy_mean"] >= metrics["best_of_4"]["proxy_mean"]
    reward_model = metrics["reward_model"]
    assert 0 <= reward_model["accuracy"] <= 1 and 0.5 <= reward_model["accuracy_ceiling"] <= 1
    assert reward_model["pairs_train"] > 0 and reward_model["pairs_test"] > 0 and reward_model["calibration"]
    assert metrics["seed"] == 0 and metrics["reasons"] == {} and "torch" in metrics["versions"]
    stages = {"sft", "rankings", "reward_model", "ppo", "ppo_no_kl", "evaluation", "other", "total"}
    assert set(metrics["seconds"]) == stages
    page = (finished.out / "report.html").read_text()
    assert "PPO with KL" in page and "not finished" not in page
    stories = json.loads((finished.out / "samples.json").read_text())["stories"]
    assert len(stories) == 8 and set(MODELS) < set(stories[0])


def test_the_settings_that_a_run_started_with_are_those_it_goes_on_with(config: RunConfig, finished: RunConfig) -> None:
    used = load_config(finished.out, "settings.json")
    assert used.ppo.seed == seed_for(finished.seed, "ppo") != finished.ppo.seed  # adapted, not as requested
    with RunFolder(config) as folder:
        folder.recorded_settings(replace(config, samples=99))
    with RunFolder(config, resume=True) as folder:
        assert folder.recorded_settings(config).samples == 99
    assert load_config(config.out).samples == config.samples


def test_the_models_load_with_plain_transformers(finished: RunConfig) -> None:
    for name in ("sft", "policy", "policy_no_kl"):
        AutoModelForCausalLM.from_pretrained(finished.out / name)
    assert AutoModelForSequenceClassification.from_pretrained(finished.out / "reward_model").num_labels == 1


def test_history_has_every_iteration_of_both_arms(finished: RunConfig) -> None:
    history = History(finished.out / "history.jsonl").read()
    assert [(line["arm"], line["iteration"]) for line in history] == [
        (arm, i) for arm in ("ppo", "ppo_no_kl") for i in range(1, 6)]
    first, other = history[0], history[5]
    assert {"score", "gold", "grammatical", "coherent", "kl", "clip_fraction", "entropy"} <= set(first)
    same = {"score", "score_std", "gold", "grammatical", "coherent", "kl", "entropy", "length", "ended"}
    assert {first[name] == other[name] for name in same} == {True}  # the arms start alike and sample alike
    assert first["kl_coef"] == 0.1 and other["kl_coef"] == 0


def test_rankings_are_the_panels_and_test_prompts_are_held_out(finished: RunConfig) -> None:
    records = rankings.load_rankings(finished.out / "rankings.jsonl")
    prompts = {record.prompt for record in records}
    assert {record.annotator for record in records} == {annotator.name for annotator in tales.PANEL}
    assert len(prompts) == 24 and len(records) == 3 * 5 + 21
    assert sum(tales.is_held_out(prompt) for prompt in prompts) == round(tasks.TEST_SHARE * 24)
    assert {record.session for record in records} == {records[0].session}
    assert "simulated" in records[0].session


def test_however_often_it_is_stopped_its_numbers_are_the_same(config: RunConfig, finished: RunConfig,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    stops = [("fine-tuning", 3), ("reward model", 2), ("PPO with KL", 4), ("PPO without KL", 3),
             ("evaluation", 6)]
    for number, (title, step) in enumerate(stops):
        stop_at(monkeypatch, title, step)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(config, resume=number > 0)
        assert "not finished" in (config.out / "report.html").read_text()
    stop_at(monkeypatch, "nowhere", 0)
    metrics = pipeline.run(config, resume=True)

    assert metrics == metrics_of(config.out)
    unbroken = metrics_of(finished.out)
    for each in (metrics, unbroken):
        del each["seconds"]
    assert metrics == unbroken
    lines = [History(made.out / "history.jsonl").read() for made in (config, finished)]
    assert without_seconds(lines[0]) == without_seconds(lines[1])
    for name in ("sft", "reward_model", "policy", "policy_no_kl"):
        files = [(made.out / name / "model.safetensors").read_bytes() for made in (config, finished)]
        assert files[0] == files[1], name
    assert (config.out / "samples.json").read_bytes() == (finished.out / "samples.json").read_bytes()


def test_judging_goes_on_where_it_stopped(config: RunConfig, finished: RunConfig,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    appended = []
    append = rankings.RankingStore.append

    def stopping(store: Any, record: Any) -> Any:
        appended.append(record)
        if len(appended) == 17:
            raise KeyboardInterrupt
        return append(store, record)

    monkeypatch.setattr(rankings.RankingStore, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    stop_at(monkeypatch, "reward model", 1)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, resume=True)
    assert len(appended) == 1 + 36  # what was stored is not asked again
    resumed, unbroken = ([(r.prompt, r.annotator, r.ranking) for r in tasks.sorted_judgements(
        rankings.load_rankings(made.out / "rankings.jsonl"))] for made in (config, finished))
    assert resumed == unbroken


def test_a_run_is_never_overwritten(config: RunConfig, finished: RunConfig,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    before = (finished.out / "metrics.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(InputError, match="finished run"):
            pipeline.run(finished, resume)
    assert (finished.out / "metrics.json").read_bytes() == before

    stop_at(monkeypatch, "fine-tuning", 1)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    with pytest.raises(InputError, match="unfinished run: continue it with --resume"):
        pipeline.run(config)
    with pytest.raises(InputError, match=r"started with ppo\.kl_coef = 0\.1, not 0\.2"):
        pipeline.run(replace(config, ppo=replace(config.ppo, kl_coef=0.2)), resume=True)
    with RunFolder(config, resume=True), pytest.raises(InputError, match="in use by process"):
        pipeline.run(config, resume=True)


def test_folders_that_cannot_be_used(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        pipeline.run(replace(config, out=tmp_path / "file"))
    with pytest.raises(InputError, match="cannot be written to"):
        pipeline.run(replace(config, out=tmp_path / "file" / "below"))
    with pytest.raises(InputError, match="no run to resume"):
        pipeline.run(config, resume=True)
    config.out.mkdir()
    (config.out / "report.html").write_text("somebody's")
    with pytest.raises(InputError, match=r"already has a report\.html"):
        pipeline.run(config)
    assert [path.name for path in config.out.iterdir()] == ["report.html"]


def other_text(path: Path, prompts: int, annotator: str = "Ada") -> Path:
    """Judgements of text that is not tales."""
    records = [rankings.Ranking(id=f"{annotator}{i}", prompt=f"Line {i}", annotator=annotator,
                                completions=[f"is number {i}", f"was number {i} again", "no"],
                                ranking=[[0], [1, 2]] if i % 2 else [[1], [0], [2]]) for i in range(prompts)]
    rankings.save_rankings(records, path)
    return path


def test_other_peoples_rankings_of_other_text(config: RunConfig, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    files = (other_text(tmp_path / "a.jsonl", 40), other_text(tmp_path / "b.jsonl", 5, "Bo"))
    config = replace(config, rankings=files)
    stop_at(monkeypatch, "PPO with KL", 3)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    for file in files:
        file.unlink()  # the run has its own copy
    stop_at(monkeypatch, "nowhere", 0)
    metrics = pipeline.run(config, resume=True)
    for name in MODELS:
        assert all(metrics[name][key] is None for key in ("gold_mean", "gold_std", "grammatical", "coherent"))
        assert metrics[name]["proxy_mean"] is not None
    assert "not tales" in metrics["reasons"]["gold"] and "accuracy_ceiling" in metrics["reasons"]
    assert metrics["reward_model"]["accuracy_ceiling"] is None
    assert metrics["reward_model"]["accuracy"] is not None
    assert metrics["reward_model"]["pairs_train"] > metrics["reward_model"]["pairs_test"] > 0
    assert {line["gold"] for line in History(config.out / "history.jsonl").read()} == {None}
    assert "not tales" in summary(metrics, config.out)


def test_the_task_of_given_rankings(config: RunConfig, tmp_path: Path) -> None:
    task = load_task(replace(config, rankings=(other_text(tmp_path / "a.jsonl", 40),)))
    assert len(task.prompts) == 33 and len(task.test_prompts) == 7
    assert not set(task.prompts) & task.test_prompts and set(task.held_out) == task.test_prompts
    assert {prompt for prompt, _ in task.demonstrations} == set(task.prompts)
    best = {f"Line {i}": f"is number {i}" if i % 2 else f"was number {i} again" for i in range(40)}
    assert all(best[prompt] == ending for prompt, ending in task.demonstrations)


def test_given_rankings_of_tales_keep_their_gold(config: RunConfig, finished: RunConfig,
                                                 tmp_path: Path) -> None:
    told = [tales.write(seed) for seed in range(8)]
    records = [rankings.Ranking(id=str(i), prompt=opening, completions=[ending, "Blue the."], annotator="Ada",
                                ranking=[[0], [1]]) for i, (opening, ending) in enumerate(told)]
    rankings.save_rankings(records, tmp_path / "a.jsonl")
    task = load_task(replace(config, rankings=(tmp_path / "a.jsonl",)))
    assert task.tales_world and not task.panel  # gold is known; what Ada would truly prefer is not
    task = load_task(replace(config, rankings=(finished.out / "rankings.jsonl",)))
    assert task.panel


@pytest.mark.parametrize(("ranking", "prompts"), [([[0, 1]], 5), ([[0], [1]], 1)])
def test_rankings_that_teach_nothing(config: RunConfig, tmp_path: Path, ranking: Any, prompts: int) -> None:
    records = [rankings.Ranking(id=str(i), prompt=f"Line {i}", completions=["a", "b"], annotator="Ada",
                                ranking=ranking) for i in range(prompts)]
    rankings.save_rankings(records, tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="rank at least two prompts"):
        pipeline.run(replace(config, rankings=(tmp_path / "a.jsonl",)))
    assert not config.out.exists()


def test_an_accuracy_that_nothing_tells_has_a_reason(config: RunConfig, tmp_path: Path) -> None:
    """All is tied in the prompts that are kept for the test."""
    tied = load_task(replace(config, rankings=(other_text(tmp_path / "a.jsonl", 12),))).test_prompts
    records = [replace(one, ranking=[[0, 1, 2]]) if one.prompt in tied else one
               for one in rankings.load_rankings(tmp_path / "a.jsonl")]
    rankings.save_rankings(records, tmp_path / "b.jsonl")
    metrics = pipeline.run(replace(config, rankings=(tmp_path / "b.jsonl",)))
    assert metrics["reward_model"]["accuracy"] is None
    assert "no preference" in metrics["reasons"]["accuracy"]


def test_one_sample_has_no_standard_deviation() -> None:
    with pytest.raises(InputError, match=r"RunConfig\.samples"):
        RunConfig(samples=1)


def test_a_run_leaves_one_odd_prompt_out(config: RunConfig, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped and continued, it goes on with the same division."""
    records = [rankings.Ranking(id=str(i), prompt=f"Line {i} " + "word " * 200 * (i == 3),
                                completions=["a", "b"], annotator="Ada", ranking=[[0], [1]])
               for i in range(10)]
    rankings.save_rankings(records, tmp_path / "a.jsonl")
    config = replace(config, rankings=(tmp_path / "a.jsonl",))
    tasks_of_runs = []
    learn_score = pipeline.learn_score

    def noting(context: Any, *others: Any) -> Any:
        tasks_of_runs.append(context.task)
        return learn_score(context, *others)

    monkeypatch.setattr(pipeline, "learn_score", noting)
    stop_at(monkeypatch, "PPO with KL", 1)
    with pytest.warns(UserWarning, match="1 of 10 rankings are left out, the first with the prompt 'Line 3"), \
            pytest.raises(KeyboardInterrupt):
        pipeline.run(config)
    stop_at(monkeypatch, "nowhere", 0)
    with pytest.warns(UserWarning, match="1 of 10 rankings are left out"):
        metrics = pipeline.run(config, resume=True)
    assert metrics["ppo"]["samples"] == config.samples
    assert tasks_of_runs[0] == tasks_of_runs[1] and len(tasks_of_runs[0].judgements) == 9


def test_completions_longer_than_the_context_are_left_out(config: RunConfig, tmp_path: Path,
                                                          checkpoint: Path) -> None:
    records = [rankings.Ranking(id=str(i), prompt=f"Line {i}", annotator="Ada", ranking=[[1], [0]],
                                completions=["a", "b" + " word" * 200 * (i == 3)]) for i in range(10)]
    rankings.save_rankings(records, tmp_path / "a.jsonl")
    config = replace(config, rankings=(tmp_path / "a.jsonl",))
    model, tokenizer = load_language_model(checkpoint)
    with pytest.warns(UserWarning, match="1 of 10 rankings are left out"):
        _, task = adapt_to_model(config, model, tokenizer, load_task(config))
    assert len(task.judgements) == 9 and "Line 3" not in {prompt for prompt, _ in task.demonstrations}


def test_a_foreign_gpt2_goes_through_the_same_loop(config: RunConfig, foreign_folder: Path,
                                                   monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rankings_file = other_text(tmp_path / "a.jsonl", 12)
    metrics = pipeline.run(replace(config, base=str(foreign_folder), rankings=(rankings_file,)))
    assert metrics["ppo"]["samples"] == config.samples


def test_settings_follow_from_model_and_data(config: RunConfig, checkpoint: Path, tmp_path: Path) -> None:
    assert choose_sizes(RunConfig(), seen_tales=False).sft.steps == RunConfig().foreign_sft_steps
    assert choose_sizes(RunConfig(), seen_tales=True).sft.steps == RunConfig().sft.steps
    quick = choose_sizes(RunConfig(quick=True), seen_tales=True)
    assert quick.openings == 200 and quick.ppo.iterations == 10 and quick.samples == 512
    model, tokenizer = load_language_model(checkpoint)
    task = load_task(config)
    made, _ = adapt_to_model(config, model, tokenizer, task)
    assert len({made.sft.seed, made.reward.seed, made.ppo.seed}) == 3
    assert made.sft.learning_rate == config.sft.learning_rate  # no wider than the model it was chosen for
    model.config.hidden_size = 768
    wide, _ = adapt_to_model(config, model, tokenizer, task)
    assert wide.ppo.learning_rate == pytest.approx(config.ppo.learning_rate / 6)


def test_config_is_written_and_read_back(tmp_path: Path) -> None:
    config = RunConfig(out=tmp_path, seed=4, rankings=(tmp_path / "a.jsonl",), ppo=PPOConfig(kl_coef=0.3))
    write_json(tmp_path / "config.json", config_to_json(config))
    assert load_config(tmp_path) == config
    (tmp_path / "config.json").write_text('{"seed": -1')
    with pytest.raises(InputError, match="cannot be read"):
        load_config(tmp_path)


def test_folders_of_runs_are_numbered(tmp_path: Path) -> None:
    assert next_folder(tmp_path) == tmp_path / "001"
    for name in ("001", "007", "notes"):
        (tmp_path / name).mkdir()
    assert next_folder(tmp_path) == tmp_path / "008"
    with pytest.raises(InputError, match="no unfinished run"):
        latest_unfinished(tmp_path)
    (tmp_path / "007" / "config.json").write_text("{}")
    assert latest_unfinished(tmp_path) == tmp_path / "007"


def test_a_torn_line_of_history_is_left_out(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for i in range(3):
        history.append({"arm": "ppo", "iteration": i + 1})
    with history.path.open("a") as file:
        file.write('{"arm": "ppo", "iter')
    with pytest.warns(UserWarning, match=r"history.jsonl, line 4 is left out"):
        assert len(history.read()) == 3
    with pytest.warns(UserWarning, match="line 4"):
        history.keep("ppo", 2)
    history.append({"arm": "ppo", "iteration": 3})
    assert [line["iteration"] for line in history.read()] == [1, 2, 3]


def test_several_seeds_make_a_table(config: RunConfig, finished: RunConfig, tmp_path: Path) -> None:
    configs = []
    for seed in (0, 1):
        out = tmp_path / f"seed-{seed}"
        shutil.copytree(finished.out, out)
        metrics = metrics_of(out) | {"seed": seed}
        metrics["sft"] |= {"gold_mean": 0.1, "gold_std": 1.0}
        metrics["ppo"]["gold_mean"] = 0.5 + seed
        stored = json.loads((out / "config.json").read_text()) | {"seed": seed}
        write_json(out / "metrics.json", metrics)
        write_json(out / "config.json", stored)
        configs.append(replace(config, seed=seed, out=out))
    gathered = run_seeds(pipeline.run, configs, tmp_path)
    assert gathered["seeds"] == [0, 1] and (tmp_path / "seeds.json").exists()
    gold = gathered["models"]["ppo"]["gold_mean"]
    assert gold == {"values": [0.5, 1.5], "median": 1.0, "min": 0.5, "max": 1.5}
    assert gathered["checks"]["with KL: gold up by one standard deviation of SFT's"] == [False, True]
    table = markdown(gathered)
    assert table.startswith("| model | gold |") and "| PPO without KL |" in table and "1 of 2" in table
    assert "+1.00 (+0.50 to +1.50)" in table
    with pytest.raises(InputError, match=r"started with ppo\.kl_coef"):
        run_seeds(pipeline.run, [replace(configs[0], ppo=replace(config.ppo, kl_coef=0.5))], tmp_path)


def test_the_page_of_results_shows_the_recorded_seeds_and_readme_their_medians() -> None:
    root = Path(__file__).parents[1]
    recorded = json.loads((root / "assets" / "seeds.json").read_text(encoding="utf-8"))
    assert markdown(recorded) in (root / "notebooks" / "guide" / "results.md").read_text(encoding="utf-8")
    rows = (root / "README.md").read_text(encoding="utf-8").split("| model | gold")[1].splitlines()[2:6]
    for row, name in zip(rows, ("sft", "best_of_16", "ppo", "ppo_no_kl"), strict=True):
        gold, proxy, kl, coherent = (recorded["models"][name][key]["median"] for key in
                                     ("gold_mean", "proxy_mean", "kl", "coherent"))
        near = f"{kl:.2f}" if 0 < kl < 10 else f"{kl:.0f}"
        shown = [f"{gold:.2f}", f"{proxy:z.2f}", near, f"{100 * coherent:.1f} %"]
        assert [cell.strip() for cell in row.split("|")[2:6]] == [text.replace("-", "\N{MINUS SIGN}") for text in shown]
