"""README, the guide and its pages: snippets run in order, commands do what they say, links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest
from huggingface_hub import DatasetCard
from small_run import shrink

from rlhf_mini import cli, rankings

ROOT = Path(__file__).parent.parent
README, GUIDE = ROOT / "README.md", ROOT / "notebooks" / "README.md"
FOLDER = GUIDE.parent / "guide"
PAGES = [README, GUIDE, *sorted(FOLDER.glob("*.md"))]
STANDS_FOR = {"DIR": "made", "RUN": "runs/001", "PATH_OR_NAME": "assets/run-3/sft", "FILE...": "runs/class.jsonl",
              "FILE": "pooled.jsonl"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, in order: (language, text)."""
    return re.findall(r"^```(python|sh)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The arguments of every `python -m rlhf_mini` on a page; words that stand for something are replaced by it."""
    lines = [line.split("#")[0] for language, text in blocks(page) if language == "sh" for line in text.splitlines()]
    found = [match[1] for line in lines for match in re.finditer(r"python3? -m rlhf_mini\b([^&|;]*)", line)]
    return [[STANDS_FOR.get(word, word) for word in shlex.split(words)] for words in found]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with the assets and a finished run's history; pictures are drawn, not shown."""
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "runs" / "001").mkdir(parents=True)
    shutil.copy(ROOT / "assets" / "run-3" / "history.jsonl", tmp_path / "runs" / "001")
    return tmp_path


def run_snippets(page: Path, then: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a page's Python in one namespace; after a block that holds a key of `then`, what it says."""
    space: dict[str, Any] = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, str(page), "exec"), space)  # the page is part of this repository
            for words, act in (then or {}).items():
                if words in text:
                    act(space)
        elif "merge runs/class" in text:
            assert cli.main(expanded(commands(page)[0])) == 0
    plt.close("all")
    return space


def expanded(arguments: list[str]) -> list[str]:
    """The arguments as a shell passes them on."""
    return [name for word in arguments for name in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]


def rank(space: dict[str, Any]) -> None:
    """What a person does with the widget: best, worst, middle."""
    rankings.answer(space["session"], lambda prompt, shown: [[0], [2], [1]])


def test_the_pages_snippets_run(folder: Path) -> None:
    assert run_snippets(FOLDER / "tales.md")["reading"].coherent
    space = run_snippets(FOLDER / "ranking.md", {"RankingWidget(session)": rank})
    assert len(rankings.to_pairs(space["records"])) == 3
    assert run_snippets(FOLDER / "run_folder.md")["history"]


def test_every_page_with_python_is_run_by_a_test() -> None:
    assert {page.name for page in PAGES if any(language == "python" for language, _ in blocks(page))} == {
        "tales.md", "ranking.md", "run_folder.md", GUIDE.name,
        "past_one_machine.md"}  # by tests/test_export.py


def test_readme_is_short_and_leads_to_every_page() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    reached = {(README.parent / link).resolve() for link in links(text)}
    reached |= {(GUIDE.parent / link).resolve() for link in links(GUIDE.read_text(encoding="utf-8"))}
    assert set(PAGES) - {README} <= reached


def test_readmes_stories_are_the_runs_and_the_worst_has_the_highest_score() -> None:
    told = {story["opening"]: story for story in
            json.loads((ROOT / "assets" / "run-3" / "samples.json").read_text(encoding="utf-8"))["stories"]}
    rows = README.read_text(encoding="utf-8").split("| the opening |")[1].split("\n\n")[0].splitlines()[2:]
    assert len(rows) == 3
    for row in rows:
        opening, *endings = (cell.strip() for cell in row.strip("|").split("|"))
        story = told[opening]
        for ending, name in zip(endings, ("sft", "ppo", "ppo_no_kl"), strict=True):
            assert story[name]["ending"].startswith(ending.removesuffix("…").strip())
        assert story["ppo_no_kl"]["proxy"] == max(story[name]["proxy"] for name in ("sft", "ppo", "ppo_no_kl"))


def test_the_dataset_card_is_one_that_the_hub_reads_and_counts_the_records() -> None:
    text = (FOLDER / "datasets.md").read_text(encoding="utf-8")
    head: Any = DatasetCard(text).data
    assert head.license == "apache-2.0"
    records = rankings.load_rankings(ROOT / "assets" / "run-3" / "rankings.jsonl")
    assert f"| {len(records):,} |" in text and all(record.annotator.startswith("simulated") for record in records)


def links(text: str) -> list[str]:
    """What a page's links and pictures lead to inside the repository, without the place on the page."""
    found = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    return [link for link in found if not link.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    assert [link for link in links(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()] == []


def test_the_guides_snippets_and_its_merge_run(folder: Path) -> None:
    run_snippets(GUIDE)
    assert (folder / "runs" / "class.png").stat().st_size > 10_000
    assert len(list((folder / "runs" / "class").glob("*.jsonl"))) == 5


def test_the_guides_run_of_a_class_learns_from_its_rankings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_snippets(GUIDE)
    shrink(monkeypatch)
    (arguments,) = [words for words in commands(GUIDE) if "--rankings" in words]
    assert cli.main(arguments) == 0
    assert (folder / "runs" / "class-run" / "report.html").exists()


COMMANDS = [words for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda words: " ".join(words) or "run")
def test_every_command_is_one_that_the_parser_takes(arguments: list[str]) -> None:
    name = arguments[0] if arguments and arguments[0] in cli.COMMANDS else "run"
    cli.COMMANDS[name][0]().parse_args(arguments[1:] if arguments[:1] == [name] else arguments)


def rooms_imported(file: Path) -> set[str]:
    """The rooms of the package that a file of it imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rlhf_mini":
            below = node.module.split(".")[1:] if node.module else []
            found |= {below[0]} if below else {alias.name for alias in node.names}
    return found


def test_each_room_imports_only_rooms_above_it() -> None:
    table = (FOLDER / "package.md").read_text(encoding="utf-8").split("## Rooms")[1].split("\n\n")[2]
    order = [name for row in table.splitlines() for name in re.findall(r"`(\w+)/?`", row.split("|")[1])]
    files = {file: file.relative_to(ROOT / "rlhf_mini").parts[0].removesuffix(".py")
             for file in (ROOT / "rlhf_mini").rglob("*.py")}
    assert set(order) == {room for room in files.values() if not room.startswith("__")}
    wrong = [(room, other) for file, room in files.items() if room in order for other in rooms_imported(file)
             if order.index(other) > order.index(room)]
    assert wrong == []
