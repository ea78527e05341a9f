"""The tables of notebook 08: what scores pay for, what rankings hold, and recorded runs beside their controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlhf_mini import tales
from rlhf_mini.tables import align_columns
from rlhf_mini.tales import Annotator
from rlhf_mini.teaching.measured import Measured, mean_error, over_seeds
from rlhf_mini.teaching.taste import utilities

Row = Mapping[str, Any]  # one result of taste.json
Runs = Mapping[str, Sequence[tuple[Row, Row]]]  # for each taste: what was learnt and its control, seed by seed
Table = dict[str, dict[str, Any]]  # rows of `print_table`

COUNTED = ("kindness", "vividness", "speech", "length")  # attributes of an ending
CHANGED = ("mood", *COUNTED, "gold", "coherent", "distinct")  # what a recorded run says of before and after


# --- endings and pairs ------------------------------------------------------------------------------------------


def makes_sense(prompts: Iterable[str], endings: Iterable[str]) -> NDArray[np.bool_]:
    """Whether each ending is coherent after its opening. Shapes: -> (N,)."""
    return np.array([tales.read(*told).coherent for told in zip(prompts, endings, strict=True)])


def paid_for(scores: Mapping[str, Any], prompts: Sequence[str], endings: Sequence[str]) -> Table:
    """What each kind of score pays for kindness, for a sad ending and for nonsense: differences of means.

    Shapes: (N,) for each kind of score.
    """
    readings = [tales.read(*told) for told in zip(prompts, endings, strict=True)]
    mood, kindness = (np.array([getattr(one.attributes, what) for one in readings]) for what in ("mood", "kindness"))
    sense, kind = makes_sense(prompts, endings), kindness > 0
    sad, glad = sense & (mood == -1), sense & (mood == 1)
    compared = {"kindness, if sad": (sad & kind, sad & ~kind), "kindness, if glad": (glad & kind, glad & ~kind),
                "sadness, if unkind": (sad & ~kind, glad & ~kind), "nonsense": (~sense, sense)}
    return {who: {what: mean_error(np.asarray(heights)[these], form="+") - mean_error(np.asarray(heights)[those])
                  for what, (these, those) in compared.items()} for who, heights in scores.items()}


def nonsense_met(pairs: Iterable[tuple[str, str, str]]) -> str:
    """In how many pairs (prompt, chosen, rejected) just one ending makes sense, and how often the other one lost."""
    sense = [[tales.read(prompt, ending).coherent for ending in two] for prompt, *two in pairs]
    return f"{sum(a != b for a, b in sense)} of {len(sense)}, and lost {sum(a and not b for a, b in sense)}"


def right_without_noise(annotator: Annotator, pairs: Iterable[tuple[str, str, str]]) -> tuple[int, int, int]:
    """Of pairs (prompt, chosen, rejected): how many the taste orders so, how many it likes equally, and all."""
    liked = [utilities(annotator, [prompt] * 2, two).tolist() for prompt, *two in pairs]
    return sum(a > b for a, b in liked), sum(a == b for a, b in liked), len(liked)


def by_mood(items: Iterable[tuple[str, Sequence[str]]]) -> Table:
    """The other attributes of the sad and of the glad endings that were ranked, and the difference."""
    readings = [tales.read(prompt, ending) for prompt, endings in items for ending in endings]
    table: Table = {}
    for mood, word in ((-1, "sad"), (1, "glad")):
        kept = [one.attributes for one in readings if one.coherent and one.attributes.mood == mood]
        table[word] = {what: mean_error([getattr(one, what) for one in kept]) for what in COUNTED}
    return table | {"sad less glad": {what: table["sad"][what] - table["glad"][what] for what in COUNTED}}


# --- recorded runs ----------------------------------------------------------------------------------------------


def recorded_runs(results: Iterable[Row], names: Iterable[str]) -> dict[str, list[tuple[Row, Row]]]:
    """For each taste, what was learnt from rankings and its control, seed by seed."""
    found = {(row["taste"], row["judged"], row["seed"]): row for row in results if row["checkpoint"] == "run"}
    return {name: [(row, found[name, "nothing, turned", seed]) for (taste, judged, seed), row in found.items()
                   if (taste, judged) == (name, "rankings")] for name in names}


def exam_table(runs: Runs) -> Table:
    """The exam of each seed: the control, what was learnt, and the difference pair by pair."""
    def measured(row: Row, which: str) -> Measured:
        return Measured(**row["exam"][which])

    return {f"{name}, seed {row['seed']}": {"control (−panel)": f"{measured(row, 'turned'):%}",
                                            "learnt": f"{measured(row, 'learnt'):%}",
                                            "learnt less control": replace(measured(row, "more"), form="+%")}
            for name, both in runs.items() for row, _ in both}


def policy_table(runs: Runs) -> Table:
    """The policies of each seed: how far the taste moved, the KL, and the twenty blind pairs."""
    return {f"{name}, seed {row['seed']}": {
        "moved by control": f"{control['shift']:+.2f}", "KL": f"{control['kl']:.1f}",
        "moved by learnt": f"{row['shift']:+.2f}", " KL": f"{row['kl']:.1f}",
        "blind": f"{row['wins']} won, {row['losses']} lost, {row['ties']} tied"}
        for name, both in runs.items() for row, control in both}


def learnt_less_control(runs: Runs) -> Table:
    """The gain over the control on the exam, and how much further the taste moved: mean and half range of the seeds."""
    table: Table = {}
    for name, both in runs.items():
        more = [row["exam"]["more"] for row, _ in both]
        clear = sum(one["value"] > 2 * one["error"] for one in more)
        table[name] = {"learnt less control, exam": over_seeds([one["value"] for one in more], form="+%"),
                       "above two errors": f"in {clear} of {len(both)} seeds",
                       "moved further (s.d.)": over_seeds([row["shift"] - control["shift"] for row, control in both],
                                                          form="+")}
    return table


def checkpoint_table(rows: Iterable[Row]) -> Table:
    """What the same rankings did to each checkpoint, the least coherent first."""
    return {row["checkpoint"]: {
        "coherent": f"{row['coherent_before']:.0%} -> {row['coherent_after']:.0%}",
        "mood": " -> ".join(f"{attribute(row, when, 'mood'):+.2f}" for when in ("before", "after")),
        "moved (s.d.)": f"{row['shift']:+.2f}", "KL": f"{row['kl']:.1f}",
        "blind": f"{row['wins']} won, {row['losses']} lost, {row['ties']} tied"}
        for row in sorted(rows, key=lambda row: float(row["coherent_before"]))}


def attribute(row: Row, when: str, what: str) -> float:
    """The mean of an attribute, or another figure, of a recorded run's endings "before" or "after"."""
    found: float = row[f"attributes_{when}"].get(what, row.get(f"{what}_{when}"))
    return found


