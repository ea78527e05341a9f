"""How much the series asks of its reader, its words, and its glossary."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
import pytest

from rlhf_mini.glossary import GLOSSARY, page

FOLDER = Path(__file__).parent.parent / "notebooks"
sys.path.insert(0, str(FOLDER))
import words  # type: ignore[import-not-found]  # noqa: E402


def test_the_page_of_the_glossary_is_the_glossary() -> None:
    assert (FOLDER / "guide" / "glossary.md").read_text(encoding="utf-8") == page()
    assert all(term.meaning.endswith(".") and term.chinese for term in GLOSSARY.values())


def written(tmp_path: Path, *sources: str) -> Path:
    """A notebook of Markdown cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source) for source in sources])
    path = tmp_path / "03_x.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.mark.parametrize(("source", "count"), [
    ("# A heading\n\nThree plain words.", 3), ("| a | table |\n|---|---|", 0), ("A `name_of(x)` counts once.", 4),
    ("Seen.\n\n<details><summary>Hint</summary>\n\nNot counted.\n</details>", 1), ("- one\n- two", 2),
    ("$$x = y$$ A formula $x + y$ is a word.", 6), ("[a link](with/a/path.md)", 2),
])
def test_words_are_counted_that_are_read_as_prose(tmp_path: Path, source: str, count: int) -> None:
    assert words.read(written(tmp_path, source)).words == count


def test_long_sentences_are_found_and_lists_are_no_sentence(tmp_path: Path) -> None:
    long = "It " + "is " * 30 + "long."
    assert words.read(written(tmp_path, f"Short. {long} Short.")).long == [long]
    items = "\n".join(f"- {'word ' * 20}" for _ in range(3))
    assert words.read(written(tmp_path, items)).long == []


def test_words_with_a_plainer_one_beside_them_are_found(tmp_path: Path) -> None:
    assert words.read(written(tmp_path, "The judge is dear.")).fancy == [
        "'judge': write 'reward model (or annotator, reader)'", "'dear': write 'expensive'"]


# --- the series -------------------------------------------------------------------------------------------------

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
READINGS = {path.stem: words.read(path) for path in NOTEBOOKS}
SERIES = {name: one for name, one in READINGS.items() if int(name[:2]) in words.SERIES}


@pytest.mark.parametrize("name", READINGS)
def test_a_notebook_is_short_and_plain(name: str) -> None:
    one = READINGS[name]
    assert one.words <= words.MOST_WORDS
    assert one.long == []
    assert one.fancy == []


def test_the_series_asks_for_more_hands_than_eyes() -> None:
    assert sum(one.words for one in SERIES.values()) <= words.SERIES_WORDS
    assert sum(one.stubs for one in SERIES.values()) >= 30
    assert all(one.stubs >= 3 for name, one in SERIES.items() if name[:2] not in ("00", "09"))
    assert sum(one.core for one in SERIES.values()) >= 12


@pytest.mark.parametrize("term", GLOSSARY)
def test_a_term_is_explained_in_bold_where_the_glossary_says(term: str) -> None:
    path = next(path for path in NOTEBOOKS if int(path.stem[:2]) == GLOSSARY[term].notebook)
    prose = "\n".join(cell["source"] for cell in words.cells(path) if cell["cell_type"] == "markdown")
    bold = " ".join(re.findall(r"\*\*([^*]+)\*\*", prose)).lower()
    stem = re.escape(re.sub(r"[esy]?$", "", term.lower()))
    assert re.search(rf"(?<!\w){stem}(e|y|s|es|ies|ed|ing)?(?!\w)", bold)  # as a word of its own, also in the plural


def test_the_prediction_sheet_has_the_questions_of_the_notebooks() -> None:
    assert (FOLDER / "guide" / "predictions.md").read_text(encoding="utf-8") == words.sheet(), (
        "write it anew: python notebooks/words.py --sheet")
