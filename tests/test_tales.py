"""The world of tales: what the grammar writes the reader accepts, and damage it rejects."""

from __future__ import annotations

import json
import random
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tale_damage import DAMAGES

from rlhf_mini import tales
from rlhf_mini.assets import asset
from rlhf_mini.config import MAX_NEW_TOKENS
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import encode_endings, load_language_model
from rlhf_mini.tales import panel
from rlhf_mini.tales.corpus import corpus
from rlhf_mini.tales.grammar import MAX_CHARACTERS, Scene, Story, compose
from rlhf_mini.tales.lexicon import THING_TAGS, THREADS, tokenise
from rlhf_mini.tales.patterns import COMPANY, ENDINGS, MOODS, OPENINGS, ORIGINS, THING_STATES, Pattern, vocabulary

OPENING = "Nora was hiding by the mill when she saw a red kite."
TWICE = "It flew higher than the clouds. It flew higher than the chimneys. Look up: it may be there still."


@pytest.fixture(scope="module")
def composed() -> list[Story]:
    """Twenty thousand stories with their derivations; every test here reads the same ones."""
    return [compose(seed) for seed in range(20_000)]


@pytest.fixture(scope="module")
def stories(composed: list[Story]) -> list[tuple[str, str]]:
    return [(story.opening, story.ending) for story in composed]


def test_the_reader_accepts_every_story_that_the_grammar_writes(stories: list[tuple[str, str]]) -> None:
    faults = [(story, tales.read(*story).reasons) for story in stories if not tales.read(*story).coherent]
    assert not faults, faults[:3]


def test_stories_are_not_one_story_with_the_nouns_swapped(stories: list[tuple[str, str]]) -> None:
    skeletons = Counter(tales.skeleton(ending) for _, ending in stories)
    assert len(skeletons) >= 2_000
    assert skeletons.most_common(1)[0][1] <= 0.01 * len(stories)


def test_endings_have_two_to_five_sentences_and_fit_the_token_limit(composed: list[Story],
                                                                    stories: list[tuple[str, str]]) -> None:
    assert {len(story.sentences) for story in composed} == {2, 3, 4, 5}
    assert max(len(ending) for _, ending in stories) < MAX_CHARACTERS
    tokenizer = load_language_model(asset("tiny-tales-gpt2"))[1]
    assert max(map(len, encode_endings(tokenizer, [ending for _, ending in stories]))) <= MAX_NEW_TOKENS


def test_the_lexicon_is_rich_and_the_patterns_are_many() -> None:
    assert len({word.lower() for word in vocabulary()}) >= 500
    assert len(ENDINGS) + len(OPENINGS) >= 300


@pytest.mark.parametrize("kind", DAMAGES)
def test_the_reader_rejects_damage(kind: str, composed: list[Story]) -> None:
    rng = random.Random(kind)
    damaged = [(story.opening, text) for story in composed[:4_000]
               if (text := DAMAGES[kind](story, rng)) is not None]
    rejected = sum(not tales.read(*pair).coherent for pair in damaged)
    assert len(damaged) >= 500
    assert rejected >= 0.99 * len(damaged)


def test_hand_labelled_stories_get_their_verdicts_and_attributes() -> None:
    lines = Path(__file__).with_name("hand_labelled.jsonl").read_text(encoding="utf-8").splitlines()
    labelled = [json.loads(line) for line in lines]
    assert len(labelled) == 100
    assert {label["kindness"] for label in labelled} >= {0, 1, 2, 3, 4}
    assert {label["vividness"] for label in labelled} >= {0, 1, 2, 3}
    for label in labelled:
        reading = tales.read(label["opening"], label["ending"])
        assert reading.grammatical == label["grammatical"], (label, reading.reasons)
        assert reading.coherent == label["coherent"], (label, reading.reasons)
        gold = tales.gold_reward(label["opening"], label["ending"])
        if not label["coherent"]:
            assert gold < panel_floor()
            continue
        found = {name: getattr(reading.attributes, name) for name in ("kindness", "mood", "vividness", "speech")}
        assert found == {name: label[name] for name in found}, label
        assert gold == pytest.approx(gold_by_hand(label), abs=1e-9)


def gold_by_hand(label: dict) -> float:
    """The panel's mean utility from labels, with the weights written out: see data/panel.toml."""
    kind, mood, vivid, speech = (label[name] for name in ("kindness", "mood", "vividness", "speech"))
    utilities = [0.8 * kind + 0.9 * mood, 0.2 * kind + 1.2 * mood, 0.3 * kind + 0.7 * mood + 0.7 * vivid,
                 0.3 * kind + 0.7 * mood + 1.2 * speech, 0.5 * kind + 1.0 * mood]
    return (sum(utilities) / 5 - panel.MEAN) / panel.DEVIATION


