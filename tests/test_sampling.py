"""The sampler's own numbers against fresh forward passes, and what padding and neighbours must not change."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import sample_endings
from rlhf_mini.forward import lm_logits
from rlhf_mini.kl import token_logprobs
from rlhf_mini.policy import response_states
from rlhf_mini.ppo import PolicyWithValue
from rlhf_mini.pretrain import new_language_model
from rlhf_mini.sampling import (
    Rollout,
    best_of_n_index,
    best_of_n_kl,
    distinct_neighbours,
    draw,
    pad_left,
    positions,
    sample,
)

EOS, PAD = 0, 1
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 5]]


def sharp(model: Any) -> Any:
    """Random weights made larger, so that what the model says depends visibly on what it read."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return sharp(new_language_model(20, EOS, PAD, n_layer=2, n_head=2, n_embd=16, n_positions=64, seed=0))


def roll(
    model: Any,
    prompts: list[list[int]] = PROMPTS,
    seed: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 12,
) -> Rollout:
    return sample(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos_id=EOS,
        pad_id=PAD,
        generator=torch.Generator().manual_seed(seed),
    )


def plain_logits(model: Any, rollout: Rollout, row: int) -> tuple[Tensor, Tensor]:
    """The logits of one row, alone and without any padding."""
    prompt = torch.tensor(rollout.prompts[row])
    tokens = rollout.tokens[row][rollout.mask[row]]
    with torch.no_grad():
        return model(torch.cat([prompt, tokens])[None]).logits[0, len(prompt) - 1 : -1], tokens


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_kept_numbers_equal_a_fresh_forward_of_each_row_alone(model: Any, temperature: float) -> None:
    policy = PolicyWithValue(model)
    torch.nn.init.normal_(policy.value_head.weight)
    rollout = roll(policy, PROMPTS * 8, temperature=temperature)
    assert len(set(rollout.lengths.tolist())) > 3  # rows did leave the batch at different times
    fresh = response_states(policy, rollout).split(rollout.lengths.tolist())
    for row, hidden in enumerate(fresh):
        live = rollout.mask[row]
        logits, tokens = plain_logits(model, rollout, row)
        expected = token_logprobs(logits, tokens, temperature)
        assert torch.allclose(rollout.logp[row][live], expected, atol=1e-4)
        assert torch.allclose(hidden, rollout.hidden[row][live], atol=1e-4)
        values = policy.value_head(hidden).squeeze(-1)
        assert torch.allclose(rollout.values[row][live], values, atol=1e-4)
        assert torch.allclose(lm_logits(model, hidden), logits, atol=1e-4)


def test_equal_prompts_are_read_once_and_give_what_each_gives_beside_others(model: Any) -> None:
    apart = [[5, 6, 7], [8], [5, 6, 7], [8], [5, 6, 7], [8]]
    order = [0, 2, 4, 1, 3, 5]
    rows: list[int] = []
    policy = copy.deepcopy(model)
    policy.transformer.wte.register_forward_pre_hook(lambda layer, tokens: rows.append(len(tokens[0])))
    assert distinct_neighbours(*pad_left([apart[i] for i in order], PAD))[1].tolist() == [0, 0, 0, 1, 1, 1]
    together = roll(policy, [apart[i] for i in order])
    assert rows[0] == 2 and rows[1] <= 6
    for place, row in enumerate(order):
        fresh, tokens = plain_logits(model, together, place)
        assert together.prompts[place] == tuple(apart[row])
        assert torch.allclose(together.logp[place][together.mask[place]], token_logprobs(fresh, tokens), atol=1e-4)


