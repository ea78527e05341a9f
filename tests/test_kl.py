"""Numbers worked out by hand, and the promise that masked slots change nothing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_mini import kl
from rlhf_mini.errors import InputError

NAN = float("nan")


def gradient(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def test_token_logprobs_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(4), 0.0]]])  # probabilities 1/4, 3/4 and 4/5, 1/5
    logp = kl.token_logprobs(logits, torch.tensor([[1, 1]]))
    assert torch.allclose(logp, torch.tensor([[math.log(3 / 4), math.log(1 / 5)]]))


def test_token_logprobs_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[[0.0, math.log(3)]]])
    logp = kl.token_logprobs(logits, torch.tensor([[1]]), temperature=0.5)
    assert logp.item() == pytest.approx(math.log(9 / 10), abs=1e-6)  # 3 squared against 1


def test_token_logprobs_of_large_and_of_half_precision_logits() -> None:
    large = torch.tensor([[[1e4, 0.0]]])
    assert kl.token_logprobs(large, torch.tensor([[0]])).item() == 0.0
    half = torch.randn(2, 3, 50).bfloat16()
    tokens = torch.randint(50, (2, 3))
    assert kl.token_logprobs(half, tokens).dtype == torch.float32
    assert torch.allclose(kl.token_logprobs(half, tokens), kl.token_logprobs(half.float(), tokens))


def test_estimates_by_hand() -> None:
    logp, logp_ref = torch.tensor([[-1.0, -2.0]]), torch.tensor([[-1.5, -1.0]])
    assert torch.allclose(kl.estimate(logp, logp_ref), torch.tensor([[0.5, -1.0]]))
    assert torch.allclose(kl.estimate(logp, logp_ref, "k2"), torch.tensor([[0.125, 0.5]]))
    expected = torch.tensor([[math.exp(-0.5) - 1 + 0.5, math.e - 1 - 1]])
    assert torch.allclose(kl.estimate(logp, logp_ref, "k3"), expected)


def test_unknown_estimate_is_named() -> None:
    with pytest.raises(InputError, match="k4"):
        kl.estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k4")  # type: ignore[arg-type]


def test_exact_by_hand_and_its_direction() -> None:
    policy, reference = torch.tensor([[[math.log(3), 0.0]]]), torch.tensor([[[0.0, 0.0]]])
    forward = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    backward = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert kl.exact(policy, reference).item() == pytest.approx(forward, abs=1e-6)
    assert kl.exact(reference, policy).item() == pytest.approx(backward, abs=1e-6)
    assert kl.exact(policy, policy).item() == 0.0


def test_exact_where_a_token_is_impossible() -> None:
    policy = torch.tensor([[[0.0, 0.0, -torch.inf]]], requires_grad=True)
    divergence = kl.exact(policy, torch.tensor([[[0.0, 0.0, 0.0]]]))
    assert divergence.item() == pytest.approx(math.log(3 / 2), abs=1e-6)
    divergence.sum().backward()
    assert gradient(policy).isfinite().all()
    assert kl.exact(policy.detach(), policy.detach()).item() == 0.0
    assert kl.exact(torch.zeros(1, 1, 3), policy.detach()).item() == torch.inf


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, -torch.inf, 0.0, -torch.inf]])
    assert torch.allclose(kl.entropy(logits), torch.tensor([math.log(4), math.log(2)]))


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_enumerated_expectation_of_the_estimates_is_the_exact_divergence(seed: int) -> None:
    """k1 and k3 are unbiased, k2 is not; k3 is never negative."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    logp, logp_ref = policy.log_softmax(0), reference.log_softmax(0)
    exact = kl.exact(policy, reference).item()
    assert exact >= 0
    for kind in ("k1", "k3"):
        mean = (logp.exp() * kl.estimate(logp, logp_ref, kind)).sum().item()
        assert mean == pytest.approx(exact, abs=1e-9)
    assert (kl.estimate(logp, logp_ref, "k3") >= 0).all()


def test_masked_mean_and_sum_by_hand() -> None:
    x, mask = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert kl.masked_mean(x, mask).item() == 3.0
    assert kl.masked_mean(x, mask, denominator=6).item() == 1.5
    assert kl.masked_sum(x, mask).tolist() == [3.0, 6.0]


def test_whitening_uses_the_unbiased_variance() -> None:
    x = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    kept = kl.masked_whiten(x, torch.ones(3, 3), shift_mean=False)
    assert kept[0, 0].item() == pytest.approx(0.1394, abs=5e-5)  # 0.0508 with the biased variance
    moved = kl.masked_whiten(x, torch.ones(3, 3))
    assert moved.mean().item() == pytest.approx(0, abs=1e-6)
    assert moved.std().item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(kept - moved, torch.tensor(1.6))


def test_whitening_looks_only_at_live_tokens() -> None:
    x, mask = torch.tensor([[1.0, 3.0, 100.0]]), torch.tensor([[1, 1, 0]])
    half = 1 / math.sqrt(2)  # mean 2, unbiased variance 2
    assert torch.allclose(kl.masked_whiten(x, mask), torch.tensor([[-half, half, 0.0]]))


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64]
)
def test_masks_of_any_dtype(dtype: torch.dtype) -> None:
    x, mask = torch.tensor([[1.0, 2.0, NAN]]), torch.tensor([[1, 1, 0]]).to(dtype)
    assert kl.masked_mean(x, mask).item() == 1.5
    assert kl.masked_whiten(x, mask).isfinite().all()


def test_nothing_live_is_zero_and_one_live_token_whitens_to_zero() -> None:
    x = torch.full((2, 3), NAN)
    nothing = torch.zeros(2, 3)
    assert kl.masked_mean(x, nothing).item() == 0.0
    assert kl.masked_sum(x, nothing).tolist() == [0.0, 0.0]
    assert kl.masked_whiten(x, nothing).eq(0).all()
    assert kl.masked_whiten(torch.tensor([[5.0]]), torch.ones(1, 1)).item() == 0.0


def test_nan_on_a_live_token_is_an_error_that_says_where() -> None:
    x, mask = torch.tensor([[0.0, 0.0], [0.0, NAN]]), torch.ones(2, 2)
    for average in (kl.masked_mean, kl.masked_whiten, kl.masked_sum):
        with pytest.raises(InputError, match=r"\[1, 1\] is nan"):
            average(x, mask)


def test_a_mask_of_another_shape_is_an_error() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\).*\(2, 1\)"):
        kl.masked_mean(torch.zeros(2, 3), torch.ones(2, 1))


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([NAN, torch.inf, -torch.inf, 1e30, 3.0]), st.booleans())
def test_masked_slots_change_neither_value_nor_gradient(seed: int, junk: float, shift_mean: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 5, generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.6
    results = []
    for fill in (0.0, junk):
        leaf = torch.where(mask, x, fill).requires_grad_()
        whitened = kl.masked_whiten(leaf, mask, shift_mean)
        loss = kl.masked_mean(leaf * 2, mask) + (whitened * x).sum()
        loss.backward()
        results.append((loss.detach(), whitened.detach(), gradient(leaf)))
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    assert results[1][2][~mask].eq(0).all()
