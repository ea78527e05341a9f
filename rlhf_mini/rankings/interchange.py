"""Read and write preference data: datasets and files with prompt, chosen and rejected."""

from __future__ import annotations

import os
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, cast

from rlhf_mini.errors import InputError, shown
from rlhf_mini.rankings.durable import RankingFileWarning
from rlhf_mini.rankings.formats import Triple, triple_of, without_repeated_prompts
from rlhf_mini.rankings.judgements import current
from rlhf_mini.rankings.reading import as_path, rows_of
from rlhf_mini.rankings.record import Ranking, is_name
from rlhf_mini.texts import listed, text

if TYPE_CHECKING:
    from datasets import Dataset

MOST_ROWS = 500_000
ROWS_LISTED = 5  # a warning lists this many rows, and only counts the others


def to_dataset(records: Iterable[Ranking | Mapping[str, Any]], margin: bool = False, space: str = " ") -> Dataset:
    """A `datasets.Dataset` of the current pairs, with the columns prompt, chosen, rejected.

    Trainers join prompt and completion without a space, so `space` is put before each completion. `margin` adds a
    column: by how many points the two differ or, where nothing was rated, by how many places. Ties give no pair.
    The dataset's `to_json(file)` writes a file that `load_preferences` and TRL's trainers read.
    """
    from datasets import Dataset

    space = text("space", space)
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

    The dataset is a `datasets.Dataset`, a DataFrame, or a list of rows, at most MOST_ROWS. Answers may be texts or
    lists of messages. Without a prompt, texts are whole conversations of turns after Human: and Assistant:. What they
    share up to the last answer is then the prompt. Where most answers begin with their prompt, it is removed there.
    Where every completion that is not empty begins with a space, that space is removed: records store completions
    without it. The ids follow from the rows, so the same data read twice counts once.
    Raises: InputError if no row can be used. Warns of the rows that cannot be used, and lists the first of them.
    """
    rows = enumerate(_rows_of_table(dataset), start=1)
    return _records(((f"row {number}", row) for number, row in rows), annotator, "the dataset")


def load_preferences(path: str | os.PathLike[str], annotator: str) -> list[Ranking]:
    """Rankings from a file of preference data, with the columns of `from_dataset`.

    The file holds JSON Lines or one JSON array, in UTF-8 or UTF-16, gzipped or not, within the limits of
    `rankings.reading`.
    Raises: InputError, one line, for a file that is missing, is not text, or has no row that can be used.
    """
    file = as_path("path", path)
    return _records(rows_of(file), annotator, str(file))


def _rows_of_table(dataset: Any) -> Iterable[Any]:
    """The rows of a dataset, a DataFrame or a list. Raises: InputError, one line, for what has none."""
    wanted = "a list of rows, each with prompt, chosen, rejected"
    if isinstance(dataset, str | os.PathLike):
        raise InputError(f"the dataset is {shown(str(dataset))}: to read a file, call "
                         "rankings.load_preferences(file, annotator)")
    if hasattr(dataset, "to_dict") and hasattr(dataset, "iterrows"):
        return cast(Iterable[Any], dataset.to_dict("records"))
    if isinstance(dataset, Mapping):
        keys = shown(list(dataset))
        if all(hasattr(split, "column_names") for split in dataset.values()):
            raise InputError(f"the dataset has the splits {keys}: give one of them, such as dataset[split]")
        if any(isinstance(column, list | tuple) for column in dataset.values()):
            raise InputError(f"the dataset is a dict of columns, {keys}: give datasets.Dataset.from_dict(columns)")
        raise InputError(f"the dataset is one row with the keys {keys}: give {wanted}, such as [row]")
    if isinstance(dataset, Iterator):
        return dataset  # as a stream, which can be without an end
    if hasattr(dataset, "column_names") and hasattr(dataset, "__iter__"):
        return cast(Iterable[Any], dataset)
    return listed("the dataset", dataset, wanted)


def _records(rows: Iterable[tuple[str, Any]], annotator: str, source: str) -> list[Ranking]:
    if not is_name(annotator):
        raise InputError(f"annotator is {shown(annotator)}: give a name, in any language")
    triples, refused = [], []
    for count, (name, row) in enumerate(rows, start=1):
        if count > MOST_ROWS:
            raise InputError(f"{source} has more than {MOST_ROWS:,} rows: give a part of it")
        try:
            triples.append(triple_of(row))
        except InputError as error:
            refused.append((name, str(error)))
    if not triples:
        why = f": {refused[0][0]}: {refused[0][1]}" if refused else ", it is empty"
        raise InputError(f"{source} has no preference that can be used{why}")
    if refused:
        warnings.warn(f"{source}: {_refusals(refused, len(triples))}", RankingFileWarning, stacklevel=3)
    return list(_as_rankings(triples, annotator))


def _as_rankings(triples: list[Triple], annotator: str) -> Iterator[Ranking]:
    seen: Counter[Triple] = Counter()
    read = without_repeated_prompts(triples)
    spaces = 1 if all(text.startswith(" ") for _, *texts in read for text in texts if text) else 0
    for triple, (prompt, chosen, rejected) in zip(triples, read, strict=True):
        record_id = uuid.uuid5(uuid.NAMESPACE_OID, repr((annotator, *triple, seen[triple])))
        seen[triple] += 1
        yield Ranking(id=str(record_id), annotator=annotator, prompt=prompt, ranking=[[0], [1]],
                      completions=[chosen[spaces:], rejected[spaces:]], session="imported")


def _refusals(refused: list[tuple[str, str]], used: int) -> str:
    named = "; ".join(f"{name}: {why}" for name, why in refused[:ROWS_LISTED])
    more = f"; and {len(refused) - ROWS_LISTED} more" if len(refused) > ROWS_LISTED else ""
    return f"{len(refused)} of {used + len(refused)} rows cannot be used and are left out ({named}{more})"