def test_a_pad_token_in_a_prompt_is_not_taken_for_padding(model: Any) -> None:
    assert distinct_neighbours(*pad_left([[PAD, 8], [8], [8]], PAD))[1].tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=20,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
            )
        ),
        lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(
                vocab_size=20,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=64,
            )
        ),
    ],
    ids=["llama", "gpt_neox"],
)
def test_other_causal_language_models(make: Any) -> None:
    torch.manual_seed(0)
    model = sharp(make())
    rollout = roll(model)
    assert (rollout.values == 0).all()  # there is no value head
    for row in range(len(PROMPTS)):
        logits, tokens = plain_logits(model, rollout, row)
        assert torch.allclose(rollout.logp[row][rollout.mask[row]], token_logprobs(logits, tokens), atol=1e-4)


def test_shapes_masks_and_ends(model: Any) -> None:
    rollout = roll(model, PROMPTS * 8)
    width = rollout.tokens.shape[1]
    assert rollout.mask.shape == rollout.logp.shape == (32, width) and rollout.mask.dtype == torch.bool
    assert torch.equal(rollout.mask, torch.arange(width) < rollout.lengths[:, None])  # a prefix of each row
    last = rollout.tokens[torch.arange(32), rollout.lengths - 1]
    assert torch.equal(rollout.ended, last == EOS)
    assert (rollout.lengths[~rollout.ended] == 12).all()
    inside = rollout.mask & (torch.arange(width) < rollout.lengths[:, None] - 1)
    assert (rollout.tokens[inside] != EOS).all()
    assert (rollout.tokens[~rollout.mask] == PAD).all() and (rollout.logp[~rollout.mask] == 0).all()
    assert (rollout.hidden[~rollout.mask] == 0).all() and (rollout.values[~rollout.mask] == 0).all()
    assert not rollout.logp.is_inference()  # such tensors could not take part in a backward pass


def test_pad_token_in_the_text_does_not_hide_anything(model: Any) -> None:
    """Masks come from lengths: a sampled pad token is a token, and pad = EOS still shows the EOS."""
    rollout = sample(
        model,
        PROMPTS * 8,
        max_new_tokens=12,
        temperature=1.0,
        eos_id=EOS,
        pad_id=EOS,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(rollout.mask, roll(model, PROMPTS * 8).mask)
    assert (rollout.tokens[rollout.mask] == PAD).any()
    assert ((rollout.tokens == EOS) & rollout.mask).sum() == rollout.ended.sum() > 0


@settings(deadline=None, max_examples=20)
@given(extra=st.integers(1, 20), seed=st.integers(0, 1000))
def test_left_padding_moves_nothing(model: Any, extra: int, seed: int) -> None:
    """A row alone is the same row beside one that is longer by 1 to 20 tokens."""
    alone = roll(model, [[5, 6, 7]], seed)
    beside = roll(model, [[5, 6, 7], [8] * (3 + extra)], seed)
    length = int(alone.lengths[0])
    assert torch.equal(alone.tokens[0, :length], beside.tokens[0, :length])
    assert beside.lengths[0] == length
    assert torch.allclose(alone.logp[0, :length], beside.logp[0, :length], atol=1e-4)
    fresh = [response_states(model, rollout)[:length] for rollout in (alone, beside)]
    assert torch.allclose(fresh[0], fresh[1], atol=1e-5)


def test_an_ending_does_not_depend_on_when_its_neighbours_end(model: Any) -> None:
    together = roll(model, PROMPTS * 4)
    without_exit = sample(
        model,
        PROMPTS * 4,
        max_new_tokens=12,
        temperature=1.0,
        eos_id=-1,
        pad_id=PAD,
        generator=torch.Generator().manual_seed(0),
    )
    width = together.tokens.shape[1]
    assert torch.equal(together.tokens[together.mask], without_exit.tokens[:, :width][together.mask])


def test_a_sampled_row_follows_the_models_distribution(model: Any) -> None:
    rollout = roll(model, [[5, 6, 7]] * 20_000, max_new_tokens=1)
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6, 7]])).logits[0, -1].softmax(-1)
    found = rollout.tokens[:, 0].bincount(minlength=20) / 20_000
    assert torch.allclose(found, expected, atol=0.02)