def panel_floor() -> float:
    """Gold of the lowest coherent ending there could be, less 1."""
    lowest = [-0.9, -1.2, -0.7, -0.7, -1.0]
    return (sum(lowest) / 5 - panel.MEAN) / panel.DEVIATION - 1 + 1e-9


@pytest.mark.parametrize(("ending", "reason"), [
    ("He ran with it until he was out of breath. Look up: it may be there still.", "pronoun"),
    ("But it caught on a nail and tore. It flew higher than the clouds. Nora never saw it again.", "broken"),
    ("They laughed until the windows shook. They walked home under a sky full of stars.", "nobody else"),
    ('"May I see?" said Tom shyly. "Same time tomorrow?" asked Emil.', "Emil"),
    ("Nora took the blue kite home, whistling. But at night it hums, when nobody is looking.", "blue"),
    ("Nora polished it until it shone. Look up: it may be flying still.", "not done with a kite"),
    (TWICE, "told twice"),
    ("Nora let the kite fly, and the captain saw it and steered clear. Now there is a ship named Nora.",
     "the ship in danger"),
    ("That night a ship came near the rocks. Now there is a ship named Nora.", "the rescue of the ship"),
    ("That night a ship came near the rocks. Look up: it may be there still.", "the ship in danger is forgotten"),
])
def test_incoherent_endings_are_refused_with_a_reason(ending: str, reason: str) -> None:
    reading = tales.read(OPENING, ending)
    assert reading.grammatical and not reading.coherent
    assert any(reason in text for text in reading.reasons), reading.reasons


@pytest.mark.parametrize("ending", ["", " ", "Look up: it may be there still.", "look up: it may be",
                                    "She looked all round it carefully.", "<script>alert(1)</script>",
                                    "She looked all round it carefully. Nora never told",
                                    "It flew higher than the clouds.  Look up: it may be there still.",
                                    "It flew higher than the clouds.\nLook up: it may be there still."])
def test_ungrammatical_endings_are_refused_with_a_reason(ending: str) -> None:
    reading = tales.read(OPENING, ending)
    assert not reading.grammatical and not reading.coherent and reading.reasons


def test_an_ending_that_follows_is_accepted() -> None:
    reading = tales.read(OPENING, '"May I see?" said Tom shyly. "It is yours and mine," said Nora kindly. '
                                  "They walked home under a sky full of stars.")
    assert reading.coherent and reading.reasons == ()
    assert reading.attributes == tales.Attributes(kindness=2, mood=1, vividness=1, speech=1, length=32)


def test_a_foreign_opening_is_not_a_tale() -> None:
    assert tales.read("To be, or not to be", "She skipped all the way home.").reasons == (
        "the opening is not the opening of a tale",)


def can_close(scene: Scene) -> bool:
    return any(p.closes and scene.meets(p) for p in ENDINGS)


def after(scene: Scene, pattern: Pattern) -> Scene:
    return scene.after(pattern, "Tom" if "friend" in pattern.sets else None)


def test_every_situation_can_close_at_once_or_after_one_sentence_more() -> None:
    for thing in THING_TAGS:
        start = [Scene("Nora", thing, None, "mill", friend, state, "calm")
                 for state, friend in (("here", None), ("wanted", None), ("here", "Tom"))]
        start += [replace(scene, origin="found") for scene in start if scene.state == "here"]
        seen, waiting = set(start), list(start)
        while waiting:
            scene = waiting.pop()
            assert can_close(scene) or any(can_close(after(scene, p)) for p in ENDINGS if scene.meets(p)), scene
            for pattern in ENDINGS:
                if not pattern.closes and scene.meets(pattern):
                    following = after(scene, pattern)
                    if following not in seen:
                        seen.add(following)
                        waiting.append(following)


def test_every_sentence_pattern_is_used(composed: list[Story]) -> None:
    used = {sentence.pattern for story in composed for sentence in story.sentences}
    assert set(ENDINGS) == used


def test_patterns_speak_of_they_only_together() -> None:
    for pattern in ENDINGS:
        words = {word.strip().lower() for word in tokenise(pattern.text)}
        if (words & {"they", "them", "their", "friend"} and "FRIEND" in pattern.text) or "They" in pattern.text:
            assert "together" in pattern.needs or pattern.thread == "~friendly", pattern.text


def test_endings_name_only_what_the_writer_fills_and_the_reader_checks() -> None:
    roles = {role for pattern in ENDINGS for variant in pattern.variants for role in variant.roles}
    assert roles == {"HERO", "FRIEND", "NEW", "THING", "ADJ"}


def test_threads_are_named_opened_and_closed() -> None:
    named = {f"~{name}" for name in THREADS}
    assert named == {p.thread for p in ENDINGS} - {"~"} == {p.next_thread for p in ENDINGS} - {"~", None}
    assert all(p.next_thread == "~" for p in ENDINGS if p.closes and p.thread != "~")


