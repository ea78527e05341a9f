"""Exercises of the clinic: the diagnosis of a recorded case, and an alarm for the first ratio."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_mini.checks.exercise import Result, Verdict
from rlhf_mini.checks.plain import PlainExercise, check_plain
from rlhf_mini.errors import InputError
from rlhf_mini.teaching.clinic import diagnose
from rlhf_mini.teaching.clinic_cases import HEALTHY, Clinic, Columns, clinic, departure, usual

# --- the diagnosis of a case ----------------------------------------------------------------------------------------

BOTH_KLS = ("kl", "kl_k1")
# Cause: what would be seen if it were there, and the quantities that tell it from the others, each with the reason
CAUSES: dict[str, tuple[str, dict[str, str]]] = {
    HEALTHY: ("every quantity would stay where healthy runs have it", {}),
    "KL sign": ("the reward would fall far below its start while the KL grows and the coefficient is above 0", {
        "reward": "the reward falls although PPO maximises it: PPO was given another one",
        "kl": "the KL grows without limit although each nat should cost something"}),
    "KL per token": ("an adaptive coefficient would fall although the KL is above its target", {
        "kl_coef": "the coefficient falls while the KL is above the target of 4 nats per ending",
        "kl": "the KL is above the target of 4 nats, and the coefficient still falls"}),
    "temperature": ("the first ratio would be far from 1, and kl_k1 would not agree with kl at iteration 1", {
        "ratio_first": "before any step the policy is the one that sampled, so the ratio must be 1",
        "kl_k1": "both KLs are of the same policy, and one is measured from the old log-probabilities",
        "clip_fraction": "tokens are outside the clip range although no step was large"}),
    "EOS masked": ("the policy loss would stay away from 0 when the learning rate has fallen to almost nothing", {
        "policy_loss": "whitened advantages have mean 0, so the loss is near 0 unless some tokens are left out of it"}),
    "score at the pad": ("score or score_std would be wrong at iteration 1, when the policy is the fine-tuned model", {
        "score": "the fine-tuned model's endings have a mean score of 0",
        "score_std": "the scores of the fine-tuned model's endings have standard deviation 1"}),
    "whitened returns": ("the value loss would stay where it was at the start, and all else would be healthy", {
        "value_loss": "it stays near 0.5: the targets of the value head have standard deviation 1 in every batch"}),
    "learning rate": ("a large share of the ratios would be clipped from iteration 1 on, with a first ratio of 1", {
        "clip_fraction": "one update moves the policy much too far",
        "approx_kl": "one update moves the policy much too far"}),
    "no KL": ("kl_coef would be 0, or reward would equal score although the KL is not 0", {
        "kl_coef": "the coefficient is 0", "reward": "the reward is the score: nothing is charged for the KL",
        "kl": "the KL grows without limit"}),
    "own reference": ("kl would be 0 at every iteration", {
        "kl": "a policy that has been trained is no longer its reference, so a KL of 0 is impossible",
        "kl_k1": "a policy that has been trained is no longer its reference, so a KL of 0 is impossible"}),
    "dropout": ("the first ratio would not be 1, and kl_k1 would agree with kl at iteration 1", {
        "ratio_first": "the update computes other log-probabilities than sampling did, with the same weights",
        "clip_fraction": "tokens are outside the clip range although no step was large",
        "approx_kl": "old and new log-probabilities differ although no step was large"}),
}


def check_diagnosis(number: int, diagnosis: Any) -> Result:
    """Grade a diagnosis (cause, quantity, iteration) of a recorded case: a point for the cause, one for the evidence.

    A healthy run has no evidence: its diagnosis is "healthy".
    """
    name = f"case {number}"
    try:
        line, points = graded(number, *parts_of(diagnosis))
        return Result(name, line, points, diagnosis)
    except Verdict as verdict:
        return Result(name, str(verdict), verdict.points, diagnosis)


def parts_of(diagnosis: Any) -> tuple[str, Any, Any]:
    """Cause, quantity and iteration. Raises: Verdict where they are not there."""
    if diagnosis is None or diagnosis is ... or diagnosis == () or diagnosis == (..., ..., ...):
        raise Verdict("not attempted yet")
    given = (diagnosis,) if isinstance(diagnosis, str) else tuple(diagnosis) if isinstance(diagnosis, list | tuple) \
        else ()
    if not given or not isinstance(given[0], str):
        raise Verdict('give cause, quantity and iteration, such as ("no KL", "kl", 12)')
    cause = {one.lower(): one for one in CAUSES}.get(given[0].strip().lower())
    if cause is None:
        raise Verdict(f"{given[0]!r} is none of the causes: choose from {', '.join(CAUSES)}")
    if len(given) != 3 and cause != HEALTHY:
        raise Verdict(f'name the evidence as well: ("{cause}", quantity, iteration)')
    return cause, *(given[1:] if len(given) == 3 else (None, None))


def graded(number: int, cause: str, quantity: Any, iteration: Any) -> tuple[str, int]:
    """What to say of a diagnosis, and its points. Raises: Verdict where there is no such case."""
    try:
        patients, columns = clinic(), clinic().history(number)
    except InputError as error:
        raise Verdict(str(error)) from None
    true = patients.cause(number)
    if true == HEALTHY:
        if cause == HEALTHY:
            return "correct. Nothing is wrong: what moves here moves in every healthy run.", 2
        return f"no: with the cause {cause!r}, {CAUSES[cause][0]}. Look whether that is so.", 0
    if cause == HEALTHY:
        return ("something is wrong here: compare each plot with the grey lines, and each line of the table with a "
                "healthy run's, iteration 1 first.", 0)
    shows, why = evidence_of(patients, columns, true, quantity, iteration)
    if cause == true:
        return (f"correct, cause and evidence: {why}.", 2) if shows else \
            (f"the cause is right. The evidence: {why}.", 1)
    wrong = f"with the cause {cause!r}, {CAUSES[cause][0]}"
    if shows:
        return f"the evidence is right, and the cause is not: {wrong}. Here {why}.", 1
    return f"no: {wrong}. Look whether that is so.", 0


def evidence_of(patients: Clinic, columns: Columns, true: str, quantity: Any, iteration: Any) -> tuple[bool, str]:
    """Whether a quantity at an iteration shows what is wrong, and why or why not."""
    if quantity not in columns:
        return False, f"{quantity!r} is no quantity of the history: choose from {', '.join(columns)}"
    if isinstance(iteration, bool) or iteration not in columns["iteration"]:
        return False, f"{iteration!r} is no iteration of this run"
    when = earliest(columns, quantity, patients.references)
    if when is None:
        return False, f"{quantity} is like that of healthy runs"
    if iteration < when:
        return False, not_yet(columns, quantity, patients.references, columns["iteration"].index(iteration))
    tells = CAUSES[true][1]
    if quantity not in tells:
        return False, f"{quantity} is unusual too, but other causes would move it as well: name what tells them apart"
    return True, f"{tells[quantity]} ({quantity} from iteration {when} on)"


def not_yet(columns: Columns, quantity: str, references: Sequence[Columns], place: int) -> str:
    """Why a quantity shows nothing at this place of a history, where it does so later."""
    low, high = (float(band[place]) for band in usual(quantity, references, place + 1))
    value, iteration = columns[quantity][place], columns["iteration"][place]
    if value is not None and low <= value <= high:
        return f"{quantity} is still usual at iteration {iteration}: healthy runs have {low:.3g} to {high:.3g}"
    return f"{quantity} does not show it yet at iteration {iteration}: look where it lasts, or where it should turn"


def earliest(columns: Columns, quantity: str, references: Sequence[Columns]) -> int | None:
    """The first iteration at which a quantity is unusual, or at which the program's rule takes it as evidence.

    An adaptive coefficient is unusual from the start, and wrong only where the KL is above its target.
    """
    when = departure(columns, quantity, references)
    found = diagnose(columns)[0]
    evidence, proving = found.evidence, BOTH_KLS if found.cause == "own reference" else ()
    if evidence is None or quantity not in (evidence.quantity, *proving):
        return when
    return evidence.iteration if when is None or quantity == "kl_coef" else min(when, evidence.iteration)


# --- an alarm for the first ratio -----------------------------------------------------------------------------------

Line = Mapping[str, Any]
FAR = 0.001


def check_ratio_alarm(function: Any) -> Result:
    """Check f(history): the iterations whose ratio_first is more than 0.001 away from 1."""
    return check_plain(RATIO_ALARM, function)


def ratio_alarm(history: Sequence[Line]) -> list[int]:
    return [line["iteration"] for line in history if abs(line["ratio_first"] - 1) > FAR]


def one_sided(history: Sequence[Line]) -> list[int]:
    """ratios below 1 are not found: take the distance from 1, abs(ratio - 1)"""
    return [line["iteration"] for line in history if line["ratio_first"] - 1 > FAR]


def to_the_last_digit(history: Sequence[Line]) -> list[int]:
    """ratios that are 1 but for rounding raise the alarm as well: allow a distance of 0.001"""
    return [line["iteration"] for line in history if line["ratio_first"] != 1]


def places(history: Sequence[Line]) -> list[int]:
    """these are places in the list, counted from 0: return each line's own iteration"""
    return [i for i, line in enumerate(history) if abs(line["ratio_first"] - 1) > FAR]