def test_draw_inverts_the_cumulative_distribution_by_hand() -> None:
    logits = torch.tensor([0.5, 0.0, 0.25, 0.25]).log().repeat(5, 1)
    drawn = draw(logits, torch.tensor([0.0, 0.4999, 0.5, 0.75, 1 - 2**-24]), 1.0)
    assert drawn.tolist() == [0, 0, 2, 3, 3]  # never the impossible token 1
    cold = draw(torch.tensor([[0.0, math.log(3)]]), torch.tensor([0.11]), 0.5)  # 1/10, 9/10
    assert (
        cold.item() == 1 and draw(torch.tensor([[0.0, math.log(3)]]), torch.tensor([0.11]), 1.0).item() == 0
    )


def test_draw_never_leaves_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 300, generator=generator) * 5
    logits[:, -1] = -torch.inf
    assert draw(logits, torch.full((2000,), 1 - 2**-24), 1.0).max() < 299


def test_padding_and_positions_by_hand() -> None:
    tokens, mask = pad_left([[7], [5, 6, 7]], PAD)
    assert tokens.tolist() == [[PAD, PAD, 7], [5, 6, 7]]
    assert mask.tolist() == [[False, False, True], [True, True, True]]
    assert positions(mask).tolist() == [[0, 0, 0], [0, 1, 2]]


@pytest.mark.parametrize("prompts", [[], [[5], []]])
def test_empty_prompts_are_an_error(model: Any, prompts: list[list[int]]) -> None:
    with pytest.raises(InputError, match="prompt"):
        roll(model, prompts)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_0_is_an_error(model: Any, temperature: float) -> None:
    with pytest.raises(InputError, match="temperature"):
        sample(model, [[5]], max_new_tokens=4, temperature=temperature, eos_id=EOS, pad_id=PAD,
               generator=torch.Generator())


def test_select_takes_every_field(model: Any) -> None:
    rollout = roll(PolicyWithValue(model))
    part = rollout.select(torch.tensor([2, 0]))
    assert torch.equal(part.tokens, rollout.tokens[[2, 0]]) and torch.equal(
        part.values, rollout.values[[2, 0]]
    )
    assert part.rows == [rollout.rows[2], rollout.rows[0]]
    assert rollout.rows[0][:3] == [5, 6, 7] and len(rollout.rows[0]) == 3 + int(rollout.lengths[0])


def test_endings_are_one_per_prompt_and_repeat_with_their_seed(tiny_model: Any, tiny_tokenizer: Any) -> None:
    prompts = ["Mia found a kite in the park.", "Tom wanted a red ball.", "Ana was at the pond."]
    first, again, other = (sample_endings(tiny_model, tiny_tokenizer, prompts, max_new_tokens=10, temperature=1.0,
                                          seed=seed) for seed in (0, 0, 1))
    assert len(first.endings) == len(first.ended) == len(first.lengths) == 3 and max(first.lengths) <= 10
    assert (first.endings, first.lengths) == (again.endings, again.lengths) and first.endings != other.endings


@pytest.mark.parametrize("temperature", [1.0, 1e-44])
def test_a_policy_whose_numbers_are_not_finite_is_named(model: Any, temperature: float) -> None:
    broken = copy.deepcopy(model)
    if temperature == 1.0:
        broken.transformer.wte.weight.data[5] = math.nan
    with pytest.raises(InputError, match=r"token 1 of sample 1 has the log-probability nan: the policy has diverged"):
        roll(broken, temperature=temperature)


def test_double_precision_stays_double(model: Any) -> None:
    rollout = roll(PolicyWithValue(copy.deepcopy(model).double()))
    assert rollout.logp.dtype == rollout.values.dtype == rollout.hidden.dtype == torch.float64


def test_best_of_n() -> None:
    assert best_of_n_index(torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])).tolist() == [1, 0]
    bounds = [round(best_of_n_kl(n), 3) for n in (1, 2, 4, 16, 64)]
    assert bounds == [0.0, 0.193, 0.636, 1.835, 3.175]
