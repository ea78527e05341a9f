"""What is recorded: each file in `assets/` that takes long to make, and the notebooks; what is read, first."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import clinic
import compared_methods
import label_efficiency
import matplotlib
import matplotlib.pyplot as plt
import repairs
import sweep
import taste
from freshness import code_cells
from keeping import MADE, Recording, read, rounded, write
from micro_run import micro_run as micro_run
from processes import WORK
from stages import FinishedRun, alone_in, thinned, whole_run

from rlhf_mini import plots
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.folder import config_to_json
from rlhf_mini.run.seeds import gather, markdown
from rlhf_mini.teaching.the_map import draw_map

matplotlib.use("agg")

BASE, RUN = "assets/tiny-tales-gpt2", "assets/run-3"
MODELS = (f"{RUN}/sft", f"{RUN}/reward_model")
SELECTED = ("history.jsonl", "metrics.json", "rankings.jsonl", "reward_model", "samples.json", "sft")  # of a run
SEEDS = (3, 4, 5, 6, 7)  # of README's table; the first is the run that is kept
HISTORIES = "assets/seed_histories.json"
BENCHMARK = "tests/benchmarks/main.py"


# --- the run, and the same for other seeds ----------------------------------------------------------------------


def config_of(seed: str, work: Path) -> RunConfig:
    """The settings of a run."""
    return RunConfig(out=work / f"seed-{seed}", seed=int(seed))


def make_run(seed: str, work: Path) -> None:
    """Run, and put what notebooks start from in the place of what was there."""
    config, place = config_of(seed, work), Path(RUN)
    whole_run(config)
    new, old = place.with_name(f"{place.name}.new"), place.with_name(f"{place.name}.old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    new.mkdir()
    for name in SELECTED:
        source = config.out / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, new / name)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def runs_folder() -> Path:
    """Where the runs of other seeds stand: of the same settings and the same core as the run that is kept."""
    stamp = (read(MADE) or {}).get("run-3", {}).get("stamp")
    return WORK / f"runs-{hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:8]}"


def run_of(seed: int) -> FinishedRun:
    """The finished run of a seed, with its models. It is made where it is not there, once for all who want it."""
    config = config_of(str(seed), runs_folder())
    if seed == SEEDS[0]:
        return opened()
    with alone_in(config.out.with_suffix(".lock")):
        whole_run(config)
    return FinishedRun.open(config.out)


def make_figures(seed: str, work: Path) -> dict[str, Any]:
    """Run, and keep the figures and the history alone."""
    run = run_of(int(seed))
    return {"metrics": run.metrics, "history": thinned(run.history)}


def gather_seeds(found: dict[str, Any]) -> str:
    """The kept run and the others: their figures as one file, their histories as another; README's table."""
    first = opened()
    metrics = {first.seed: first.metrics, **{int(seed): each["metrics"] for seed, each in found.items()}}
    histories = {first.seed: thinned(first.history), **{int(seed): each["history"] for seed, each in found.items()}}
    gathered = rounded(gather(metrics))
    write(Path("assets/seeds.json"), gathered)
    write(Path(HISTORIES), rounded(histories))
    return f"the table of README.md:\n\n{markdown(gathered)}\n"


def draw_run(_: dict[str, Any]) -> None:
    """README's picture of the run."""
    lines = (Path(RUN) / "history.jsonl").read_text(encoding="utf-8").splitlines()
    plots.proxy_against_gold([json.loads(line) for line in lines])
    plt.savefig("assets/proxy_against_gold.png", dpi=110, bbox_inches="tight")
    plt.close()


def draw_loop(_: dict[str, Any]) -> None:
    """README's first picture."""
    draw_map()
    plt.savefig("assets/the_loop.png", dpi=110, bbox_inches="tight")
    plt.close()


def runs() -> list[Recording]:
    """The run that notebooks start from, its picture, and the table of seeds."""
    settings = config_to_json(RunConfig(seed=0))
    first, *others = map(str, SEEDS)
    return [
        Recording("run-3", (RUN,), (BASE,), {**settings, "seed": int(first)}, {first: ()}, make_run),
        Recording("proxy_against_gold", ("assets/proxy_against_gold.png",), (f"{RUN}/history.jsonl",),
                  gather=draw_run, core=False),
        Recording("the_loop", ("assets/the_loop.png",), (), gather=draw_loop, core=False),
        Recording("seeds", ("assets/seeds.json", HISTORIES), (BASE, RUN), {**settings, "seed": None},
                  dict.fromkeys(others, ()), make_figures, gather_seeds),
    ]


