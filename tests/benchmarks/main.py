"""Seconds, useful work and their ratio to the ideal for each stage of a run, beside other implementations.

The ideal is the useful work (flops.py) at the rate of a matrix product, measured in the same process just before. Every
comparison is of turns taken one after another, for the same useful work: medians, with the lowest and highest round.
TRL runs in processes of its own, where a Python with it is named; without one its lines are left out:

    python3 -m venv /tmp/trl112 && /tmp/trl112/bin/pip install -r requirements.txt trl==1.12.0  # the last with PPO
    python3 -m venv /tmp/trl116 && /tmp/trl116/bin/pip install -r requirements.txt trl==1.16.0
    PYTHONPATH=. python tests/benchmarks/main.py --trl-ppo /tmp/trl112/bin/python --trl /tmp/trl116/bin/python

`--only iteration` (or sft, reward, evaluation, sampling) takes half a minute or so and is for tuning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from machine import Contender, Summary, Turn, matrix_rate, model_rate, slower, take_turns, timed, tokens_per_second
from others import Naive, generating, trl
from parts import Material, Part, evaluation_parts, iteration_parts, reward_parts, sft_parts

BATCHES = (64, 128, 256)  # in which `sample` and `generate` are compared
SFT, MUON, ITERATION, REWARD = "SFT", "Muon", "PPO iteration", "reward fit"
Turns = dict[str, list[Turn]]


class Benchmark:
    """What is measured: our parts, the others, and who is compared with whom."""

    def __init__(self, material: Material, trl_ppo: Path | None, trl_new: Path | None) -> None:
        self.material, self.trl_ppo, self.trl_new = material, trl_ppo, trl_new
        self.parts: dict[str, Part] = {}
        self.turns: Turns = {}
        self.compared: dict[str, str] = {}  # the other: ours

    def contenders(self, group: str) -> dict[str, Contender]:
        """All of one group, which take turns."""
        made = {"sft": sft_parts, "reward": reward_parts, "iteration": iteration_parts, "evaluation": evaluation_parts}
        parts = made[group](self.material) if group in made else {}
        self.parts |= parts
        found = {name: timed(part.run) for name, part in parts.items()}
        if group == "sampling":
            for batch in BATCHES:
                found |= {name: timed(run) for name, run in generating(self.material, batch).items()}
                self.compared[f"generate, {batch} rows"] = f"sample, {batch} rows"
        if group == "iteration":
            found["naive PPO iteration"] = timed(Naive(self.material).iteration)
            self.compared["naive PPO iteration"] = ITERATION
        for stage, ours, python in (("sft", SFT, self.trl_new), ("reward", REWARD, self.trl_new),
                                    ("iteration", ITERATION, self.trl_ppo)):
            if group == stage and python is not None:
                found[f"TRL, {ours}"] = trl(python, "ppo" if stage == "iteration" else stage)
                self.compared[f"TRL, {ours}"] = ours
        return found

    def run(self, group: str, rounds: int) -> None:
        self.turns |= take_turns(self.contenders(group), rounds)

    # --- figures ------------------------------------------------------------------------------------------------

    def lines(self) -> dict[str, dict[str, Any]]:
        """What is known of each contender, as numbers."""
        found: dict[str, dict[str, Any]] = {}
        for name, turns in self.turns.items():
            line: dict[str, Any] = {
                "seconds": asdict(Summary.of([turn.seconds for turn in turns])), "gflop": turns[-1].flop / 1e9,
                "over_ideal": asdict(Summary.of([turn.over_ideal for turn in turns]))}
            if turns[-1].tokens:
                line["tokens_per_second"] = asdict(tokens_per_second(turns))
            if name in self.compared:
                line["times_ours"] = asdict(slower(turns, self.turns[self.compared[name]]))
            found[name] = line
        if MUON in self.turns:
            found["SFT without Muon"] = self.without_muon()
        return found

    def without_muon(self) -> dict[str, Any]:
        """Fine-tuning less the seconds of its optimiser for the matrices, whose products are not counted in it."""
        pairs = list(zip(self.turns[SFT], self.turns[MUON], strict=True))
        rest = [Turn(sft.seconds - muon.seconds, sft.flop, sft.tokens, sft.rate) for sft, muon in pairs]
        return {"seconds": asdict(Summary.of([turn.seconds for turn in rest])), "gflop": rest[0].flop / 1e9,
                "over_ideal": asdict(Summary.of([turn.over_ideal for turn in rest]))}

    def stages(self) -> dict[str, dict[str, float]]:
        """Each stage of a run with the default settings, from its parts; the whole run, where all are measured."""
        names = {"SFT": [SFT], "reward fit": [REWARD], "both arms of PPO": [ITERATION],
                 "evaluation": [name for name in self.turns if name.startswith("evaluation")],
                 "endings to rank and to normalise on": [name for name in self.turns if name.startswith("endings")]}
        found = {stage: self.sum_of(parts) for stage, parts in names.items()
                 if parts and all(part in self.turns for part in parts)}
        if len(found) == len(names):
            found["whole run"] = self.sum_of([part for parts in names.values() for part in parts])
        return found

    def sum_of(self, names: Sequence[str]) -> dict[str, float]:
        """The medians of these parts, each as often as a run does it."""
        seconds = flop = weighted = 0.0
        for name in names:
            times, turns = self.parts[name].times, self.turns[name]
            work = times * statistics.mean(turn.flop for turn in turns)
            seconds += times * statistics.median(turn.seconds for turn in turns)
            flop, weighted = flop + work, weighted + work * statistics.median(turn.over_ideal for turn in turns)
        return {"seconds": seconds, "tflop": flop / 1e12, "over_ideal": weighted / flop}


def table(lines: dict[str, dict[str, Any]], stages: dict[str, dict[str, float]]) -> str:
    """The figures to read: medians, and in brackets the lowest and highest round."""
    def text(line: dict[str, Any], name: str, digits: int) -> str:
        return Summary(**line[name]).text(digits) if name in line else ""

    rows = [f"{'':24}{'seconds':>24}{'GFLOP':>10}{'times the ideal':>22}{'tokens a second':>26}{'times ours':>20}"]
    rows += [f"{name:24}{text(line, 'seconds', 3):>24}{line['gflop']:10.1f}{text(line, 'over_ideal', 2):>22}"
             f"{text(line, 'tokens_per_second', 0):>26}{text(line, 'times_ours', 2):>20}"
             for name, line in lines.items()]
    if stages:
        rows += ["", f"{'a run, from its parts':38}{'seconds':>10}{'TFLOP':>10}{'times the ideal':>22}"]
        rows += [f"{name:38}{stage['seconds']:10.0f}{stage['tflop']:10.2f}{stage['over_ideal']:22.2f}"
                 for name, stage in stages.items()]
    return "\n".join(row.rstrip() for row in rows)


def recorded_run(folder: Path, stages: dict[str, dict[str, float]], rate: float) -> dict[str, float]:
    """A finished run's own seconds beside the work of its stages; fair where it ran alone on this machine."""
    seconds = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["seconds"]["total"]
    return {"seconds": seconds, "over_ideal": seconds / (stages["whole run"]["tflop"] * 1e12 / rate)}


