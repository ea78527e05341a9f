"""The tables and pictures of notebook 08: by hand, from the recording, and with texts that would break a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_mini import tales
from rlhf_mini.teaching import taste_pictures as pictures
from rlhf_mini.teaching import taste_tables as tables
from rlhf_mini.teaching.measured import Measured
from rlhf_mini.teaching.taste import SIMULATED_TASTES, win_rate

RESULTS = json.loads((Path(__file__).parent.parent / "assets" / "taste.json").read_text())["results"]
RUNS = tables.recorded_runs(RESULTS, ("bittersweet", "gloomy"))
OPENINGS, ENDINGS = map(list, zip(*(tales.write(seed) for seed in range(120)), strict=True))


# --- tables -----------------------------------------------------------------------------------------------------


def test_each_recorded_run_stands_beside_the_control_of_its_taste_and_seed() -> None:
    assert {name: [row["seed"] for row, _ in both] for name, both in RUNS.items()} == {
        "bittersweet": [0, 1, 2], "gloomy": [0, 1, 2]}
    for name, both in RUNS.items():
        for learnt, control in both:
            assert (learnt["judged"], control["judged"]) == ("rankings", "nothing, turned")
            assert learnt["taste"] == control["taste"] == name and learnt["seed"] == control["seed"]
            assert learnt["checkpoint"] == control["checkpoint"] == "run"


def row(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A recorded run."""
    attributes = dict.fromkeys(("mood", "vividness", "speech", "length"), 0.0)
    of_exam = {which: {"value": value, "error": 0.02, "form": form}
               for which, value, form in (("learnt", 0.7, ""), ("turned", 0.6, ""), ("more", 0.1, "+"))}
    return {"seed": seed, "exam": of_exam, "shift": 0.5, "kl": 2.0, "wins": 12, "losses": 5, "ties": 3,
            "checkpoint": "run", "attributes_before": {**attributes, "kindness": 1.0}, "distinct_before": 1.0,
            "attributes_after": {**attributes, "kindness": 0.4}, "gold_before": 0.0, "gold_after": -1.0,
            "coherent_before": 0.9, "coherent_after": 0.8, "distinct_after": 0.7, **changes}


def test_the_tables_of_the_seeds_by_hand() -> None:
    runs = {"gloomy": [(row(0), row(0, shift=0.3)), (row(1), row(1, shift=0.6))]}
    assert tables.exam_table(runs)["gloomy, seed 1"] == {
        "control (−panel)": "60.0 ± 2.0 %", "learnt": "70.0 ± 2.0 %", "learnt less control": Measured(0.1, 0.02, "+%")}
    assert tables.policy_table(runs)["gloomy, seed 0"] == {
        "moved by control": "+0.30", "KL": "2.0", "moved by learnt": "+0.50", " KL": "2.0",
        "blind": "12 won, 5 lost, 3 tied"}
    found = tables.learnt_less_control(runs)["gloomy"]
    assert found["above two errors"] == "in 2 of 2 seeds"
    assert str(found["moved further (s.d.)"]) == "+0.05 ± 0.15"  # +0.2 and -0.1


def test_side_effects_have_a_column_for_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    kinder = row(1, attributes_after={**row()["attributes_after"], "kindness": 1.5})
    both = [(row(0), row(0)), (kinder, row(1))]
    tables.print_side_effects(both, dict.fromkeys(tables.CHANGED, 0.1))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-4:] == ["learnt 0", "learnt 1", "control 0", "control 1"]
    assert lines[1].split() == ["kindness", "1.00", "0.10", "-0.60", "+0.50", "-0.60", "-0.60"]
    assert tables.rose(both, "kindness", 0.1) == (1, 0)
    assert tables.rose(both, "kindness", 0.6) == (0, 0)  # no more than chance does


def test_a_change_counts_from_two_errors_of_a_difference() -> None:
    least = tables.least_changes(list(zip(OPENINGS, [[ending] for ending in ENDINGS], strict=True)), 50)
    assert set(least) == set(tables.CHANGED)
    moods = [tales.read(*told).attributes.mood for told in zip(OPENINGS, ENDINGS, strict=True)]
    assert least["mood"] == pytest.approx(2 * np.std(moods) * 0.2)


def test_checkpoints_come_with_the_least_coherent_first() -> None:
    found = tables.checkpoint_table([row(), row(checkpoint="small", coherent_before=0.1)])
    assert list(found) == ["small", "run"]
    assert found["small"]["coherent"] == "10% -> 80%" and found["run"]["mood"] == "+0.00 -> +0.00"


