"""Loading, saving and token work: what is loaded is what was saved, and what cannot be loaded says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_texts import ENDINGS, OPENINGS
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig

from rlhf_mini.checkpoints import check_fit
from rlhf_mini.errors import InputError
from rlhf_mini.forward import pad_right
from rlhf_mini.language_model import (
    check_prompts,
    context_length,
    decode_endings,
    encode,
    encode_endings,
    encode_prompts,
    frozen_copy,
    load_language_model,
    pad_id,
    save_language_model,
)
from rlhf_mini.pretrain import new_language_model, train_tokenizer

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
same_fixture = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- texts and tokens -------------------------------------------------------------------------------------------


@given(any_text)
@same_fixture
def test_any_text_encodes_and_decodes_unchanged(tiny_tokenizer: Any, text: str) -> None:
    ids = encode(tiny_tokenizer, [text])[0]
    assert tiny_tokenizer.decode(ids) == text
    assert tiny_tokenizer.eos_token_id not in ids and tiny_tokenizer.pad_token_id not in ids


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|pad|>b", " <|endoftext|> ", "", " ", "\n\n", "日本\x00é"])
def test_special_tokens_are_not_read_out_of_a_text(tiny_tokenizer: Any, text: str) -> None:
    ids = encode(tiny_tokenizer, [text])[0]
    assert tiny_tokenizer.decode(ids) == text
    assert not {tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id} & set(ids)


@given(st.lists(any_text, min_size=1, max_size=5), st.data())
@same_fixture
def test_endings_survive_tokens_and_padding(tiny_tokenizer: Any, endings: list[str], data: Any) -> None:
    ended = data.draw(st.lists(st.booleans(), min_size=len(endings), max_size=len(endings)))
    rows = encode_endings(tiny_tokenizer, endings, ended)
    tokens, lengths = pad_right(rows, pad_id(tiny_tokenizer)), torch.tensor([len(row) for row in rows])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    assert decode_endings(tiny_tokenizer, tokens, mask) == endings
    assert [row[-1] == tiny_tokenizer.eos_token_id for row in rows] == ended


def test_decoding_reads_the_mask_and_not_the_tokens(tiny_tokenizer: Any) -> None:
    eos = tiny_tokenizer.eos_token_id
    row = encode_endings(tiny_tokenizer, ["He ran."])[0]
    tokens = torch.tensor([[*row, eos, 50, eos]])
    mask = torch.tensor([[1.0] * len(row) + [0.0] * 3])
    assert decode_endings(tiny_tokenizer, tokens, mask) == ["He ran."]
    assert decode_endings(tiny_tokenizer, tokens, torch.zeros_like(mask)) == [""]


def test_opening_and_ending_share_no_token(tiny_tokenizer: Any) -> None:
    opening, ending = OPENINGS[0], ENDINGS[0]
    row = encode_prompts(tiny_tokenizer, [opening])[0] + encode_endings(tiny_tokenizer, [ending])[0]
    assert tiny_tokenizer.decode(row) == f"{opening} {ending}<|endoftext|>"


def test_encoding_nothing_gives_nothing(tiny_tokenizer: Any) -> None:
    assert encode_prompts(tiny_tokenizer, []) == [] and encode_endings(tiny_tokenizer, []) == []


def test_the_tokenizer_has_its_own_pad_and_the_size_asked_for(tiny_tokenizer: Any) -> None:
    assert (tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id, len(tiny_tokenizer)) == (0, 1, 320)
    with pytest.raises(InputError, match="at least 258"):
        train_tokenizer(["text"], vocab_size=200)


def test_pad_right_by_hand() -> None:
    tokens = pad_right([[5], [6, 7, 8]], fill=9)
    assert tokens.tolist() == [[5, 9, 9], [6, 7, 8]]


# --- making, saving, loading ------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_saved(saved: Path) -> None:
    model, tokenizer = load_language_model(saved)
    plain, plain_tokenizer = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    ids = torch.tensor(encode(tokenizer, ["Mia found a kite."]))
    assert plain_tokenizer("Mia found a kite.")["input_ids"] == ids[0].tolist()
    assert torch.equal(model(ids).logits, plain.eval()(ids).logits)
    assert (saved / "model.safetensors").exists() and not list(saved.glob("*.bin"))


def test_a_new_model_depends_on_its_seed_only() -> None:
    def make(seed: int) -> torch.Tensor:
        return new_language_model(300, 0, 1, 1, 2, 16, 32, seed).transformer.wte.weight.detach()

    state = torch.get_rng_state()
    first = make(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, make(1)) and not torch.equal(first, make(2))


def test_loading_and_saving_say_nothing(saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                        recwarn: pytest.WarningsRecorder) -> None:
    save_language_model(*load_language_model(saved), tmp_path / "again")
    assert capfd.readouterr() == ("", "") and not recwarn.list


def test_a_frozen_copy_shares_nothing_and_learns_nothing(tiny_model: Any) -> None:
    frozen: Any = frozen_copy(tiny_model)
    with torch.no_grad():
        tiny_model.get_input_embeddings().weight.add_(1)
    assert not torch.equal(frozen.get_input_embeddings().weight, tiny_model.get_input_embeddings().weight)
    assert not any(p.requires_grad for p in frozen.parameters()) and not frozen.training
    assert all(p.requires_grad for p in tiny_model.parameters())


# --- a foreign model --------------------------------------------------------------------------------------------


def test_a_foreign_model_keeps_its_vocabulary_and_its_log_probabilities(foreign_folder: Path, foreign: Any) -> None:
    model, tokenizer = foreign
    plain = AutoModelForCausalLM.from_pretrained(foreign_folder).eval()
    ids = torch.tensor(encode(tokenizer, ["MIA FOUND A KITE."]))
    assert tokenizer.pad_token_id is None and pad_id(tokenizer) == tokenizer.eos_token_id
    # Nothing was added: no row of the softmax is a pad token, so none can be sampled or take probability.
    assert model(ids).logits.shape[-1] == plain(ids).logits.shape[-1] == len(tokenizer)
    torch.testing.assert_close(model(ids).logits.log_softmax(-1), plain(ids).logits.log_softmax(-1), atol=1e-5, rtol=0)


def test_a_foreign_model_loses_its_dropout_for_good(foreign: Any, tmp_path: Path) -> None:
    model, tokenizer = foreign
    ids = torch.tensor(encode(tokenizer, ["MIA FOUND A KITE."]))
    save_language_model(model, tokenizer, tmp_path)
    for each in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        each.train()
        assert torch.equal(each(ids).logits, each(ids).logits)
        assert each.config.attn_pdrop == each.config.embd_pdrop == each.config.resid_pdrop == 0


def test_a_foreign_model_sees_128_tokens(foreign: Any) -> None:
    assert context_length(foreign[0]) == 128


# --- prompts and the context ------------------------------------------------------------------------------------


def test_a_prompt_longer_than_the_context_is_named(tiny_model: Any) -> None:
    with pytest.raises(InputError, match=r"'the long one' has 96 tokens and the model sees 96"):
        check_prompts(tiny_model, [[5] * 10, [5] * 96], ["short", "the long one"], max_new_tokens=8)


def test_the_response_limit_is_shortened_with_a_warning(tiny_model: Any) -> None:
    with pytest.warns(UserWarning, match="limited to 6 tokens instead of 8"):
        assert check_prompts(tiny_model, [[5] * 90], ["text"], max_new_tokens=8) == 6


def test_prompts_that_fit_leave_the_limit_alone(tiny_model: Any, recwarn: pytest.WarningsRecorder) -> None:
    assert check_prompts(tiny_model, [[5] * 88], ["text"], max_new_tokens=8) == 8
    assert not recwarn.list


def test_an_empty_prompt_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="is empty"):
        check_prompts(tiny_model, [[]], [""], max_new_tokens=8)


# --- what cannot be loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "message"), [
    ("./nowhere", "no folder './nowhere'"), ("/no/such/folder", "no folder"), ("", "no folder ''"),
    ("gpt2", "hf download gpt2"), ("someone/some-gpt2", "hf download someone/some-gpt2")])
def test_a_missing_base_says_what_to_do(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_language_model(name)


def test_a_file_is_no_folder(saved: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        load_language_model(saved / "config.json")


def test_a_folder_without_a_config_is_named(broken: Path) -> None:
    (broken / "config.json").unlink()
    with pytest.raises(InputError, match=r"has no config\.json"):
        load_language_model(broken)


def test_pickled_weights_are_refused(broken: Path) -> None:
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(InputError, match="only pickled weights"):
        load_language_model(broken)


@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_damaged_weights_are_one_clear_line(broken: Path, damage: str) -> None:
    weights = broken / "model.safetensors"
    content = {"cut": weights.read_bytes()[:5000], "empty": b"", "text": b"not weights at all"}[damage]
    weights.write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded") as caught:
        load_language_model(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model_type": "no-such-model"}'])
def test_a_damaged_config_is_one_clear_line(broken: Path, content: str) -> None:
    (broken / "config.json").write_text(content)
    with pytest.raises(InputError) as caught:
        load_language_model(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", "GPT2ForSequenceClassification"])
def test_a_base_that_is_no_causal_model_is_refused(broken: Path, architecture: str) -> None:
    edit(broken / "config.json", architectures=[architecture])
    with pytest.raises(InputError, match=f"{architecture}: give a causal language model"):
        load_language_model(broken)


def test_a_base_without_a_context_length_is_refused(broken: Path) -> None:
    """BLOOM, for one, has no positions: what would a prompt have to fit into?"""
    BloomConfig(architectures=["BloomForCausalLM"]).save_pretrained(broken)
    with pytest.raises(InputError, match="does not state its context length"):
        load_language_model(broken)


def test_weights_that_are_missing_are_not_made_up(broken: Path) -> None:
    edit(broken / "config.json", n_layer=3)
    with pytest.raises(InputError, match="lacks 12 of its weights"):
        load_language_model(broken)


@pytest.mark.parametrize("size", [400, 258])
def test_the_tokenizer_of_another_model_is_refused(broken: Path, size: int) -> None:
    tokenizer = train_tokenizer(ENDINGS * 2 + OPENINGS + [chr(i) * 9 for i in range(200, 600)], vocab_size=size)
    model = new_language_model(size - 1 if size == 400 else 600, 0, 1, 1, 2, 16, 32, seed=0)
    assert len(tokenizer) == size
    with pytest.raises(InputError, match="the tokenizer"):
        check_fit(model, tokenizer, "base")
    save_language_model(model, tokenizer, broken)
    with pytest.raises(InputError, match="the tokenizer"):
        load_language_model(broken)


def test_a_vocabulary_that_was_rounded_up_fits(tiny_tokenizer: Any) -> None:
    check_fit(new_language_model(384, 0, 1, 1, 2, 16, 32, seed=0), tiny_tokenizer, "base")


def test_a_base_without_a_tokenizer_is_named(broken: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load_language_model(broken)


def test_a_tokenizer_without_an_end_is_named(broken: Path) -> None:
    edit(broken / "tokenizer_config.json", eos_token=None)
    with pytest.raises(InputError, match="no end-of-text token"):
        load_language_model(broken)
