"""The next-token loop: what the loss covers, that padding and batching change nothing, and that it learns."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_texts import ENDINGS, OPENINGS

from rlhf_mini.batches import shuffled_batches, similar_lengths, split_by_tokens, token_batches
from rlhf_mini.config import SFTConfig
from rlhf_mini.errors import InputError
from rlhf_mini.language_model import encode_endings, encode_prompts, frozen_copy, pad_id
from rlhf_mini.optimisers import adamw
from rlhf_mini.pretrain import PretrainConfig, train_lm
from rlhf_mini.sft import (
    Example,
    encode_demonstrations,
    fit_next_token,
    mean_loss,
    next_token_losses,
    train_sft,
)

PAIRS = list(zip(OPENINGS, ENDINGS, strict=True))
rows_of_tokens = st.lists(st.lists(st.integers(2, 319), min_size=2, max_size=30), min_size=1, max_size=6)
property_test = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def with_zero_head(model: Any) -> Any:
    """The model made to give every token the same probability."""
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    return model


# --- the loss ---------------------------------------------------------------------------------------------------


def test_a_uniform_model_loses_the_log_of_the_vocabulary(tiny_model: Any) -> None:
    losses = next_token_losses(with_zero_head(tiny_model), [Example([5, 6, 7, 8], 1), Example([5, 6], 1)])
    torch.testing.assert_close(losses, torch.full((4,), math.log(320)))


def test_the_loss_is_the_log_probability_of_ending_and_eos(tiny_model: Any, tiny_tokenizer: Any) -> None:
    prompt, ending = encode_prompts(tiny_tokenizer, OPENINGS[:1])[0], encode_endings(tiny_tokenizer, ENDINGS[:1])[0]
    row = torch.tensor([prompt + ending])
    logp = tiny_model(row).logits[0, :-1].log_softmax(-1).gather(1, row[0, 1:, None]).squeeze(1)
    losses = next_token_losses(tiny_model, encode_demonstrations(tiny_model, tiny_tokenizer, PAIRS[:1]))
    assert ending[-1] == tiny_tokenizer.eos_token_id and len(losses) == len(ending)
    torch.testing.assert_close(losses, -logp[-len(ending):])


@given(rows_of_tokens)
@property_test
def test_batching_and_padding_change_no_loss(tiny_model: Any, rows: list[list[int]]) -> None:
    batch = [Example(row, max(1, len(row) // 2)) for row in rows]
    together = next_token_losses(tiny_model, batch)
    alone = torch.cat([next_token_losses(tiny_model, [example]) for example in batch])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_batch_of_eight_is_eight_of_one(tiny_model: Any) -> None:
    batch = [Example(list(range(2, 6 + 3 * i)), 2 + i) for i in range(8)]
    tokens = sum(len(example.tokens) - example.start for example in batch)
    next_token_losses(tiny_model, batch).mean().backward()
    whole = {name: p.grad.clone() for name, p in tiny_model.named_parameters()}
    tiny_model.zero_grad()
    for example in batch:
        (next_token_losses(tiny_model, [example]).sum() / tokens).backward()
    for name, p in tiny_model.named_parameters():
        torch.testing.assert_close(p.grad, whole[name], atol=1e-6, rtol=1e-4)


def test_mean_loss_counts_tokens_and_not_rows(tiny_model: Any, tiny_tokenizer: Any) -> None:
    losses = [next_token_losses(tiny_model, [example])
              for example in encode_demonstrations(tiny_model, tiny_tokenizer, PAIRS)]
    assert mean_loss(tiny_model, tiny_tokenizer, PAIRS) == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)
    assert mean_loss(tiny_model, tiny_tokenizer, PAIRS, batch_size=2) == pytest.approx(
        mean_loss(tiny_model, tiny_tokenizer, PAIRS), abs=1e-5)


# --- training ---------------------------------------------------------------------------------------------------


def test_fine_tuning_teaches_the_endings_and_not_the_openings(tiny_model: Any, tiny_tokenizer: Any) -> None:
    before = mean_loss(tiny_model, tiny_tokenizer, PAIRS)
    openings = [Example(row, 1) for row in encode_prompts(tiny_tokenizer, OPENINGS)]
    untaught = next_token_losses(tiny_model, openings).mean().item()
    config = SFTConfig(steps=60, batch_size=5, learning_rate=1e-2)
    stats = list(train_sft(tiny_model, tiny_tokenizer, PAIRS, config))
    assert mean_loss(tiny_model, tiny_tokenizer, PAIRS) < 0.3 < before
    assert next_token_losses(tiny_model, openings).mean().item() > 0.8 * untaught
    assert [s["step"] for s in stats] == list(range(1, 61)) and stats[0]["loss"] > stats[-1]["loss"]
    assert set(stats[0]) == {"step", "loss", "learning_rate", "tokens"}


def test_fine_tuning_teaches_to_stop(tiny_model: Any, tiny_tokenizer: Any) -> None:
    list(train_sft(tiny_model, tiny_tokenizer, PAIRS, SFTConfig(steps=60, batch_size=5, learning_rate=1e-2)))
    for example in encode_demonstrations(tiny_model, tiny_tokenizer, PAIRS):
        logits = tiny_model(torch.tensor([example.tokens[:-1]])).logits[0, -1]
        assert int(logits.argmax()) == tiny_tokenizer.eos_token_id


def test_the_seed_decides_everything(tiny_model: Any, tiny_tokenizer: Any) -> None:
    def losses(seed: int, noise: int) -> list[float]:
        torch.manual_seed(noise)  # the global generator must not matter
        model = frozen_copy(tiny_model).requires_grad_(True)
        return [s["loss"] for s in train_sft(model, tiny_tokenizer, PAIRS, SFTConfig(steps=4, batch_size=2, seed=seed))]

    assert losses(1, noise=1) == losses(1, noise=2) != losses(2, noise=1)


def test_a_foreign_model_is_fine_tuned_by_the_same_code(foreign: Any) -> None:
    model, tokenizer = foreign
    pairs = [(opening.upper(), ending.upper()) for opening, ending in PAIRS]
    before = mean_loss(model, tokenizer, pairs)
    list(train_sft(model, tokenizer, pairs, SFTConfig(steps=40, batch_size=5, learning_rate=1e-2)))
    assert mean_loss(model, tokenizer, pairs) < before / 2
    assert pad_id(tokenizer) == tokenizer.eos_token_id and tokenizer.pad_token_id is None


@pytest.mark.parametrize("as_stream", [False, True])
def test_pretraining_learns_a_stream_of_documents(tiny_model: Any, as_stream: bool) -> None:
    documents = [[2 + i % 5, 10, 11, 12, 13, 0] for i in range(600)]
    config = PretrainConfig(documents=600, batch_tokens=60, learning_rate=1e-2)
    stats = list(train_lm(tiny_model, iter(documents) if as_stream else documents, config, eos_id=0))
    assert len(stats) == 60 and stats[-1]["tokens"] == 600 * 5
    assert stats[0]["loss"] > 4 and stats[-1]["loss"] < 0.1
    assert 0 < stats[-1]["learning_rate"] < stats[30]["learning_rate"] < 1e-2


def test_training_says_nothing(tiny_model: Any, tiny_tokenizer: Any, capfd: pytest.CaptureFixture[str],
                               recwarn: pytest.WarningsRecorder) -> None:
    list(train_sft(tiny_model, tiny_tokenizer, PAIRS, SFTConfig(steps=2, batch_size=4)))
    list(train_lm(tiny_model, [[2, 3, 0], [2, 3, 4, 5, 0]], PretrainConfig(), eos_id=0))
    mean_loss(tiny_model, tiny_tokenizer, PAIRS)
    assert capfd.readouterr() == ("", "") and not recwarn.list


# --- batches ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 3))
@property_test
def test_every_example_comes_once_before_any_comes_again(count: int, batch_size: int, seed: int) -> None:
    batches = shuffled_batches(count, batch_size, torch.Generator().manual_seed(seed))
    seen = [i for _ in range(-(-2 * count // batch_size)) for i in next(batches)]
    assert sorted(seen[:count]) == sorted(seen[count:2 * count]) == list(range(count))


@given(rows_of_tokens, st.integers(8, 90), st.integers(0, 3))
@property_test
def test_batches_hold_every_document_once_within_the_size(rows: list[list[int]], size: int, seed: int) -> None:
    batches = list(token_batches(rows, size, seed))
    assert sorted(list(row) for batch, _ in batches for row in batch) == sorted(rows)
    assert all(len(batch) * max(map(len, batch)) <= size or len(batch) == 1 for batch, _ in batches)
    assert [seen for _, seen in batches] == [sum(len(b) for b, _ in batches[:i]) for i in range(len(batches))]
    assert batches == list(token_batches(rows, size, seed))


def test_cutting_by_hand() -> None:
    assert split_by_tokens([0, 1, 2], [1, 1, 3], limit=3) == [[0, 1], [2]]


# --- what cannot be learnt --------------------------------------------------------------------------------------


def test_no_demonstrations_are_an_error(tiny_model: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no demonstrations"):
        list(train_sft(tiny_model, tiny_tokenizer, [], SFTConfig()))
    with pytest.raises(InputError, match="empty opening"):
        list(train_sft(tiny_model, tiny_tokenizer, [("", "text")], SFTConfig()))


def test_a_demonstration_longer_than_the_context_is_named(tiny_model: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"'Once' has \d+ tokens and the model sees 96"):
        list(train_sft(tiny_model, tiny_tokenizer, [("Once", "zq" * 100)], SFTConfig()))


@pytest.mark.parametrize(("document", "message"), [
    ([2] * 96 + [0], "has 97 tokens"), ([0], "has 1 tokens"), ([2, 3, 4], "ends in token 4")])
def test_a_document_that_does_not_fit_is_named(tiny_model: Any, document: list[int], message: str) -> None:
    with pytest.raises(InputError, match=f"document 1 {message}"):
        list(train_lm(tiny_model, [[2, 3, 0], document], PretrainConfig(), eos_id=0))


def test_a_loss_that_is_no_number_stops_the_training(tiny_model: Any) -> None:
    before = tiny_model.transformer.h[0].mlp.c_fc.weight.clone()
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight[5] = float("nan")
    with pytest.raises(InputError, match="the loss is nan at step 1"):
        list(fit_next_token(tiny_model, [adamw(tiny_model, 0.0)], [([Example([5, 6, 7], 1)], 0.0)],
                            learning_rate=1e-3, warmup=0.0))
    assert torch.equal(tiny_model.transformer.h[0].mlp.c_fc.weight, before)


def test_batches_of_like_length_hold_every_row_once() -> None:
    lengths = [(7 * i) % 50 for i in range(128)]
    generator = torch.Generator().manual_seed(0)
    batches = list(islice(similar_lengths(shuffled_batches(128, 8, generator), lengths, 8, generator), 16))
    assert sorted(i for batch in batches for i in batch) == list(range(128))
    spans = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert max(spans) <= 4
    assert [lengths[batch[0]] for batch in batches] != sorted(lengths[batch[0]] for batch in batches)


def test_few_rows_are_not_dealt_as_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    for batch in islice(similar_lengths(shuffled_batches(5, 5, generator), [1, 2, 3, 4, 5], 5, generator), 20):
        assert sorted(batch) == [0, 1, 2, 3, 4]