def test_what_a_taste_pays_for_is_its_weights() -> None:
    sentimental = np.array([tales.read(*told).attributes.mood for told in zip(OPENINGS, ENDINGS, strict=True)])
    nonsense = [OPENINGS[0], "No sense at all."]
    found = tables.paid_for({"mood": [*sentimental, 0.0, 0.0]}, [*OPENINGS, *OPENINGS[:2]],
                            [*ENDINGS, nonsense[1], nonsense[1]])["mood"]
    assert found["sadness, if unkind"].value == -2.0  # from +1 to -1
    assert found["kindness, if sad"].value == found["kindness, if glad"].value == 0.0


def test_pairs_with_nonsense_are_counted_and_how_often_it_lost() -> None:
    told, other = (OPENINGS[0], ENDINGS[0]), "Zzz."
    pairs = [(*told, other), (told[0], other, told[1]), (*told, told[1])]
    assert tables.nonsense_met(pairs) == "2 of 3, and lost 1"
    assert tables.makes_sense([told[0]] * 2, [told[1], other]).tolist() == [True, False]
    assert tables.right_without_noise(SIMULATED_TASTES["gloomy"], pairs) == (1, 1, 3)


def test_the_attributes_by_mood_and_their_difference() -> None:
    found = tables.by_mood([(opening, [ending]) for opening, ending in zip(OPENINGS, ENDINGS, strict=True)])
    assert list(found) == ["sad", "glad", "sad less glad"]
    for what in tables.COUNTED:
        apart = found["sad"][what].value - found["glad"][what].value
        assert found["sad less glad"][what].value == pytest.approx(apart)


# --- pictures ---------------------------------------------------------------------------------------------------


def words_in(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_win_rates_are_labelled_and_stand_beside_a_coin() -> None:
    ax = pictures.win_rates({"14 of 20": win_rate(14, 6, 0), "20 of 20": win_rate(20, 0, 0)}, "A title")
    assert words_in(ax) == ["70%: 48% to 85%", "100%: 84% to 100%", "a coin"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["14 of 20", "20 of 20"]
    assert ax.get_xlim()[0] == 0 and "%" in ax.get_xlabel()


def test_seeds_are_points_without_lines_between_them_and_named_in_the_picture() -> None:
    axes = pictures.learnt_and_control(RUNS, endings=276)
    assert words_in(axes[0]) == ["learnt", "control (−panel)"]
    for ax in axes:
        points = [line for line in ax.lines if line.get_marker() in "os"]
        assert len(points) == 12 and all(len(line.get_xdata()) == 1 for line in points)
        assert ax.get_legend() is None and ax.get_xlabel()


@pytest.mark.parametrize("iterations", [1, 2, 16])
def test_a_run_is_drawn_from_its_first_iteration_on(iterations: int) -> None:
    rows = [{"score": 0.1 * i, "own": 0.05 * i, "kl": 0.2 * i, "gold": -0.1 * i} for i in range(iterations)]
    axes = pictures.curves_of_a_taste(rows)
    assert words_in(axes[0]) == ["score", "the taste itself"]
    assert len(axes) == 3 and all(ax.get_ylabel() for ax in axes)


@pytest.mark.parametrize("nonsense", [0, 2])
def test_scores_are_drawn_over_the_truth_with_or_without_nonsense(nonsense: int) -> None:
    truth, sense = np.arange(5.0), np.arange(5) >= nonsense
    axes = pictures.scores_over_truth(truth, {"one": truth, "other": -truth}, sense)
    assert words_in(axes[1]) == (["makes no sense"] * bool(nonsense)) + ["makes sense"]
    assert axes[0].get_ylim() == axes[1].get_ylim()


def test_cards_escape_every_text_and_name_the_preferred_one() -> None:
    stories = [("<b>Once</b>", "5 < 6 & so", "<script>x</script>"), ("Twice", "a", "b"), ("Never asked", "c", "d")]
    page = pictures.story_cards(stories, {"<b>Once</b>": "after", "Twice": "neither"}, "<i>Ada</i>")._repr_html_()
    assert "<script>" not in page and "<b>Once" not in page and "<i>Ada" not in page
    assert "&lt;script&gt;x" in page and "5 &lt; 6 &amp; so" in page
    first, second, third = page.split("<p>")[1:]
    assert first.count("preferred by &lt;i&gt;Ada") == 1 and first.index("after: the policy") < first.index("preferred")
    assert second.count("a tie") == 2
    assert "preferred" not in third and "tie" not in third


def test_no_story_makes_an_empty_page() -> None:
    assert pictures.story_cards([], {}, "Ada")._repr_html_() == ""
