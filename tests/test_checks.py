"""The checks of all exercises: right answers pass, usual mistakes are called by name, nothing ends in a traceback.

What holds for every check is tested for every name in `rlhf_mini.checks`; a new check needs a line in RIGHT only. What
is particular to one exercise is in the other files test_checks_….
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from right_answers import RIGHT, plain_k3, plain_ranking
from torch import Tensor

from rlhf_mini import checks, kl, ppo, sft
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.compare import doubles, live_slots
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise, Result
from rlhf_mini.checks.head_swap import SIZES, SWAP, SWAP_MISTAKES, swap_facts, swapped
from rlhf_mini.checks.plain import PlainExercise, agreeing, answers_of
from rlhf_mini.checks.tokens import SFT_TOKENS, sft_loss

Function = Callable[..., Any]


def exercise_of(check: Any) -> Any:
    """The exercise that a check names in its body."""
    if check is checks.check_swap_head:  # the only one that compares modules
        return SimpleNamespace(name=SWAP, right=swapped, mistakes=SWAP_MISTAKES)
    known = (check.__globals__.get(name) for name in check.__code__.co_names)
    return next(x for x in known if isinstance(x, Exercise | PlainExercise))


def as_students_write(function: Any) -> Function:
    """The function itself, where an exercise calls it in its own way."""
    return getattr(function, "function", function)


CHECKS: dict[str, tuple[Function, Any]] = {
    name.removeprefix("check_"): (getattr(checks, name), exercise_of(getattr(checks, name)))
    for name in checks.__all__ if name.startswith("check_") and name != "check_diagnosis"}  # it grades no function
MISTAKES = [pytest.param(name, mistake, id=f"{name}-{as_students_write(mistake).__name__}")
            for name, (_, exercise) in CHECKS.items() for mistake in exercise.mistakes]
EXTREME = [("kl_per_ending", "multiplied_by_mask")]  # alike on ordinary numbers, and told apart by extreme ones
# The exercises that compare numbers slot by slot; and those of them that return tensors.
NUMBERS = [name for name, (_, exercise) in CHECKS.items() if isinstance(exercise, Exercise) and name != "ppo_iteration"]
TENSORS = [name for name in NUMBERS if name not in ("adapt_kl_coef", "ceiling")]
SCALARS = ["sft_loss", "pair_loss", "plackett_luce", "policy_loss", "dpo_loss", "mean_nll", "value_loss"]


@pytest.fixture
def judged(capsys: pytest.CaptureFixture[str]) -> Callable[[Function, Any], Result]:
    """Run a check and return what it found: one line, whatever the function does."""
    def found(check: Function, function: Any) -> Result:
        result: Result = check(function)
        assert capsys.readouterr().err == ""
        assert "\n" not in str(result) and "Traceback" not in str(result)
        assert result.points in (0, 1, 2) and bool(result.reasons) == (result.points < 2)
        return result
    return found


@pytest.fixture
def line(judged: Callable[[Function, Any], Result]) -> Function:
    return lambda check, function: str(judged(check, function))


# --- right answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "function"), [
    pytest.param(name, function, id=f"{name}-{function.__name__}") for name, (_, exercise) in CHECKS.items()
    for function in (as_students_write(exercise.right), *RIGHT[name])])
def test_right_answers_are_accepted(name: str, function: Function, judged: Function) -> None:
    check, exercise = CHECKS[name]
    result = judged(check, function)
    assert result.points == 2 and result.function is function, result
    assert str(result) == f"{exercise.name}: correct. " + (
        "It is right for language models of 2 sizes." if name == "swap_head" else
        f"It agrees with the package on all {len(exercise.cases) + len(getattr(exercise, 'extremes', ()))} cases.")


@pytest.mark.parametrize("name", TENSORS)
def test_double_precision_is_accepted(name: str, line: Function) -> None:
    check, exercise = CHECKS[name]

    def doubled(*args: Any) -> Any:
        return exercise.right(*(x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args))
    assert "correct" in line(check, doubled)


def test_the_sft_reference_is_what_the_package_trains_on() -> None:
    embeddings, head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5)

    def trunk(inputs_embeds: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=inputs_embeds)
    model = SimpleNamespace(device="cpu", base_model=trunk, get_input_embeddings=lambda: embeddings,
                            get_output_embeddings=lambda: head)
    lengths, prompts = [5, 3, 6], [2, 2, 3]
    batch = [sft.Example(row[:length], start)
             for row, length, start in zip(SFT_TOKENS.tolist(), lengths, prompts, strict=True)]
    ours = sft_loss(head(embeddings(SFT_TOKENS)), SFT_TOKENS, torch.tensor(prompts), torch.tensor(lengths))
    assert torch.allclose(ours, sft.next_token_losses(model, batch).mean())


# --- wrong answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(name: str, mistake: Function, judged: Function) -> None:
    check, exercise = CHECKS[name]
    function, start = as_students_write(mistake), f"{exercise.name}: {sentence(mistake)}. "
    result = judged(check, function)
    assert result.points == ((name, function.__name__) in EXTREME)
    assert str(result).startswith(start) and not sentence(mistake)[0].isupper(), result
    evidence = str(result).removeprefix(start)
    assert ("found" in evidence and "expected" in evidence) or evidence.startswith("Slot t = ")


@pytest.mark.parametrize("name", CHECKS)
def test_mistakes_are_many_and_no_two_look_alike(name: str) -> None:
    exercise = CHECKS[name][1]
    assert len(exercise.mistakes) >= (8 if name in ("policy_gradient", "value_loss", "ppo_iteration") else 4)
    assert len({sentence(mistake) for mistake in exercise.mistakes}) == len(exercise.mistakes)

    def facts(function: Function) -> Any:
        if name == "swap_head":
            return [swap_facts(function, *sizes) for sizes in SIZES]
        return (answers if isinstance(exercise, Exercise) else answers_of)(exercise, function)

    def alike(one: str, other: str) -> bool:
        if isinstance(exercise, Exercise):
            return agree(exercise, given[one], given[other])
        return agreeing(given[one], given[other]) if isinstance(exercise, PlainExercise) else given[one] == given[other]
    given = {as_students_write(function).__name__: facts(function) for function in (exercise.right, *exercise.mistakes)}
    assert len(given) == len(exercise.mistakes) + 1
    assert [pair for pair in itertools.combinations(given, 2) if alike(*pair)] == [
        pair for pair in EXTREME if name == "kl_per_ending"]


@pytest.mark.parametrize(("name", "function", "said"), [
    ("kl_per_ending", lambda p, q, mask: (mask.float() * (p - q)).sum(-1), "infinity times 0 is nan"),
    ("choose_batch", lambda count, size, generator: list(range(
        start := int(torch.randint(0, count - size + 1, (1,), generator=generator)), start + size)), "is one block"),
    ("choose_batch", lambda count, size, generator: torch.arange(count).view(-1, size)[
        torch.randint(count // size, (), generator=generator)], "is one block"),
    ("choose_batch", lambda count, size, generator: [
        i + 1 for i in torch.randperm(count - 1, generator=generator).tolist()][:size], "prompt 0 can never be chosen"),
    ("best_of_n", lambda scores, n: scores.view(n, -1).argmax(1) + n * torch.arange(n), "view(n, -1) makes n rows"),
    ("best_score", lambda scores, kl_coef: (torch.softmax(scores, 1) * scores).sum(1), "the price of the KL is left"),
    ("top_k", lambda logits, k: torch.where(logits < logits.topk(k).values[..., :1], -torch.inf, logits),
     "the limit is the largest logit"),
    ("policy_gradient", lambda logits, reward, samples, baseline: torch.func.grad(
        lambda x: ((reward - baseline) * x.log_softmax(0)).mean())(logits), "every token counts once"),
    ("value_loss", lambda v, old, target, mask, clip: 0.5 * torch.max(
        (v - target)[mask].square().mean(), (old + (v - old).clamp(-clip, clip) - target)[mask].square().mean()),
     "the larger of the two mean errors"),
    ("win_rate", lambda choices: checks.blind.win_rate([
        {"after": "before", "before": "after"}.get(choice, choice) for choice in choices]), "wins of the wrong side"),
    ("blind", lambda a, b, coins: ([[y, x][::-1 if coin else 1] for x, y, coin in zip(a, b, coins, strict=True)], [
        "same" if x == y else "ab"[i] for x, y, i in zip(a, b, coins, strict=True)]), "the two lists are swapped"),
])
def test_mistakes_of_students_are_named_in_their_own_writing(name: str, function: Function, said: str,
                                                             line: Function) -> None:
    assert said in line(CHECKS[name][0], function)


def test_the_own_value_in_place_of_the_next_is_named(line: Function) -> None:
    def own(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
        rewards, values = rewards * mask, values * mask
        advantages, following = torch.zeros_like(rewards), torch.zeros(len(rewards))
        for t in reversed(range(rewards.shape[1])):
            following = rewards[:, t] + gamma * values[:, t] - values[:, t] + gamma * lam * following
            advantages[:, t] = following
        return advantages, advantages + values
    assert "GAE: the token's own value, values[:, t], stands where the next one belongs" in line(checks.check_gae, own)


@pytest.mark.parametrize("name", NUMBERS)
def test_an_unknown_mistake_is_located(name: str, line: Function) -> None:
    check, exercise = CHECKS[name]

    def scaled(*args: Any) -> Any:
        result = exercise.right(*args)
        return tuple(1.37 * x for x in result) if isinstance(result, tuple) else 1.37 * result
    said = line(check, scaled)
    assert "not right yet, nor one of the usual mistakes" in said and "found" in said and "expected" in said


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in (*NUMBERS, "swap_head", "ppo_iteration")])
def test_an_unknown_plain_answer_is_not_right(name: str, line: Function) -> None:
    assert "not right yet, nor one of the usual mistakes" in line(CHECKS[name][0], lambda *args: (7, 7))


def test_the_place_and_the_numbers_of_a_difference_are_those_of_the_answer(line: Function) -> None:
    def off_at_one_place(logp: Tensor, logp_ref: Tensor) -> Tensor:
        estimates = plain_k3(logp, logp_ref)
        return estimates + 0.5 * F.one_hot(torch.tensor([7, 2]), 8)[:, :estimates.shape[1]]
    assert line(checks.check_k3, off_at_one_place).endswith(
        "(0 of 2 cases are right). With equal models, row 1, t = 2: found 0.5, expected 0.")


@pytest.mark.parametrize(("name", "function", "slot"), [
    ("policy_loss", lambda logp, old, adv, mask, clip: (3 * (logp - old) * adv).sum(), "Slot t = 3 of row 0"),
    ("whiten", lambda x, mask: (x - x.median()) / x.std() * mask, "Slot t = 3 of row 0"),
    ("gae", lambda r, v, mask, gamma, lam: (r + v.sum(1, keepdim=True), r + v), "Slot t = 3 of row 0"),
    ("shaped_rewards", lambda s, p, q, mask, coef: s[:, None] - coef * (p - q).sum(1, True) * mask,
     "Slot t = 3 of row 0"),
])
def test_a_mask_ignored_in_an_unknown_formula_is_found(name: str, function: Function, slot: str,
                                                       line: Function) -> None:
    said = line(CHECKS[name][0], function)
    assert f"the mask is ignored. {slot} is padding, yet changing" in said


def test_lengths_ignored_in_an_unknown_formula_are_found(line: Function) -> None:
    said = line(checks.check_sft_loss, lambda logits, tokens, prompts, lengths: logits.square().mean())
    assert "the lengths are ignored. Slot t = 5 of row 0 is padding, yet changing logits there" in said


@pytest.mark.parametrize(("name", "function"), [
    ("whiten", lambda x, mask: (x - x[mask].mean()) / (x[mask].var() + 1e-8).sqrt()),
    ("shaped_rewards", lambda s, p, q, mask, coef: ppo.shaped_rewards(s, p, q, mask, coef) + 7 * ~mask),
    ("gae", lambda r, v, mask, gamma, lam: (ppo.gae(r, v, mask, gamma, lam)[0],
                                            ppo.gae(r, v, mask, gamma, lam)[0] + v)),
])
def test_masked_slots_that_are_not_zero_are_found(name: str, function: Function, line: Function) -> None:
    said = line(CHECKS[name][0], function)
    assert "right on every live token, but a masked slot should hold 0. With " in said
    assert "row 0, t = 3: found" in said and said.endswith("expected 0.")


@pytest.mark.parametrize(("name", "function", "hint"), [
    ("pair_loss", lambda chosen, rejected: -torch.sigmoid(chosen - rejected).log().mean(), "F.logsigmoid"),
    ("plackett_luce", lambda scores, ranking: plain_ranking(scores.clamp(-80, 80), ranking), "logsumexp"),
    ("token_logprobs", lambda logits, tokens, temperature: kl.token_logprobs(logits.clamp(-90, 90), tokens,
                                                                             temperature), "log_softmax"),
    ("whiten", lambda x, mask: (x - x[mask].mean()) / x[mask].std() * mask, "add 1e-8"),
])
def test_what_fails_on_extreme_numbers_only_is_reported(name: str, function: Function, hint: str,
                                                       line: Function) -> None:
    said = line(CHECKS[name][0], function)
    assert "right on ordinary numbers, but not on extreme ones. With " in said and hint in said and "found" in said


# --- no answers -------------------------------------------------------------------------------------------------


def dots(*args: Any) -> Any:
    """Say what to compute."""
    ...


def passed(*args: Any) -> Any:
    pass


def unwritten(*args: Any) -> Any:
    raise NotImplementedError


def ellipsis(*args: Any) -> Any:
    return ...


def two_ellipses(*args: Any) -> Any:
    advantages = returns = ...
    return advantages, returns


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("stub", [dots, passed, unwritten, ellipsis, two_ellipses])
def test_unfilled_stubs(name: str, stub: Function, judged: Function) -> None:
    check, exercise = CHECKS[name]
    result = judged(check, stub)
    assert str(result) == f"{exercise.name}: not attempted yet" and result.points == 0


def test_a_forgotten_return_is_hinted_at(line: Function) -> None:
    def forgetful(chosen: Tensor, rejected: Tensor) -> Any:
        -F.logsigmoid(chosen - rejected).mean()
    assert line(checks.check_pair_loss, forgetful).endswith(
        "not attempted yet (if it is: it returns None, the return is missing)")


@pytest.mark.parametrize("name", CHECKS)
def test_exceptions_are_named_with_their_line(name: str, line: Function) -> None:
    def broken(*args: Any) -> Any:
        numbers = torch.zeros(2)
        return numbers[5]  # the line to be named
    number = broken.__code__.co_firstlineno + 2
    said = line(CHECKS[name][0], broken)
    assert "your code raised IndexError (index 5 is out of bounds for dimension 0 with size 2) in" in said
    assert f"in line {number}, `return numbers[5]  # the line to be named`; it was given " in said


def test_an_exception_deep_in_a_library_names_the_students_line(line: Function) -> None:
    def broken(chosen: Tensor, rejected: Tensor) -> Tensor:
        return F.cross_entropy(chosen, "no tensor")  # type: ignore[arg-type]
    number = broken.__code__.co_firstlineno + 1
    assert f"in line {number}, `return F.cross_entropy(" in line(checks.check_pair_loss, broken)


def test_an_exception_of_many_lines_is_reported_in_one(line: Function) -> None:
    def broken(*args: Any) -> Any:
        raise ValueError("first\nsecond")
    assert "ValueError (first) in line" in line(checks.check_gae, broken)


def test_the_wrong_number_of_parameters_is_reported_with_the_right_ones(line: Function) -> None:
    said = line(checks.check_gae, lambda rewards, values: rewards)
    assert "calling your function with (rewards, values, mask, gamma, lam) raised TypeError" in said


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("given", [torch.zeros(3), 7])
def test_what_is_not_a_function_is_reported(name: str, given: Any, line: Function) -> None:
    assert "give the function itself, without calling it" in line(CHECKS[name][0], given)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize(("converted", "what"), [
    (lambda x: x.detach().numpy(), "a NumPy"), (lambda x: x.detach().tolist(), "a"), (lambda x: 1.5, "a float"),
    (lambda x: "x", "a str"), (lambda x: True, "a bool")])
def test_other_types_than_tensors_are_named(name: str, converted: Function, what: str, line: Function) -> None:
    check, exercise = CHECKS[name]

    def other(*args: Any) -> Any:
        result = exercise.right(*args)
        return tuple(map(converted, result)) if isinstance(result, tuple) else converted(result)
    said = line(check, other)
    assert f" {what}" in said and "expected is a tensor of shape" in said
    assert ("a plain number has no gradient" in said) == (name in SCALARS)


@pytest.mark.parametrize(("result", "what"), [(torch.zeros(2), "a tensor"), ("0.3", "a str"), ([0.3], "a list of 1")])
def test_a_coefficient_must_be_a_number(result: Any, what: str, line: Function) -> None:
    assert f"returns {what}, expected is a number" in line(checks.check_adapt_kl_coef, lambda *args: result)


@pytest.mark.parametrize("returned", [lambda a, r: a, lambda a, r: torch.stack([a, r]), lambda a, r: (a, r, a)])
def test_gae_must_return_two_tensors(returned: Function, line: Function) -> None:
    said = line(checks.check_gae, lambda *args: returned(*ppo.gae(*args)))
    assert "expected are 2 tensors: return advantages, returns" in said


@pytest.mark.parametrize("name", TENSORS)
def test_wrong_shapes_are_reported_with_the_right_ones(name: str, line: Function) -> None:
    check, exercise = CHECKS[name]

    def stretched(*args: Any) -> Any:
        result = exercise.right(*args)
        return tuple(x[:, :, None] for x in result) if isinstance(result, tuple) else result[..., None, None]
    said = line(check, stretched)
    assert "has shape (" in said and ", 1)" in said and "expected is (" in said


def test_a_loss_per_token_is_told_to_become_one_number(line: Function) -> None:
    said = line(checks.check_pair_loss, lambda chosen, rejected: -F.logsigmoid(chosen - rejected))
    assert "your result has shape (1,), expected is (), a single number: take a sum or a mean" in said


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nan_and_infinity_are_reported(name: str, number: float, line: Function) -> None:
    check, exercise = CHECKS[name]

    def spoilt(*args: Any) -> Any:
        result = exercise.right(*args)
        return tuple(x + number for x in result) if isinstance(result, tuple) else result + number
    said = line(check, spoilt)
    assert f"your result is {number}, which training cannot use" in said


@pytest.mark.parametrize(("name", "argument"), [(name, argument) for name in TENSORS for argument, x in
                                                next(iter(CHECKS[name][1].cases.values())).items()
                                                if isinstance(x, Tensor | list)])
def test_changes_in_place_are_reported(name: str, argument: str, line: Function) -> None:
    check, exercise = CHECKS[name]
    place = list(next(iter(exercise.cases.values()))).index(argument)

    def meddling(*args: Any) -> Any:
        result = exercise.right(*args)
        x = args[place]
        if isinstance(x, list):
            x.reverse()
        elif x.dtype == torch.bool:
            x.logical_not_()
        else:
            x += 1
        return result
    assert f"changes its argument {argument} in place" in line(check, meddling)
    assert "correct" in line(check, exercise.right)  # the cases are as they were


@pytest.mark.parametrize("name", [name for name in NUMBERS if CHECKS[name][1].gradient])
def test_a_lost_gradient_is_reported(name: str, line: Function) -> None:
    check, exercise = CHECKS[name]
    said = line(check, lambda *args: exercise.right(*args).detach())
    assert "the numbers are right, but the gradient with respect to" in said and "is lost" in said


def test_a_wrong_gradient_is_reported(line: Function) -> None:
    def half_detached(logp: Tensor, *others: Any) -> Tensor:
        return 0.5 * ppo.policy_loss(logp, *others) + 0.5 * ppo.policy_loss(logp.detach(), *others)
    said = line(checks.check_policy_loss, half_detached)
    assert "the gradient with respect to logp is wrong (without padding)" in said


def test_numpy_on_the_way_is_found_by_the_gradient(line: Function) -> None:
    def through_numpy(chosen: Tensor, rejected: Tensor) -> Tensor:
        return F.softplus(torch.from_numpy(rejected.numpy() - chosen.numpy())).mean()
    said = line(checks.check_pair_loss, through_numpy)
    assert "the numbers are right, but when the gradient is computed your code raised RuntimeError" in said


ON_ANY_DEVICE = [name for name in NUMBERS if name not in (  # these make tensors from lists or counts
    "plackett_luce", "padded_batch", "best_of_n", "scores")]


@pytest.mark.parametrize("name", ON_ANY_DEVICE)
def test_no_tensor_depends_on_the_default_device(name: str) -> None:
    """A tensor made without a device would be on `meta` here, which holds no data and cannot meet a CPU tensor."""
    exercise = CHECKS[name][1]
    with torch.device("meta"):
        assert agree(exercise, answers(exercise, exercise.right), answers(exercise, exercise.right))
        for mistake in exercise.mistakes:
            assert agree(exercise, answers(exercise, mistake), answers(exercise, exercise.right)) == (
                (name, mistake.__name__) in EXTREME)


def test_a_case_with_a_mask_or_lengths_on_another_device_is_compared_on_the_cpu() -> None:
    case = {"tokens": torch.zeros(2, 3), "lengths": torch.tensor([3, 1])}
    with torch.device("meta"):
        live = live_slots(case)
        number, = doubles(0.5)
    assert live is not None and live.device.type == "cpu" and live.tolist() == [[True] * 3, [True, False, False]]
    assert number.device.type == "cpu" and number.item() == 0.5
