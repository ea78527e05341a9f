"""Read and write preference data: datasets with prompt, chosen, rejected, and files of whole conversations."""

from __future__ import annotations

import gzip
import json
import os
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_mini.errors import InputError
from rlhf_mini.rankings.durable import RankingFileWarning
from rlhf_mini.rankings.judgements import current
from rlhf_mini.rankings.record import Ranking

if TYPE_CHECKING:
    from datasets import Dataset

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROWS_LISTED = 5  # a warning lists this many rows, and only counts the others


def to_dataset(records: Iterable[Ranking | Mapping[str, Any]], margin: bool = False, space: str = " ") -> Dataset:
    """A `datasets.Dataset` of the current pairs, with the columns prompt, chosen, rejected.

    Trainers join prompt and completion without a space, so `space` is put before each completion. `margin` adds a
    column: by how many points the two differ or, where nothing was rated, by how many places. Ties give no pair.
    The dataset's `to_json(file)` writes a file that `load_preferences` and TRL's trainers read.
    """
    from datasets import Dataset

    rows = []
    for record in current(records):
        for (i, better), (j, worse) in combinations(enumerate(record.ranking), 2):
            for chosen in better:
                for rejected in worse:
                    if record.completions[chosen] == record.completions[rejected]:
                        continue
                    gap = record.ratings[chosen] - record.ratings[rejected] if record.ratings else j - i
                    rows.append({"prompt": record.prompt, "chosen": space + record.completions[chosen],
                                 "rejected": space + record.completions[rejected], "margin": float(gap)})
    if not rows:
        raise InputError("there is no pair to write, because all judgements are ties, skips or undone: give a "
                         "ranking that prefers one completion to another")
    columns = ("prompt", "chosen", "rejected", *(("margin",) if margin else ()))
    return Dataset.from_dict({name: [row[name] for row in rows] for name in columns})


def from_dataset(dataset: Iterable[Mapping[str, Any]], annotator: str) -> list[Ranking]:
    """Rankings of two completions each from rows with chosen and rejected, and prompt where they have one.

    Without a prompt, both are whole conversations of turns after Human: and Assistant:. What they share up to the
    last answer is then the prompt. Where every completion begins with a space, that space is removed: records store
    completions without it. The ids follow from the rows, so the same data read twice counts once.
    Raises: InputError if no row can be used. Warns of the rows that cannot be used, and lists the first of them.
    """
    return _records(((f"row {number}", row) for number, row in enumerate(dataset, start=1)), annotator, "the dataset")


def load_preferences(path: str | os.PathLike[str], annotator: str) -> list[Ranking]:
    """Rankings from a file of preference data: JSON Lines, gzipped or not, with the columns of `from_dataset`.

    Raises: InputError, one line, for a file that is missing, is not text, or has no row that can be used.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"preference file {path} cannot be read ({error}): give JSON Lines, gzipped or not") from error
    lines = ((f"line {number}", line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return _records(((name, _parsed(line)) for name, line in lines), annotator, str(path))


def split_conversations(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Split two conversations that differ only in the last answer: the prompt (up to "Assistant:"), and both answers.

    Raises: InputError if they differ elsewhere.
    """
    shared = list(takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False)))
    start = chosen.rfind(ASSISTANT, 0, len(shared))
    if start < 0:
        raise InputError('they share no beginning up to an "Assistant:"')
    start += len(ASSISTANT)
    answers = chosen[start:], rejected[start:]
    if any(turn in answer for turn in (HUMAN, ASSISTANT) for answer in answers):
        raise InputError("they differ before the last answer")
    return chosen[:start], *answers


def _records(rows: Iterable[tuple[str, Any]], annotator: str, source: str) -> list[Ranking]:
    triples, refused = [], []
    for name, row in rows:
        try:
            triples.append(_triple(row))
        except InputError as error:
            refused.append((name, str(error)))
    if not triples:
        why = f": {refused[0][0]}: {refused[0][1]}" if refused else ", it is empty"
        raise InputError(f"{source} has no preference that can be used{why}")
    if refused:
        warnings.warn(f"{source}: {_refusals(refused, len(triples))}", RankingFileWarning, stacklevel=3)
    spaced = all(text.startswith(" ") for _, *texts in triples for text in texts)
    return list(_as_rankings(triples, annotator, 1 if spaced else 0))


def _as_rankings(triples: Iterable[tuple[str, str, str]], annotator: str, spaces: int) -> Iterator[Ranking]:
    seen: Counter[tuple[str, str, str]] = Counter()
    for triple in triples:
        prompt, chosen, rejected = triple
        record_id = uuid.uuid5(uuid.NAMESPACE_OID, repr((annotator, *triple, seen[triple])))
        seen[triple] += 1
        yield Ranking(id=str(record_id), annotator=annotator, prompt=prompt, ranking=[[0], [1]],
                      completions=[chosen[spaces:], rejected[spaces:]], session="imported")


def _triple(row: Any) -> tuple[str, str, str]:
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError("it is not a JSON object")
    chosen, rejected, prompt = (row.get(name) for name in ("chosen", "rejected", "prompt"))
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise InputError('"chosen" or "rejected" is not a text')
    if prompt is None:
        prompt, chosen, rejected = split_conversations(chosen, rejected)
    elif not isinstance(prompt, str):
        raise InputError('"prompt" is not a text')
    if chosen == rejected:
        raise InputError("chosen and rejected are the same")
    return prompt, chosen, rejected


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return InputError("it is not a line of JSON")


def _refusals(refused: list[tuple[str, str]], used: int) -> str:
    named = "; ".join(f"{name}: {why}" for name, why in refused[:ROWS_LISTED])
    more = f"; and {len(refused) - ROWS_LISTED} more" if len(refused) > ROWS_LISTED else ""
    return f"{len(refused)} of {used + len(refused)} rows cannot be used and are left out ({named}{more})"
