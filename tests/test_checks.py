"""The exercises' checks: right answers pass, usual mistakes are called by name, and nothing ends in a traceback."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rlhf_mini import checks, kl, ppo, reward, sft
from rlhf_mini.checks.advantages import GAE
from rlhf_mini.checks.calling import answers
from rlhf_mini.checks.compare import doubles, live_slots
from rlhf_mini.checks.diagnose import agree, sentence
from rlhf_mini.checks.exercise import Exercise
from rlhf_mini.checks.groups import DPO_LOSS, GRPO, IMPLICIT_REWARD, RLOO
from rlhf_mini.checks.kl_terms import K3, SHAPED_REWARDS
from rlhf_mini.checks.preferences import PAIR_LOSS, PLACKETT_LUCE
from rlhf_mini.checks.scales import ADAPT_KL_COEF, WHITEN
from rlhf_mini.checks.surrogate import POLICY_LOSS
from rlhf_mini.checks.tokens import SFT_LOSS, SFT_TOKENS, TOKEN_LOGPROBS, sft_loss

Function = Callable[..., Any]

CHECKS: dict[str, tuple[Function, Exercise]] = {
    "sft_loss": (checks.check_sft_loss, SFT_LOSS),
    "pair_loss": (checks.check_pair_loss, PAIR_LOSS),
    "plackett_luce": (checks.check_plackett_luce, PLACKETT_LUCE),
    "token_logprobs": (checks.check_token_logprobs, TOKEN_LOGPROBS),
    "k3": (checks.check_k3, K3),
    "shaped_rewards": (checks.check_shaped_rewards, SHAPED_REWARDS),
    "gae": (checks.check_gae, GAE),
    "policy_loss": (checks.check_policy_loss, POLICY_LOSS),
    "whiten": (checks.check_whiten, WHITEN),
    "adapt_kl_coef": (checks.check_adapt_kl_coef, ADAPT_KL_COEF),
    "rloo_advantages": (checks.check_rloo_advantages, RLOO),
    "grpo_advantages": (checks.check_grpo_advantages, GRPO),
    "implicit_reward": (checks.check_implicit_reward, IMPLICIT_REWARD),
    "dpo_loss": (checks.check_dpo_loss, DPO_LOSS),
}
MISTAKES = [pytest.param(check, exercise, mistake, id=f"{name}-{mistake.__name__}")
            for name, (check, exercise) in CHECKS.items() for mistake in exercise.mistakes]
TENSORS = [name for name in CHECKS if name != "adapt_kl_coef"]  # who returns a tensor


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Function:
    """Run a check and return what it says: one line, whatever the function does."""
    def said(check: Function, function: Any) -> str:
        result = check(function)
        assert capsys.readouterr().err == ""
        assert "\n" not in str(result) and "Traceback" not in str(result)
        assert result.points in (0, 1, 2) and bool(result.reasons) == (result.points < 2)
        return str(result)
    return said


# --- right answers ----------------------------------------------------------------------------------------------
# As a student would write them, with loops and multiplied masks.


def plain_sft(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    logp = logits.log_softmax(-1)
    terms = [-logp[b, t - 1, tokens[b, t]] for b in range(len(tokens))
             for t in range(int(prompt_lengths[b]), int(lengths[b]))]
    return torch.stack(terms).mean()


def ignore_index_sft(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    position = torch.arange(tokens.shape[1])
    labels = tokens.masked_fill((position < prompt_lengths[:, None]) | (position >= lengths[:, None]), -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def multiplied_sft(logits: Tensor, tokens: Tensor, prompt_lengths: Tensor, lengths: Tensor) -> Tensor:
    losses = -logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None]).squeeze(2)
    position = torch.arange(1, tokens.shape[1])[None]
    mask = ((position >= prompt_lengths[:, None]) & (position < lengths[:, None])).float()
    return (losses * mask).sum() / mask.sum()


def plain_pairs(chosen: Tensor, rejected: Tensor) -> Tensor:
    return F.softplus(-(chosen - rejected)).mean()


def plain_ranking(scores: Tensor, ranking: list[list[int]]) -> Tensor:
    loss = torch.zeros(())
    for depth, group in enumerate(ranking):
        below = [j for later in ranking[depth + 1:] for j in later]
        for i in group:
            loss = loss - (scores[i] - torch.logsumexp(scores[[i, *below]], 0))
    return loss


def last_group_skipped(scores: Tensor, ranking: list[list[int]]) -> Tensor:
    """As right: the last group has no choice left. For all tied nothing is left that has a gradient."""
    loss, left = torch.tensor(0.0), [i for group in ranking for i in group]
    for group in ranking[:-1]:
        left = [i for i in left if i not in group]
        for i in group:
            loss = loss + scores[[i, *left]].logsumexp(0) - scores[i]
    return loss


def plain_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    return torch.log_softmax(logits / temperature, dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def plain_k3(logp: Tensor, logp_ref: Tensor) -> Tensor:
    log_ratio = logp_ref - logp
    return log_ratio.exp() - 1 - log_ratio


def plain_rewards(score: Tensor, logp: Tensor, logp_ref: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    rewards = -kl_coef * (logp - logp_ref) * mask
    rewards[torch.arange(len(score)), mask.sum(1) - 1] += score
    return rewards


def plain_gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    advantages = torch.zeros_like(rewards)
    for b in range(len(rewards)):
        following, after = 0.0, 0.0
        for t in reversed(range(int(mask[b].sum()))):
            following = float(rewards[b, t] + gamma * after - values[b, t]) + gamma * lam * following
            after = float(values[b, t])
            advantages[b, t] = following
    return advantages, (advantages + values) * mask


def plain_policy_loss(logp: Tensor, logp_old: Tensor, advantages: Tensor, mask: Tensor, clip: float) -> Tensor:
    ratio = torch.exp(logp - logp_old.detach())
    surrogate = torch.min(ratio * advantages, torch.clamp(ratio, 1 - clip, 1 + clip) * advantages)
    return -(surrogate * mask).sum() / mask.sum()


def plain_whiten(x: Tensor, mask: Tensor) -> Tensor:
    return (x - x[mask].mean()) / (x[mask].std() + 1e-8) * mask


def plain_coefficient(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> Tensor:
    error = torch.clamp(torch.tensor(kl / target - 1), -0.2, 0.2)
    return kl_coef * (1 + error * episodes / horizon)


def plain_rloo(scores: Tensor) -> Tensor:
    rows = [[row[i] - (sum(row) - row[i]) / (len(row) - 1) for i in range(len(row))] for row in scores.tolist()]
    return torch.tensor(rows, dtype=scores.dtype)


def plain_grpo(scores: Tensor) -> Tensor:
    return torch.stack([(row - row.mean()) / (row.std() + 1e-4) for row in scores])


def plain_dpo(chosen: Tensor, rejected: Tensor, chosen_ref: Tensor, rejected_ref: Tensor, beta: float) -> Tensor:
    return -F.logsigmoid(beta * (chosen - chosen_ref) - beta * (rejected - rejected_ref)).mean()


@pytest.mark.parametrize(("name", "function"), [
    ("rloo_advantages", plain_rloo), ("grpo_advantages", plain_grpo), ("dpo_loss", plain_dpo),
    ("implicit_reward", lambda logp, logp_ref, beta: beta * logp - beta * logp_ref),
    ("sft_loss", sft_loss), ("sft_loss", plain_sft), ("sft_loss", ignore_index_sft), ("sft_loss", multiplied_sft),
    ("pair_loss", reward.bradley_terry_loss), ("pair_loss", plain_pairs),
    ("plackett_luce", reward.plackett_luce_loss), ("plackett_luce", plain_ranking),
    ("plackett_luce", last_group_skipped),
    ("token_logprobs", kl.token_logprobs), ("token_logprobs", plain_logprobs),
    ("k3", lambda logp, logp_ref: kl.estimate(logp, logp_ref, "k3")), ("k3", plain_k3),
    ("shaped_rewards", ppo.shaped_rewards), ("shaped_rewards", plain_rewards),
    ("gae", ppo.gae), ("gae", plain_gae), ("gae", lambda *args: list(ppo.gae(*args))),
    ("policy_loss", ppo.policy_loss), ("policy_loss", plain_policy_loss),
    ("whiten", kl.masked_whiten), ("whiten", plain_whiten),
    ("adapt_kl_coef", ppo.adapt_kl_coef), ("adapt_kl_coef", plain_coefficient),
])
def test_right_answers_are_accepted(name: str, function: Function, line: Function) -> None:
    check, exercise = CHECKS[name]
    cases = len(exercise.cases) + len(exercise.extremes)
    assert line(check, function) == f"{exercise.name}: correct. It agrees with the package on all {cases} cases."


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


@pytest.mark.parametrize(("check", "exercise", "mistake"), MISTAKES)
def test_usual_mistakes_are_called_by_name(check: Function, exercise: Exercise, mistake: Function,
                                           line: Function) -> None:
    said = line(check, mistake)
    assert said.startswith(f"{exercise.name}: {sentence(mistake)}. ")
    evidence = said.removeprefix(f"{exercise.name}: {sentence(mistake)}. ")
    assert ("found" in evidence and "expected" in evidence) or evidence.startswith("Slot t = ")


@pytest.mark.parametrize("name", CHECKS)
def test_mistakes_are_many_and_no_two_look_alike(name: str) -> None:
    exercise = CHECKS[name][1]
    assert len(exercise.mistakes) >= 4
    assert len({sentence(mistake) for mistake in exercise.mistakes}) == len(exercise.mistakes)
    given = {function.__name__: answers(exercise, function) for function in (exercise.right, *exercise.mistakes)}
    assert len(given) == len(exercise.mistakes) + 1
    assert [pair for pair in itertools.combinations(given, 2) if agree(exercise, *(given[x] for x in pair))] == []


@pytest.mark.parametrize("name", CHECKS)
def test_an_unknown_mistake_is_located(name: str, line: Function) -> None:
    check, exercise = CHECKS[name]

    def scaled(*args: Any) -> Any:
        result = exercise.right(*args)
        return tuple(1.37 * x for x in result) if isinstance(result, tuple) else 1.37 * result
    said = line(check, scaled)
    assert "not right yet, nor one of the usual mistakes" in said and "found" in said and "expected" in said


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
def test_unfilled_stubs(name: str, stub: Function, line: Function) -> None:
    check, exercise = CHECKS[name]
    assert line(check, stub) == f"{exercise.name}: not attempted yet"


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
def test_what_is_not_a_function_is_reported(name: str, line: Function) -> None:
    assert "give the function itself, without calling it" in line(CHECKS[name][0], torch.zeros(3))


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
    assert ("a plain number has no gradient" in said) == (name in ("sft_loss", "pair_loss", "plackett_luce",
                                                                   "policy_loss", "dpo_loss"))


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


@pytest.mark.parametrize("name", CHECKS)
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


@pytest.mark.parametrize("name", [name for name in CHECKS if CHECKS[name][1].gradient])
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


ON_ANY_DEVICE = [exercise for _, exercise in CHECKS.values()
                 if exercise is not PLACKETT_LUCE]  # its loss builds a table from lists on the default device


@pytest.mark.parametrize("exercise", ON_ANY_DEVICE, ids=lambda exercise: exercise.name)
def test_no_tensor_depends_on_the_default_device(exercise: Exercise) -> None:
    """A tensor made without a device would be on `meta` here, which holds no data and cannot meet a CPU tensor."""
    with torch.device("meta"):
        assert agree(exercise, answers(exercise, exercise.right), answers(exercise, exercise.right))
        for mistake in exercise.mistakes:
            assert not agree(exercise, answers(exercise, mistake), answers(exercise, exercise.right))


def test_a_case_with_a_mask_or_lengths_on_another_device_is_compared_on_the_cpu() -> None:
    case = {"tokens": torch.zeros(2, 3), "lengths": torch.tensor([3, 1])}
    with torch.device("meta"):
        live = live_slots(case)
        number, = doubles(0.5)
    assert live is not None and live.device.type == "cpu" and live.tolist() == [[True] * 3, [True, False, False]]
    assert number.device.type == "cpu" and number.item() == 0.5
