"""Exercises on a reward that is wrong: the best policy for it, what its words are worth, and a score without length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf_mini.checks.diagnose import check
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.teaching.overoptimisation.measuring import worth_of_words

Score = Callable[[list[str]], Sequence[float]]
Worth = list[tuple[str, float]]


def check_best_policy(function: Any) -> Result:
    """Check f(logp_ref, reward, beta), (N,) -> (N,): the log-probabilities of the policy that is best at a price."""
    return check(BEST_POLICY, function)


def check_worth_of_words(function: Any) -> Result:
    """Check f(score, ending): each word with what the score loses when it is left out."""
    return check_plain(WORTH_OF_WORDS, function)


def check_without_length(function: Any) -> Result:
    """Check f(score, length), (N,) -> (N,): the score less what a straight line in the length says."""
    return check(WITHOUT_LENGTH, function)


# --- the best policy ------------------------------------------------------------------------------------------------


def best_policy(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    return (logp_ref + reward / beta).log_softmax(0)


def not_normalised(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """the probabilities do not sum to 1: subtract the logsumexp, or take log_softmax"""
    return logp_ref + reward / beta


def price_multiplied(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """the reward is multiplied by beta: divide by it, for a high price keeps the policy at the reference"""
    return (logp_ref + reward * beta).log_softmax(0)


def reference_missing(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """the reference is missing: this policy forgets how likely each ending was"""
    return (reward / beta).log_softmax(0)


def probabilities(logp_ref: Tensor, reward: Tensor, beta: float) -> Tensor:
    """these are probabilities: return their logarithms"""
    return best_policy(logp_ref, reward, beta).exp()


BEST_POLICY = Exercise(
    "best policy", best_policy, (not_normalised, price_multiplied, reference_missing, probabilities),
    {"with two endings": {"logp_ref": torch.tensor([0.5, 0.5]).log(), "reward": torch.tensor([1.0, 0.0]), "beta": 0.5},
     "with a rare ending": {"logp_ref": torch.tensor([0.7, 0.299, 0.001]).log(),
                            "reward": torch.tensor([0.0, 0.5, 2.0]), "beta": 0.2},
     "at a high price": {"logp_ref": torch.tensor([0.6, 0.3, 0.1]).log(),
                         "reward": torch.tensor([-1.0, 0.5, 2.0]), "beta": 3.0}})


# --- the worth of words ---------------------------------------------------------------------------------------------


def likes(texts: list[str]) -> list[float]:
    """A score that pays for some words, and less for the second time."""
    worths = (("gave", 2.0), ("cake", 1.0), ("lost", -1.0))
    return [sum(text.split().count(word) ** 0.5 * worth for word, worth in worths) for text in texts]


def turned_round(score: Score, ending: str) -> Worth:
    """the sign is turned round: a word is worth the score with it less the score without it"""
    return [(word, -worth) for word, worth in worth_of_words(score, ending)]


def score_without(score: Score, ending: str) -> Worth:
    """these are the scores without each word: subtract them from the score of the whole ending"""
    whole = float(score([ending])[0])
    return [(word, whole - worth) for word, worth in worth_of_words(score, ending)]


def every_copy(score: Score, ending: str) -> Worth:
    """every copy of the word is left out: leave out the one at this place only"""
    words, whole = ending.split(), float(score([ending])[0])
    return [(word, whole - float(score([" ".join(w for w in words if w != word)])[0])) for word in words]


def word_alone(score: Score, ending: str) -> Worth:
    """this is the score of each word alone: leave the word out of the whole ending instead"""
    return [(word, float(score([word])[0])) for word in ending.split()]


WORTH_OF_WORDS = PlainExercise(
    "worth of words", worth_of_words, (turned_round, score_without, every_copy, word_alone),
    {"a word twice": {"score": likes, "ending": "She gave him soup and gave him cake"},
     "a word that costs": {"score": likes, "ending": "He lost the cake"}})


# --- a score without length -----------------------------------------------------------------------------------------


def without_length(score: Tensor, length: Tensor) -> Tensor:
    centred = length - length.mean()
    return score - (centred * score).sum() / centred.square().sum() * centred


def not_centred(score: Tensor, length: Tensor) -> Tensor:
    """the line goes through 0, not through the mean: subtract slope * (length - mean length)"""
    return score - (length * score).sum() / length.square().sum() * length


def mean_moved(score: Tensor, length: Tensor) -> Tensor:
    """the slope is right, but the mean of the score moves: subtract slope * (length - mean length)"""
    centred = length - length.mean()
    return score - (centred * score).sum() / centred.square().sum() * length


def wrong_way_round(score: Tensor, length: Tensor) -> Tensor:
    """this is the slope of the length over the score: divide by the variance of the length"""
    centred, apart = length - length.mean(), score - score.mean()
    return score - (centred * apart).sum() / apart.square().sum() * centred


def divided_by_length(score: Tensor, length: Tensor) -> Tensor:
    """the score is divided by the length: subtract what the length explains instead"""
    return score / length


WITHOUT_LENGTH = Exercise(
    "score without length", without_length, (not_centred, mean_moved, wrong_way_round, divided_by_length),
    {"with four endings": {"score": torch.tensor([1.0, 2.0, 2.0, 5.0]),
                           "length": torch.tensor([10.0, 20.0, 30.0, 40.0])},
     "where length explains nothing": {"score": torch.tensor([1.0, -1.0, -1.0, 1.0]),
                                       "length": torch.tensor([30.0, 31.0, 32.0, 33.0])},
     "where shorter scores higher": {"score": torch.tensor([2.0, 1.0, -1.5]),
                                     "length": torch.tensor([12.0, 30.0, 36.0])}})
