"""Proof that the notebooks notice: put one bug at a time into a copy of the package, and see a notebook fail.

    PYTHONPATH=. python tests/seed_bugs.py            # all of them, a minute or two each
    PYTHONPATH=. python tests/seed_bugs.py whitened   # those whose name, or whose notebook's name, holds the word

First every notebook has to pass without a bug. A cell that prints the package's source would notice any change, so
failures of such cells do not count; a numeric bug has to be noticed by a number with an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from rlhf_mini.teaching.compared import numbers

ROOT = Path(__file__).parent.parent
FAILED = re.compile(r"^FAILED .*::Cell (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Bug:
    """A change that somebody might make, and the notebook that has to notice.

    `right` stands once in the package, in whatever module. A numeric bug breaks no rule and raises no error: training
    goes on with it, a little worse or better.
    """

    name: str
    right: str
    wrong: str
    notebook: str
    numeric: bool = False


def numeric(name: str, right: str, wrong: str, *notebooks: str) -> list[Bug]:
    """The same numeric bug for several notebooks."""
    return [Bug(f"{name} ({notebook[:2]})", right, wrong, notebook, numeric=True) for notebook in notebooks]


BUGS = [
    Bug("the EOS is not learnt", "[Example(prompt + ending, len(prompt))",
        "[Example(prompt + ending[:-1], len(prompt))", "02_supervised_fine_tuning"),
    Bug("the opening is learnt too", "[Example(prompt + ending, len(prompt))", "[Example(prompt + ending, 1)",
        "02_supervised_fine_tuning"),
    Bug("chosen and rejected swapped", "F.logsigmoid(chosen - rejected)",
        "F.logsigmoid(rejected - chosen)", "04_reward_model"),
    Bug("ties compete", "(level[:, None, :] > level[:, :, None])",
        "(level[:, None, :] >= level[:, :, None])", "04_reward_model"),
    Bug("the score is read one token early", "range(total + starts[i], total + lengths[i])",
        "range(total + starts[i] - 1, total + lengths[i] - 1)", "04_reward_model"),
    Bug("temperature missing", " / temperature\n    chosen = logits.gather(", "\n    chosen = logits.gather(",
        "05_ppo_from_parts"),
    Bug("the sign of the KL in the reward", "penalty = -kl_coef *", "penalty = kl_coef *",
        "05_ppo_from_parts"),
    Bug("k3 the wrong way round", "torch.expm1(-log_ratio) + log_ratio",
        "torch.expm1(log_ratio) - log_ratio", "05_ppo_from_parts"),
    Bug("the mask is dropped from the mean", "(denominator or mask.bool().sum().clamp(min=1))",
        "(denominator or mask.numel())", "05_ppo_from_parts"),
    Bug("off by one in GAE", "surprise = rewards[:, t] + gamma * next_value - values[:, t]",
        "surprise = rewards[:, t] + gamma * values[:, t] - values[:, t]", "05_ppo_from_parts"),
    Bug("the variance of whitening is the biased one", "(mask.bool().sum() - 1).clamp(min=1)",
        "mask.bool().sum().clamp(min=1)", "05_ppo_from_parts"),
    Bug("the wrong side of the clip", "losses = torch.maximum(-advantages * ratio,",
        "losses = torch.minimum(-advantages * ratio,", "05_ppo_from_parts"),
    Bug("whitened returns", "    return advantages, live(advantages + values, mask)",
        "    return advantages, live(masked_whiten(advantages, mask) + values, mask)", "05_ppo_from_parts"),
    Bug("the KL controller pushes the wrong way", "kl_coef * (1 + error *", "kl_coef * (1 - error *",
        "05_ppo_from_parts"),
]

# Two for every notebook that trains.
BUGS += [
    *numeric("SFT and pretraining learn at a third of the rate",
             "set_rate(optimizers, learning_rate * schedule(", "set_rate(optimizers, learning_rate / 3 * schedule(",
             "01_pretraining_reuse", "02_supervised_fine_tuning"),
    *numeric("Muon's steps are a fifth as long", "RMS_OF_ADAMW = 0.2", "RMS_OF_ADAMW = 0.04",
             "01_pretraining_reuse", "02_supervised_fine_tuning"),
    *numeric("the reward fit learns at a third of the rate",
             "config.learning_rate * schedule(step / steps", "config.learning_rate / 3 * schedule(step / steps",
             "04_reward_model"),
    *numeric("the reward fit learns at a tenth of the rate",
             "config.learning_rate * schedule(step / steps", "config.learning_rate / 10 * schedule(step / steps",
             "07_when_the_reward_is_wrong", "08_your_taste"),
    *numeric("the reward head starts as large as the hidden states", "std=(config.hidden_size + 1) ** -0.5", "std=1.0",
             "04_reward_model"),
    *numeric("PPO learns at a third of the rate",
             "rate = config.learning_rate * max(", "rate = config.learning_rate / 3 * max(",
             "00_the_map", "05_ppo_from_parts", "06_ppo_with_kl", "07_when_the_reward_is_wrong", "08_your_taste",
             "09_metrics"),
    *numeric("PPO makes bad endings likelier", "whitened = masked_whiten(advantages, rollout.mask)",
             "whitened = -masked_whiten(advantages, rollout.mask)", "00_the_map"),
    *numeric("the parts make bad endings likelier", '"whiten": kl.masked_whiten,',
             '"whiten": lambda x, mask: -kl.masked_whiten(x, mask),', "06_ppo_with_kl"),
    *numeric("a nat costs half its price", "penalty = -kl_coef *", "penalty = -0.5 * kl_coef *",
             "05_ppo_from_parts"),
    *numeric("DPO pays twice for a nat", "implicit = batch.kl_coef * masked_sum(",
             "implicit = 2 * batch.kl_coef * masked_sum(", "11_one_objective_six_optimisers"),
    *numeric("RLOO pays nothing for a nat", '"RLOO": Method(lambda batch: rloo_advantages(batch.reward,',
             '"RLOO": Method(lambda batch: rloo_advantages(batch.score,', "11_one_objective_six_optimisers"),
    *numeric("the value loss is twice as large", "losses = 0.5 * torch.maximum(", "losses = 1.0 * torch.maximum(",
             "09_metrics"),
]


def place(root: Path, right: str) -> Path:
    """The one file of the package in which a text stands, once."""
    files = sorted(root.glob("rlhf_mini/**/*.py"))
    found = [path for path in files for _ in range(path.read_text("utf-8").count(right))]
    if len(found) != 1:
        raise SystemExit(f"{right!r} stands {len(found)} times in the package, not once: correct its entry in BUGS")
    return found[0]


def tampered(tree: Path, right: str = "", wrong: str = "") -> Path:
    """Copy what the notebooks need into `tree`, change one place of the package, and return the notebooks' folder."""
    for name in ("rlhf_mini", "assets", "notebooks", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "test_*", "my_rankings"))
    if right:
        path = place(tree, right)
        path.write_text(path.read_text("utf-8").replace(right, wrong), "utf-8")
    return tree / "notebooks"


