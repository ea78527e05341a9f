"""The probability of an ending: against what a small grammar writes, and against the embedded model."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf_mini import tales
from rlhf_mini.assets import asset
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import load_language_model
from rlhf_mini.sft import encode_demonstrations, next_token_losses
from rlhf_mini.tales import grammar, patterns, probability, reader
from rlhf_mini.tales.lexicon import FILLERS
from rlhf_mini.teaching.measured import mean_error

OPENING = "Nora was hiding by the mill when she saw a red kite."
SMALL = """
[here alone]
x2 HERO {sang|hummed}.
HERO {sang|slept}.
It flew higher than the clouds and the swallows and the chimneys and all the towers of the town.
[here alone > friend]
HERO met NEW, and NEW waved.
[here together]
FRIEND sang.
[here > end]
{Good night|Good day}!
They talked of it for years and years, and nobody who heard it ever quite believed a word.
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A grammar in which "Nora sang." is written in two ways, and many tries get stuck or too long."""
    (tmp_path / "endings.txt").write_text(SMALL)
    monkeypatch.setattr(patterns, "DATA", tmp_path)
    few = patterns.load("endings.txt")
    monkeypatch.setattr(grammar, "ENDINGS", few)
    monkeypatch.setattr(reader, "_ENDINGS", patterns.Trie(few))
    monkeypatch.setitem(FILLERS, "NEW", ("Nora", "Ada", "Tom"))
    for cached in (grammar._followers, probability.log_kept):
        cached.cache_clear()
    yield
    for cached in (grammar._followers, probability.log_kept):
        cached.cache_clear()


def tried(scene: grammar.Scene, ending: str) -> float:
    """The probability that a try writes the ending."""
    return math.exp(tales.log_probability(OPENING, ending) + probability.log_kept(scene))


@pytest.mark.usefixtures("small")
def test_texts_come_as_often_as_they_are_probable() -> None:
    scene, rng, count = reader.read_opening(OPENING), random.Random(0), 20_000
    assert scene is not None
    found = Counter(" ".join(s.text for s in grammar.write_ending(scene, rng)) for _ in range(count))
    share = {ending: tried(scene, ending) for ending in found}
    kept = math.fsum(share.values())  # every text was drawn, so these are all
    assert 0.2 < kept < 0.8
    assert probability.log_kept(scene, 4_000) == pytest.approx(math.log(kept), abs=0.05)
    for ending, times in found.items():
        expected = count * share[ending] / kept
        assert abs(times - expected) < 5 * math.sqrt(expected) + 1, ending


@pytest.mark.usefixtures("small")
def test_two_ways_to_write_a_text_by_hand() -> None:
    scene = reader.read_opening(OPENING)
    assert scene is not None
    # two sentences, then one of five points for the first, one of two for the last, one of two words in each
    assert tried(scene, "Nora hummed. Good day!") == pytest.approx(0.15 * 2 / 5 / 2 * 1 / 2 / 2)
    assert tried(scene, "Nora sang. Good day!") == pytest.approx(0.15 * 3 / 5 / 2 * 1 / 2 / 2)
    assert tried(scene, "Nora met Tom, and Tom waved. Good day!") == pytest.approx(0.15 * 1 / 5 / 2 * 1 / 2 / 2)


@pytest.mark.parametrize("ending", [
    "She skipped all the way home.", "", "Nora sang!",
    "It flew higher than the clouds. It flew higher than the clouds.",
    "It was just what Tom had always wanted. \"What a day!\" said Nora, and shut the door."])
def test_what_the_grammar_never_writes_has_no_probability(ending: str) -> None:
    assert tales.log_probability(OPENING, ending) == -math.inf


def test_a_tale_has_one_and_a_foreign_opening_is_refused() -> None:
    for seed in range(200):
        assert -30 < tales.log_probability(*tales.write(seed)) < 0
    assert tales.log_probability(*tales.write(3)) == tales.log_probability(*tales.write(3))
    with pytest.raises(InputError, match="is not the opening of a tale"):
        tales.log_probability("To be, or not to be", "Nora sang.")


def test_the_embedded_model_is_not_below_the_entropy_of_the_tales() -> None:
    """Without the tries that the writer drops the figure came out too high, and the model 0.4 nats below it."""
    model, tokenizer = load_language_model(asset("tiny-tales-gpt2"))
    pairs = [tales.write(seed, "held_out") for seed in range(300)]
    examples = encode_demonstrations(model, tokenizer, pairs)
    with torch.no_grad():
        losses = next_token_losses(model, examples).split([len(row) - start for row, start in examples])
    above = mean_error([each[:-1].sum().item() + tales.log_probability(*pair)
                        for each, pair in zip(losses, pairs, strict=True)])
    assert above.value > 3 * above.error