def holds_trl(path: Path) -> bool:
    """Whether a file of figures has those of TRL."""
    return path.exists() and "trl" in path.read_text(encoding="utf-8").lower()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, groups = parser.add_argument, ["sft", "reward", "iteration", "evaluation", "sampling"]

    def python(variable: str) -> Path | None:
        return Path(os.environ[variable]) if os.environ.get(variable) else None

    add("--only", nargs="+", choices=groups, default=groups, help="what to measure (default: all)")
    add("--rounds", type=int, default=5, help="turns that are counted (default: 5)")
    add("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    add("--out", type=Path, help="a JSON file for the figures")
    add("--run", type=Path, metavar="DIR", help="a finished run of the default settings: its own seconds, too")
    add("--trl-ppo", type=Path, metavar="PYTHON", default=python("TRL_PPO_PYTHON"),
        help="a Python with trl==1.12.0 (default: the variable TRL_PPO_PYTHON)")
    add("--trl", type=Path, metavar="PYTHON", default=python("TRL_PYTHON"),
        help="a Python with trl==1.16.0 (default: the variable TRL_PYTHON)")
    return parser.parse_args()


def main() -> None:
    chosen = options()
    os.environ["ACCELERATE_USE_CPU"] = "1"  # the ideal is the CPU's: a GPU, if there is one, is left alone
    random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(chosen.threads)
    for option, python, version in (("--trl-ppo", chosen.trl_ppo, "1.12.0"), ("--trl", chosen.trl, "1.16.0")):
        if python is None:
            print(f"TRL {version} is left out: make a virtual environment, `pip install -r requirements.txt "
                  f"trl=={version}` in it, and give its Python by {option}")
    if chosen.out and not (chosen.trl_ppo and chosen.trl) and holds_trl(chosen.out):
        sys.exit(f"{chosen.out} holds measurements of TRL, which this one would lack: give both Pythons, or another "
                 "--out")
    material = Material()
    benchmark = Benchmark(material, chosen.trl_ppo, chosen.trl)
    for group in chosen.only:
        benchmark.run(group, chosen.rounds)
    rates = {"matrix_gflop_per_second": asdict(Summary.of([matrix_rate() / 1e9 for _ in range(chosen.rounds)])),
             "model_gflop_per_second": asdict(Summary.of([model_rate(material.shape) / 1e9
                                                          for _ in range(chosen.rounds)]))}
    lines, stages = benchmark.lines(), benchmark.stages()
    print(table(lines, stages))
    print(f"\nmatrix products at {Summary(**rates['matrix_gflop_per_second']).text(0)} GFLOP a second, of the model's "
          f"shapes at {Summary(**rates['model_gflop_per_second']).text(0)}, on {chosen.threads} threads")
    figures = {"parts": lines, "run": stages, **rates, "rounds": chosen.rounds, "threads": chosen.threads,
               "torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    if chosen.run and "whole run" in stages:
        figures["recorded_run"] = recorded_run(chosen.run, stages, rates["matrix_gflop_per_second"]["median"] * 1e9)
        print(f"the run in {chosen.run}: {figures['recorded_run']['seconds']:.0f} s, "
              f"{figures['recorded_run']['over_ideal']:.2f} times the ideal")
    if chosen.out:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        chosen.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
