"""How much there is to read: `python notebooks/words.py` prints a line for each notebook, and what is too much.

With `--sheet` it writes the prediction sheet, `notebooks/guide/predictions.md`.

Counted is the prose of Markdown cells: no headings, tables, code, formulas, and nothing that is folded (`<details>`). A
sentence ends with a full stop, a question or exclamation mark or a colon at the end of a line, or with its paragraph or
list item.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent
MOST_WORDS, LONGEST_SENTENCE = 3000, 30  # of a notebook; in words
SERIES, SERIES_WORDS = range(10), 26_000  # 00 to 09 together
MINUTES, CORE_MINUTES, A_MINUTE = 5, 10, 180  # of an exercise and of a core one; words read in a minute
STUB = re.compile(r"^def my_\w+\(.*?\n {4}\.\.\.\s*$", re.S | re.M)

# Words with a plainer one beside them, and names that are not the project's: word -> what to write
INSTEAD = {
    r"leash(es)?": "KL penalty", r"on a lead": "with the KL penalty", r"judges?": "reward model (or annotator, reader)",
    r"dear(er|est)?": "expensive", r"mend(s|ed|ing)?": "repair", r"wanted": "expected, or meant",
    r"knows? nothing": "is untrained", r"whim": "noise", r"lest": "so that … not", r"alas": "(nothing)",
    r"hitherto": "until now", r"whence": "from where", r"amiss": "wrong", r"heed": "follow", r"nought": "zero",
}


class Reading(NamedTuple):
    """What a notebook asks of its reader."""

    words: int
    long: list[str]  # sentences with more than LONGEST_SENTENCE words
    fancy: list[str]  # words of INSTEAD, with what to write
    stubs: int
    core: int  # of the stubs, those that a short course is built on

    @property
    def minutes(self) -> int:
        """What a person needs, about: reading, and writing what is missing."""
        return round(self.words / A_MINUTE + MINUTES * (self.stubs - self.core) + CORE_MINUTES * self.core)


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells, each with its source as one text."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def prose(markdown: str) -> list[str]:
    """The paragraphs and list items of a cell, without what is not read as prose."""
    text = re.sub(r"<details>.*?</details>|^```.*?^```|\$\$.*?\$\$|<!--.*?-->", "", markdown, flags=re.S | re.M)
    text = re.sub(r"\$[^$\n]+\$|`[^`\n]+`", "x", text)  # a formula or a name is a word
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<[^>]+>", "", text)
    kept = [line for line in text.splitlines() if not re.match(r"\s*(\||#)", line)]
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.)\s)", "\n".join(kept))
    plain = (re.sub(r"^\s*(>|[-*]|\d+\.)\s", "", block, flags=re.M) for block in blocks)
    return [" ".join(block.split()) for block in plain if block.strip()]


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph."""
    return [one for one in re.split(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_]*[A-Z0-9λβγπδρ])|:\s*$", paragraph) if one]


def count(text: str) -> int:
    return len([word for word in text.split() if re.search(r"\w", word)])


def read(path: Path) -> Reading:
    """What a notebook asks of its reader."""
    paragraphs = [one for cell in cells(path) if cell["cell_type"] == "markdown" for one in prose(cell["source"])]
    long = [one for paragraph in paragraphs for one in sentences(paragraph) if count(one) > LONGEST_SENTENCE]
    whole = "\n".join(paragraphs)
    fancy = [f"{match[0]!r}: write {plain!r}" for word, plain in INSTEAD.items()
             for match in re.finditer(rf"\b{word}\b", whole, re.I)]
    stubs = sum(len(STUB.findall(cell["source"])) for cell in cells(path) if cell["cell_type"] == "code")
    core = len(re.findall(r"^\*\*Exercise[^*\n]*\(core\)", "\n".join(cell["source"] for cell in cells(path)), re.M))
    return Reading(sum(map(count, paragraphs)), long, fancy, stubs, core)


def sheet() -> str:
    """The prediction sheet: every question of the series, with a line for the answer."""
    lines = ["# Prediction sheet", "", "Print it. Write each answer down before you run the cell that shows it.", ""]
    for path in sorted(FOLDER.glob("*.ipynb")):
        source = "\n".join(cell["source"] for cell in cells(path) if cell["cell_type"] == "code")
        questions = [ast.literal_eval(text) for text in re.findall(r"\bpredict\(((?:\s*\"[^\"\n]*\")+)\)", source)]
        if questions:
            title = f"## {path.stem[:2]} · {path.stem[3:].replace('_', ' ')}"
            lines += [title, "", "| question | my prediction | found |", "|---|---|---|",
                      *(f"| {question} | | |" for question in questions), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--sheet"]:
        (FOLDER / "guide" / "predictions.md").write_text(sheet(), encoding="utf-8")
        sys.exit()
    chosen = [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb"))
    readings = {path.stem: read(path) for path in chosen}
    for name, one in readings.items():
        print(f"{name:34} {one.words:5} words, {one.stubs:2} stubs ({one.core} core), {one.minutes:3} minutes, "
              f"{len(one.long):3} long sentences, {len(one.fancy):3} words to replace")
        if len(sys.argv) > 1:
            print(*(f"    {count(sentence)} words: {sentence}" for sentence in one.long), sep="\n")
            print(*(f"    {word}" for word in one.fancy), sep="\n")
    series = [one for name, one in readings.items() if int(name[:2]) in SERIES]
    print(f"00 to 09 together: {sum(one.words for one in series)} words of {SERIES_WORDS}, "
          f"{sum(one.stubs for one in series)} stubs ({sum(one.core for one in series)} core)")
