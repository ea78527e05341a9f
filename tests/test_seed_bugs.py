"""The bugs that `make bugs` puts in: each can still be put in, and only notebooks that train have numeric ones."""

from __future__ import annotations

from collections import Counter

import pytest
import seed_bugs


@pytest.mark.parametrize("bug", seed_bugs.BUGS, ids=lambda bug: bug.name)
def test_what_a_bug_replaces_stands_once_in_the_package(bug: seed_bugs.Bug) -> None:
    seed_bugs.place(seed_bugs.ROOT, bug.right)
    assert bug.wrong != bug.right and (seed_bugs.ROOT / "notebooks" / f"{bug.notebook}.ipynb").exists()


def test_every_notebook_that_trains_has_two_numeric_bugs() -> None:
    counts = Counter(bug.notebook[:2] for bug in seed_bugs.BUGS if bug.numeric)
    assert counts == dict.fromkeys(["00", "01", "02", "04", "05", "06", "07", "08", "09", "11"], 2)
    assert len({bug.name for bug in seed_bugs.BUGS}) == len(seed_bugs.BUGS)