def at_the_clip_range(history: Sequence[Line]) -> list[int]:
    """only ratios outside the clip range, 1 ± 0.2, are found: before any step the ratio must be 1 to rounding"""
    return [line["iteration"] for line in history if abs(line["ratio_first"] - 1) > 0.2]


def a_tenth(history: Sequence[Line]) -> list[int]:
    """a ratio of 1.005 is wrong as well: raise the alarm from a distance of 0.001 on"""
    return [line["iteration"] for line in history if abs(line["ratio_first"] - 1) > 0.01]


def places_from_one(history: Sequence[Line]) -> list[int]:
    """these are places in the list, counted from 1: return each line's own iteration"""
    return [i for i, line in enumerate(history, 1) if abs(line["ratio_first"] - 1) > FAR]


def flags(history: Sequence[Line]) -> list[bool]:
    """these are truth values, one for each line: return the iterations of those that are true"""
    return [abs(line["ratio_first"] - 1) > FAR for line in history]


def ratios(history: Sequence[Line]) -> list[float]:
    """these are the wrong ratios: return their iterations"""
    return [line["ratio_first"] for line in history if abs(line["ratio_first"] - 1) > FAR]


def healthy_ones(history: Sequence[Line]) -> list[int]:
    """these are the iterations without alarm: turn the comparison round"""
    return [line["iteration"] for line in history if abs(line["ratio_first"] - 1) <= FAR]


def lines(*ratios: float, start: int = 1) -> list[dict[str, float]]:
    return [{"iteration": start + i, "ratio_first": ratio} for i, ratio in enumerate(ratios)]


MISTAKES: list[Callable[..., Any]] = [one_sided, to_the_last_digit, a_tenth, places, places_from_one, flags, ratios,
                                      at_the_clip_range, healthy_ones]
RATIO_ALARM = PlainExercise("ratio alarm", ratio_alarm, MISTAKES, {
    "with ratios on both sides": {"history": lines(1.0, 1.3, 0.97, 1.0000002, 1.005, 0.6)},
    "with a history that begins at iteration 5": {"history": lines(0.9, 1.0, 1.01, start=5)},
    "with a healthy run": {"history": lines(1.0, 0.9999999, 1.0)},
})