# --- the experiments --------------------------------------------------------------------------------------------


def opened() -> FinishedRun:
    """The run that everything starts from."""
    return FinishedRun.open(Path(RUN))


def experiments() -> list[Recording]:
    """What 04, 07, 08, 10 and 11 draw."""
    sizes, settings, cases = sweep.Sizes(), taste.Settings(), taste.cases()
    methods, repaired, patients = compared_methods.Sizes(), repairs.Sizes(), clinic.Sizes()
    labels = Path("assets/label_efficiency.json")
    return [
        Recording("label_efficiency", (str(labels), str(labels.with_suffix(".png"))),
                  (f"{RUN}/sft", f"{RUN}/rankings.jsonl"), label_efficiency.settings(), label_efficiency.parts(),
                  lambda part, work: label_efficiency.make(part, opened()),
                  lambda found: label_efficiency.gather(found, opened(), labels),
                  gather_reads=(f"{RUN}/metrics.json",)),
        Recording("sweep", ("assets/sweep.json",), (BASE, RUN), sweep.settings(sizes), sweep.parts(sizes),
                  lambda part, work: sweep.make(part, work, run_of, sizes),
                  lambda found: sweep.gather(found, Path("assets/sweep.json"))),
        Recording("repairs", ("assets/repairs.json",), (BASE, RUN), repairs.settings(repaired),
                  repairs.parts(repaired), lambda part, work: repairs.make(part, work, run_of, repaired),
                  lambda found: repairs.gather(found, repaired, Path("assets/repairs.json"))),
        Recording("taste", ("assets/taste.json",), MODELS, taste.settings_of(settings), dict.fromkeys(cases, ()),
                  lambda part, work: taste.make(cases[part], opened(), settings),
                  lambda found: taste.gather(found, opened(), settings, Path("assets/taste.json"))),
        Recording("methods_tuning", (str(compared_methods.TUNING),), (*MODELS, f"{RUN}/rankings.jsonl"),
                  compared_methods.settings(methods), compared_methods.tuning_parts(methods),
                  lambda part, work: compared_methods.tune(part, opened(), methods),
                  lambda found: compared_methods.gather(found, methods, compared_methods.TUNING)),
        Recording("methods", ("assets/methods.json",), (BASE, RUN, str(compared_methods.TUNING)),
                  compared_methods.settings(methods), compared_methods.parts(methods),
                  lambda part, work: compared_methods.make(part, run_of, methods),
                  lambda found: compared_methods.gather(found, methods, Path("assets/methods.json"))),
        Recording("clinic", ("assets/clinic.json",), MODELS, clinic.settings(patients), clinic.parts(patients),
                  lambda part, work: clinic.make(part, opened(), patients),
                  lambda found: clinic.gather(found, patients, Path("assets/clinic.json"))),
        Recording("benchmark", ("assets/benchmark.json",), MODELS, None, {"seconds": ()},
                  lambda part, work: run_script(BENCHMARK, "--out", "assets/benchmark.json"), alone=True),
    ]


def run_script(path: str, *arguments: str) -> None:
    """Run a script in a process of its own, as the command line does."""
    subprocess.run([sys.executable, path, *arguments], check=True, env={**os.environ, "PYTHONPATH": "."})


# --- notebooks --------------------------------------------------------------------------------------------------


def notebook(path: Path) -> Recording:
    """A notebook, which is out of date when its code, what it reads, or the package's source has changed."""
    read = {f"assets/{name}" for cell in code_cells(path) for name in re.findall(r'\basset\("([^"]+)"\)', cell)}
    return Recording(f"notebooks/{path.stem}", (str(path),), (str(path), "rlhf_mini", *sorted(read)),
                     parts={"cells": ()}, make=partial(execute, path), core=False)


def execute(path: Path, part: str, work: Path) -> dict[str, float]:
    """Run a notebook in place: the seconds and the GB that it took."""
    sys.path.insert(0, str(path.parent.resolve()))
    from execute import execute as run_cells  # type: ignore[import-not-found]

    seconds, memory = run_cells(path.resolve())
    return {"seconds": round(seconds), "memory": round(memory, 1)}


RECORDINGS = [*runs(), *experiments(), *map(notebook, sorted(Path("notebooks").glob("*.ipynb")))]
