"""What a newcomer types works: pins that suit the package, README's commands, assets that are found."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from rlhf_mini import assets
from rlhf_mini.errors import InputError

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PINS = [Requirement(line.split("#")[0]) for line in LINES if line.split("#")[0].strip()]
PINNED = {pin.name: pin for pin in PINS}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python -m "


def test_every_requirement_is_an_exact_pin() -> None:
    for pin in PINNED.values():
        assert re.fullmatch(r"==[0-9][0-9.]*", str(pin.specifier)), f"{pin} is not an exact pin"


def test_the_pins_suit_the_ranges_of_the_package() -> None:
    project = PROJECT["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["notebooks"]]:
        wanted = Requirement(text)
        pin = next(iter(PINNED[wanted.name].specifier)).version
        assert wanted.specifier.contains(pin), f"{pin} is pinned, pyproject.toml wants {wanted}"


def test_readme_opens_with_one_command_to_run_and_one_to_test() -> None:
    first_screen = README.splitlines()[:40]
    assert [line for line in first_screen if line.startswith(INSTALL)] == [
        INSTALL + "rlhf_mini", INSTALL + "pytest"]


def test_ci_runs_the_command_that_readme_shows() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    found = re.search(r"grep -E '(.*)' README\.md", script)
    assert found is not None
    matching = [line for line in README.splitlines() if re.search(found[1], line)]
    assert matching == [INSTALL + "pytest"]


def test_an_asset_is_found_in_the_wheel_before_the_source_tree(tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, tree = tmp_path / "wheel", tmp_path / "tree"
    (tree / "model").mkdir(parents=True)
    monkeypatch.setattr(assets, "PLACES", (wheel, tree))
    assert assets.asset("model") == tree / "model"
    (wheel / "model").mkdir(parents=True)
    assert assets.asset("model") == wheel / "model"


def test_a_missing_asset_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "PLACES", (tmp_path,))
    with pytest.raises(InputError, match=r"asset 'model' is not in .*: reinstall") as error:
        assets.asset("model")
    assert "\n" not in str(error.value)


def test_the_wheel_carries_what_the_loop_starts_from() -> None:
    carried = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for source, target in carried.items():
        assert (ROOT / source).exists()
        assert target.removeprefix("rlhf_mini/_") == source  # where asset() looks