def least_changes(items: Iterable[tuple[str, Sequence[str]]], count: int) -> dict[str, float]:
    """The smallest change that counts of each figure in CHANGED: two standard errors of a difference of two means.

    The means are over `count` endings, before and after. Recorded are only the means, so the spread of an ending's
    attributes is that of `items`, endings of the fine-tuned model, and the error is as if the openings were others.
    """
    told = [(prompt, ending) for prompt, endings in items for ending in endings]
    read = [tales.read(*one) for one in told]
    spreads = {what: float(np.std([getattr(one.attributes, what) for one in read])) for what in ("mood", *COUNTED)}
    spreads["gold"] = float(np.std([tales.gold_reward(*one) for one in told]))
    spreads["coherent"] = float(np.std([one.coherent for one in read]))
    forms = [tales.skeleton(ending) for _, ending in told]
    spreads["distinct"] = float(np.std([form not in forms[:i] for i, form in enumerate(forms)]))
    return {what: 2 * spreads[what] * (2 / count) ** 0.5 for what in CHANGED}


def print_side_effects(both: Sequence[tuple[Row, Row]], least: Mapping[str, float]) -> None:
    """Print what the runs of one taste changed in everything that is counted, a column for each seed.

    Each change is from the same seed's endings before; the first two columns are the mean before, and what counts.
    """
    seeds = [f"{who} {row['seed']}" for who in ("learnt", "control") for row, _ in both]
    rows = [["", "before", "counts from", *seeds]]
    for what in CHANGED:
        before = mean(attribute(one, "before", what) for one, _ in both)
        moved = [change(one, what) for rows_of in zip(*both, strict=True) for one in rows_of]
        rows.append([what, f"{before:z.2f}", f"{least[what]:.2f}", *(f"{x:+z.2f}" for x in moved)])
    print("\n".join(line.rstrip() for line in align_columns(rows)))


def change(row: Row, what: str) -> float:
    """What a recorded run changed in an attribute or another figure of its endings."""
    return attribute(row, "after", what) - attribute(row, "before", what)


def rose(both: Sequence[tuple[Row, Row]], what: str, least: float) -> tuple[int, int]:
    """In how many seeds an attribute rose by more than `least`: after learning, and with the control."""
    learnt, control = (sum(change(one, what) > least for one in column) for column in zip(*both, strict=True))
    return learnt, control