def failing(notebook: str, bug: Bug | None) -> list[Any]:
    """The cells of a notebook that fail with the bug in place, or as it is; cells that print source left out."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        path = tampered(tree, *((bug.right, bug.wrong) if bug else ())) / f"{notebook}.ipynb"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval", str(path),
                   "--nbval-sanitize-with", str(tree / "tests" / "nbval_sanitize.cfg")]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(f"pytest did not run {notebook}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    failed = [cells[int(number)] for number in FAILED.findall(done.stdout)]
    return [cell for cell in failed if not cell.source.startswith("show(")]


def measures(cell: Any) -> bool:
    """Whether what is stored of a cell holds a number with an error."""
    return any(numbers(output.get("text") or output.get("data", {}).get("text/plain", "")) for output in cell.outputs)


def main(words: Sequence[str]) -> str | int:
    asked, amiss = " ".join(words), []
    bugs = [bug for bug in BUGS if asked in f"{bug.notebook} {bug.name}"]
    for bug in bugs:
        place(ROOT, bug.right)
    for notebook in dict.fromkeys(bug.notebook for bug in bugs):
        if cells := failing(notebook, None):
            amiss.append(f"{notebook} fails without a bug")
            sources = [cell.source for cell in cells]
            print(f"{notebook}, no bug: {len(cells)} cells fail", *sources, sep="\n", flush=True)
            continue
        print(f"{notebook}, no bug: passes", flush=True)
        for bug in (bug for bug in bugs if bug.notebook == notebook):
            cells = [cell for cell in failing(notebook, bug) if measures(cell) or not bug.numeric]
            amiss += [] if cells else [f"{bug.name} is not noticed"]
            first = [cell.source.splitlines()[0] for cell in cells[:1]]
            print(f"  {bug.name}: {len(cells)} cells fail", *first, sep="\n      ", flush=True)
    return "; ".join(amiss) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
