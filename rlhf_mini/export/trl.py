"""Write a finished run for TRL 1.16: data, models, settings, a script that trains on them, and a page about them.

TRL joins prompt and completion as texts and adds the EOS; so completions begin with their space, as `to_dataset` writes
them. Then both encode the same rows of tokens, and losses, scores and log-probabilities agree.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from rlhf_mini import files
from rlhf_mini.errors import InputError, shown, visible
from rlhf_mini.export.run_data import Model, RunData, read_run
from rlhf_mini.language_model import context_length, encode, encode_endings, save_language_model
from rlhf_mini.rankings import to_dataset
from rlhf_mini.rankings.judgements import to_pairs
from rlhf_mini.run.json_files import write_json

SCRIPT = "train_trl.py"
Columns = dict[str, list[str]]


def export_trl(run: Path, out: Path, say: Callable[[str], Any] = lambda line: None) -> dict[str, str]:
    """Write the run into a new folder, whole or not at all; returns what each file holds, in words.

    `say` is told what is being done. Warns where TRL would read other tokens.
    Raises: InputError where the run is not finished, or `out` holds something.
    """
    check_free(out)
    check_datasets()
    say(f"reading {run}, and making its texts again from its seed")
    data = read_run(run)
    tables = tables_of(data)
    say("comparing the tokens with those that TRL will read")
    note_other_tokens(data.models["base"], tables)
    written = contents(data, tables)
    say(f"writing {out}")
    files.put(out, lambda folder: write(folder, data, tables, page(run, data, written)))
    return written


def check_free(out: Path) -> None:
    """Raises: InputError unless a new folder can be made there: nothing is ever overwritten."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if os.path.lexists(out):
        raise InputError(f"{out} is there already and holds something: choose another --out, or remove it")


def check_datasets() -> None:
    """Raises: InputError where the package that writes the data is not installed."""
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise InputError(f"the data are written with the package datasets, which is not installed ({error}): "
                         "pip install datasets") from error


# --- the data ---------------------------------------------------------------------------------------------------


def tables_of(data: RunData) -> dict[str, Columns]:
    """The data of each stage, as columns by their names in TRL's formats."""
    openings, endings = zip(*data.task.demonstrations, strict=True)
    return {"sft": {"prompt": list(openings), "completion": [" " + ending for ending in endings]},
            "preferences": preferences(data.train), "preferences_test": preferences(data.test),
            "prompts": {"prompt": list(data.task.prompts)}}


def preferences(judgements: Sequence[Any]) -> Columns:
    """The pairs of the judgements, ties dropped: the same as `to_pairs`, with a space before each completion."""
    if not to_pairs(judgements):
        return {"prompt": [], "chosen": [], "rejected": []}
    made = to_dataset(judgements)
    return {name: list(made[name]) for name in made.column_names}


def note_other_tokens(model: Model, tables: Mapping[str, Columns]) -> None:
    """Warn where TRL, which encodes prompt and completion as one text, reads other tokens than this run did."""
    for name, columns in tables.items():
        for key in list(columns)[1:] or ["prompt"]:
            completions = columns[key] if key != "prompt" else None
            odd = [row for row, same in enumerate(same_tokens(model[1], columns["prompt"], completions)) if not same]
            if odd:
                warnings.warn(f"TRL reads {len(odd)} of {len(columns['prompt'])} rows of {name}.jsonl ({key}) as other "
                              f"tokens than this run, the first with the prompt {shown(columns['prompt'][odd[0]])}: "
                              "losses and scores differ there", stacklevel=3)


def same_tokens(tokenizer: Any, prompts: Sequence[str], completions: Sequence[str] | None) -> Iterator[bool]:
    """For each row, whether one text of prompt + completion + EOS gives the tokens that this package gives."""
    if not prompts:
        return
    rows, texts = encode(tokenizer, prompts), list(prompts)
    if completions is not None:
        endings = encode_endings(tokenizer, [text.removeprefix(" ") for text in completions])
        rows = [prompt + ending for prompt, ending in zip(rows, endings, strict=True)]
        texts = [prompt + text + tokenizer.eos_token for prompt, text in zip(prompts, completions, strict=True)]
    for row, other in zip(rows, tokenizer(texts, verbose=False)["input_ids"], strict=True):
        yield row == list(other)


# --- the files --------------------------------------------------------------------------------------------------


def write(folder: Path, data: RunData, tables: Mapping[str, Columns], about: str) -> None:
    """Write everything into a folder that is not there yet."""
    import datasets

    (folder / "data").mkdir(parents=True)
    with quiet_datasets():
        for name, columns in tables.items():
            datasets.Dataset.from_dict(columns).to_json(folder / "data" / f"{name}.jsonl", force_ascii=False)
    for name, model in data.models.items():
        save_language_model(*model, folder / "models" / name)
    write_json(folder / "settings.json", settings(data))
    files.write(folder / SCRIPT, package_files("rlhf_mini.export").joinpath(SCRIPT).read_bytes())
    files.write(folder / "README.md", about.encode())


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Without the progress bars of datasets, which come back afterwards if they were shown."""
    import datasets

    shown_before = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown_before:
            datasets.enable_progress_bars()


def settings(data: RunData) -> dict[str, Any]:
    """The run's own settings, which the script turns into TRL's."""
    config = data.config
    return {"seed": config.seed, "context": context_length(data.models["sft"][0]), "sft": asdict(config.sft),
            "reward": asdict(config.reward), "ppo": asdict(config.ppo)}


# --- what it says about them ------------------------------------------------------------------------------------


def contents(data: RunData, tables: Mapping[str, Columns]) -> dict[str, str]:
    """What each file of the export holds, in words."""
    count = {name: f"{len(columns['prompt']):,}" for name, columns in tables.items()}
    judges = "the simulated panel" if data.task.panel else "the annotators"
    return {"data/sft.jsonl": f"{count['sft']} demonstrations: prompt, completion",
            "data/preferences.jsonl": f"{count['preferences']} pairs of {judges}: prompt, chosen, rejected",
            "data/preferences_test.jsonl": f"{count['preferences_test']} pairs of held-out prompts",
            "data/prompts.jsonl": f"{count['prompts']} prompts, to train the policy on",
            "models/base": "the model before fine-tuning, with its tokenizer",
            "models/sft": "the fine-tuned model: the policy's start and its reference",
            "models/reward_model": "the reward model; its scores have mean 0 and standard deviation 1",
            "settings.json": "the settings of this run", SCRIPT: "the script, for TRL 1.16", "README.md": "this list"}


def page(run: Path, data: RunData, written: Mapping[str, str]) -> str:
    """README.md of the export."""
    rows = [f"| `{name}` | {what} |" for name, what in written.items()]
    metadata = {"configs": [{"config_name": name, "data_files": f"data/{name}.jsonl"} for name in
                            ("sft", "preferences", "preferences_test", "prompts")]}
    return "\n".join([
        "---", json.dumps(metadata), "---", "",  # JSON is YAML: so `datasets.load_dataset(this folder, name)` works
        f"# {visible(run.name)}, for TRL", "",
        f"Written by `python -m rlhf_mini export`, from a run with seed {data.config.seed}. Models are safetensors, "
        "data are JSON Lines. Completions begin with their space, and TRL adds the EOS.", "",
        "| file | what it holds |", "|---|---|", *rows, "",
        f"`python {SCRIPT} --help` says how to train. The page `notebooks/guide/past_one_machine.md` of rlhf_mini says "
        "what changes in names and defaults, and what OpenRLHF and verl want.", ""])
