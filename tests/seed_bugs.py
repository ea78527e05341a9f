"""Proof that the notebooks bite: put one bug at a time into a copy of the package, and see a notebook fail.

    python tests/seed_bugs.py            # all of them, about a minute each
    python tests/seed_bugs.py whitened   # those whose name holds the word

A cell that prints the package's source would notice any change, so failures of such cells do not count.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
FAILED = re.compile(r"^FAILED .*::Cell (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Bug:
    """A change that somebody might make, and the notebook that has to notice."""

    name: str
    module: str
    right: str
    wrong: str
    notebook: str


BUGS = [
    Bug("the EOS is not learnt", "sft.py", "(position < lengths[:, None])", "(position < lengths[:, None] - 1)",
        "02_supervised_fine_tuning"),
    Bug("the opening is learnt too", "sft.py", "(position >= starts[:, None])", "(position >= 0)",
        "02_supervised_fine_tuning"),
    Bug("chosen and rejected swapped", "reward.py", "F.logsigmoid(chosen - rejected)",
        "F.logsigmoid(rejected - chosen)", "04_reward_model"),
    Bug("ties compete", "reward.py", "(level[:, None, :] > level[:, :, None])",
        "(level[:, None, :] >= level[:, :, None])", "04_reward_model"),
    Bug("the score is read one token early", "reward.py", "lengths - 1]  # (C, D)", "lengths - 2]  # (C, D)",
        "04_reward_model"),
    Bug("temperature missing", "kl.py", "logits = _full_precision(logits) / temperature",
        "logits = _full_precision(logits)", "05_ppo_from_parts"),
    Bug("the sign of the KL in the reward", "ppo.py", "penalty = -kl_coef *", "penalty = kl_coef *",
        "05_ppo_from_parts"),
    Bug("k3 the wrong way round", "kl.py", "torch.expm1(-log_ratio) + log_ratio",
        "torch.expm1(log_ratio) - log_ratio", "05_ppo_from_parts"),
    Bug("the mask is dropped from the mean", "kl.py", "(denominator or mask.bool().sum().clamp(min=1))",
        "(denominator or mask.numel())", "05_ppo_from_parts"),
    Bug("off by one in GAE", "ppo.py", "surprise = rewards[:, t] + gamma * next_value - values[:, t]",
        "surprise = rewards[:, t] + gamma * values[:, t] - values[:, t]", "05_ppo_from_parts"),
    Bug("the variance of whitening is the biased one", "kl.py", "(mask.bool().sum() - 1).clamp(min=1)",
        "mask.bool().sum().clamp(min=1)", "05_ppo_from_parts"),
    Bug("the wrong side of the clip", "ppo.py", "losses = torch.maximum(-advantages * ratio,",
        "losses = torch.minimum(-advantages * ratio,", "05_ppo_from_parts"),
    Bug("whitened returns", "ppo.py", "    return advantages, live(advantages + values, mask)",
        "    return advantages, live(masked_whiten(advantages, mask) + values, mask)", "05_ppo_from_parts"),
    Bug("the KL controller pushes the wrong way", "ppo.py", "kl_coef * (1 + error *", "kl_coef * (1 - error *",
        "05_ppo_from_parts"),
]


def tampered(tree: Path, module: str, right: str, wrong: str) -> Path:
    """Copy what the notebooks need into `tree`, change one place of the package, and return the notebooks' folder."""
    for name in ("rlhf_mini", "assets", "notebooks", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "test_*", "my_rankings"))
    path = tree / "rlhf_mini" / module
    source = path.read_text(encoding="utf-8")
    if source.count(right) != 1:
        raise SystemExit(f"{right!r} does not occur exactly once in {module}: fix this script")
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    return tree / "notebooks"


def noticed(bug: Bug) -> list[str]:
    """First lines of the cells that fail with the bug in place, cells that print source left out."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        notebook = tampered(tree, bug.module, bug.right, bug.wrong) / f"{bug.notebook}.ipynb"
        command = [sys.executable, "-m", "pytest", "-q", "--nbval", str(notebook),
                   "--nbval-sanitize-with", str(tree / "tests" / "nbval_sanitize.cfg")]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    failed = [cells[int(number)] for number in FAILED.findall(done.stdout)]
    return [source.splitlines()[0] for source in failed if not source.startswith("show(")]


if __name__ == "__main__":
    asked = " ".join(sys.argv[1:])
    missed = []
    for bug in [bug for bug in BUGS if asked in bug.name]:
        cells = noticed(bug)
        missed += [] if cells else [bug.name]
        print(f"{bug.name}: {len(cells)} cells of {bug.notebook} fail", *cells[:1], sep="\n    ", flush=True)
    sys.exit(f"not noticed: {', '.join(missed)}" if missed else 0)