def test_states_are_known_words() -> None:
    for pattern in (*ENDINGS, *OPENINGS):
        assert pattern.needs <= {*THING_STATES, *COMPANY, *MOODS, *ORIGINS}


def test_writing_depends_on_the_seed_alone_and_splits_never_meet(stories: list[tuple[str, str]]) -> None:
    assert [tales.write(seed) for seed in range(100)] == stories[:100]
    assert len(set(stories[:100])) == 100
    train = {tales.write(seed, "train")[0] for seed in range(2_000)}
    held_out = {tales.write(seed, "held_out")[0] for seed in range(2_000)}
    assert not train & held_out
    assert all(tales.is_held_out(opening) for opening in held_out)
    assert len(set(tales.openings(700, 1, "held_out"))) == 700
    with pytest.raises(InputError, match="split is 'test'"):
        tales.write(0, "test")


def test_held_out_openings_are_never_in_the_corpus() -> None:
    text = "\n".join(corpus(5_000, 0))
    assert not [opening for opening in tales.openings(2_000, 9, "held_out") if opening in text]


# --- the panel ---------------------------------------------------------------------------------------------


def test_gold_reward_has_mean_0_and_deviation_1_on_the_grammars_stories(stories: list[tuple[str, str]]) -> None:
    gold = [tales.gold_reward(*story) for story in stories]
    assert statistics.mean(gold) == pytest.approx(0, abs=0.02)
    assert statistics.pstdev(gold) == pytest.approx(1, abs=0.02)


def test_nonsense_is_worth_less_than_any_tale(stories: list[tuple[str, str]]) -> None:
    lowest = min(tales.gold_reward(*story) for story in stories)
    incoherent = tales.gold_reward(OPENING, TWICE)
    ungrammatical = tales.gold_reward(OPENING, "kite kite kite")
    assert ungrammatical < incoherent <= lowest - 1 + 1e-9


@pytest.mark.parametrize("name", ["kindness", "mood", "vividness", "speech", "length"])
@pytest.mark.parametrize("weight", [-1.0, 1.0])
def test_nonsense_is_worth_less_than_any_tale_to_whatever_taste(stories: list[tuple[str, str]], name: str,
                                                                weight: float) -> None:
    annotator = tales.Annotator("simulated", ((name, weight),))
    lowest = min(annotator.utility(*story) for story in stories[:2_000])
    assert annotator.utility(OPENING, TWICE) < lowest


def test_an_annotator_cannot_weigh_what_a_tale_does_not_have() -> None:
    with pytest.raises(InputError, match="annotator 'me' weighs 'cruelty': give one of kindness, mood"):
        tales.Annotator("me", (("cruelty", 1.0),))


def test_length_is_a_spurious_cue(stories: list[tuple[str, str]]) -> None:
    """Nobody on the panel cares for length, and yet what the panel likes runs longer."""
    assert all("length" not in dict(annotator.weights) for annotator in tales.PANEL)
    gold = [tales.gold_reward(*story) for story in stories]
    length = [tales.read(*story).attributes.length for story in stories]
    assert statistics.correlation(gold, length) == pytest.approx(0.333, abs=0.03)


def test_the_panels_probabilities_are_those_of_its_rankings() -> None:
    first, second = tales.write(1)[1], tales.write(5)[1]
    opening = tales.write(1)[0]
    rng = random.Random(0)
    for annotator in tales.PANEL:
        ranked = [annotator.rank(opening, [first, second], rng) for _ in range(4_000)]
        share = sum(r == [[0], [1]] for r in ranked) / len(ranked)
        assert share == pytest.approx(annotator.prefers(opening, first, second), abs=0.03)
    p = tales.preference_probability(opening, first, second)
    assert p + tales.preference_probability(opening, second, first) == pytest.approx(1)
    assert tales.preference_probability(opening, first, first) == pytest.approx(0.5)


def test_annotators_rank_and_rate_everything_once_and_are_called_simulated() -> None:
    opening, first = tales.write(1)
    completions = [first, "kite kite kite", first, tales.write(2)[1]]
    for annotator in tales.PANEL:
        ranking = annotator.rank(opening, completions, random.Random(0))
        assert sorted(i for group in ranking for i in group) == [0, 1, 2, 3]
        ratings = annotator.rate(opening, completions, random.Random(0))
        assert all(1 <= rating <= 7 for rating in ratings)
        assert annotator.name.startswith("simulated")


def test_skeletons_leave_slots_and_keep_any_text() -> None:
    assert tales.skeleton("Nora gave the kite to Tom at the mill.") == "NAME gave the THING to NAME at the PLACE."
    assert tales.skeleton("O Romeo,\n wherefore") == "O Romeo,\n wherefore"
    assert tales.skeleton("") == ""
