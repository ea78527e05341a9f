"""Bases of many makes: each is right in every respect, or refused in one line before anything is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_texts import ENDINGS, OPENINGS
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_mini import pipeline
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_mini.consistency import check_consistency
from rlhf_mini.errors import InputError
from rlhf_mini.forward import lm_logits, pad_right
from rlhf_mini.kl import token_logprobs
from rlhf_mini.language_model import encode_prompts, load_language_model, pad_id, save_language_model
from rlhf_mini.policy import response_states, start_ppo, unpack
from rlhf_mini.reward_model import normalise, reward_model_from, score_texts, token_rows
from rlhf_mini.run import results, tasks
from rlhf_mini.run.base import check_base, has_seen_tales, note_tales
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.settings import choose_sizes
from rlhf_mini.sampling import sample

LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
GROUPED = {**LAYERS, "num_key_value_heads": 1}
GPT2_LIKE = {"n_layer": 2, "n_head": 2, "n_embd": 32}
OPT = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "ffn_dim": 64, "word_embed_proj_dim": 32}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

NORMALISED: dict[str, dict[str, Any]] = {  # the whole loop accepts these
    "gpt2": GPT2_LIKE,
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "intermediate_size": 64, "window_size": 8,
                "attention_types": [[["global", "local"], 1]]},
    "gpt_neox": LAYERS,
    "gptj": {**GPT2_LIKE, "rotary_dim": 8},
    "gpt_bigcode": GPT2_LIKE,
    "opt": OPT,
    "opt with a projection after its last norm": {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    "phi": LAYERS,
    "falcon": {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32},
    "stablelm": GROUPED,
    "biogpt": LAYERS,
}
NO_COMMON_BIAS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 8},
    "mixtral": {**GROUPED, **EXPERTS},
    "qwen2": GROUPED,
    "gemma": {**GROUPED, "head_dim": 16},
}
NO_CLASSIFIER: dict[str, dict[str, Any]] = {
    "codegen": {**GPT2_LIKE, "n_head": 4, "rotary_dim": 4},
    "xglm": {"d_model": 32, "num_layers": 2, "attention_heads": 2, "ffn_dim": 64},
    "granite": GROUPED,  # its scale of the logits is 1 here
}
LANGUAGE_MODELS = {**NORMALISED, **NO_COMMON_BIAS, **NO_CLASSIFIER}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gemma2": ({**GROUPED, "head_dim": 16}, "in another way than LM head"),
    "cohere": (GROUPED, "in another way than LM head"),
    "granite with a scale": ({**GROUPED, "logits_scaling": 8.0}, "in another way than LM head"),
    "roberta": ({**LAYERS, "is_decoder": True}, "in another way than LM head"),
    "bert": (LAYERS, "look at later ones"),
    "rwkv": ({"num_hidden_layers": 2, "hidden_size": 32, "attention_hidden_size": 32, "context_length": 96},
             "treats padding in another way"),
    "openai-gpt": (GPT2_LIKE, "cannot be sampled from here"),
}


def make(kind: str, tokenizer: Any, shape: dict[str, Any], std: float = 0.15) -> Any:
    """A random tiny causal language model; matrices larger than the usual 0.02, so that a difference shows."""
    config = AutoConfig.for_model(kind.split(" ")[0], vocab_size=len(tokenizer), bos_token_id=tokenizer.eos_token_id,
                                  eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
                                  **{"max_position_embeddings": 96, **shape})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=std)
    return model.eval()


def save(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# --- language models --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_sampling_and_training_get_the_models_own_logits(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    folder = save(tmp_path, make(kind, tiny_tokenizer, LANGUAGE_MODELS[kind]), tiny_tokenizer)
    model, tokenizer = load_language_model(folder)
    rollout = sample(model, encode_prompts(tokenizer, OPENINGS), max_new_tokens=12, temperature=0.7,
                     eos_id=tokenizer.eos_token_id, pad_id=pad_id(tokenizer),
                     generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = lm_logits(model, response_states(model, rollout))
        fresh = unpack(token_logprobs(logits, rollout.tokens[rollout.mask], 0.7), rollout.mask)
        for i, row in enumerate(rollout.rows):
            n = int(rollout.lengths[i])
            own = token_logprobs(model(torch.tensor([row])).logits[0, -n - 1:-1], rollout.tokens[i, :n], 0.7)
            torch.testing.assert_close(rollout.logp[i, :n], own, atol=1e-4, rtol=0)
            torch.testing.assert_close(fresh[i, :n], own, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_with_other_logits_is_refused_in_one_line(kind: str, tiny_tokenizer: Any, tmp_path: Path) -> None:
    shape, reason = REFUSED[kind]
    folder = save(tmp_path, make(kind, tiny_tokenizer, shape), tiny_tokenizer)
    with pytest.raises(InputError, match=f"{reason}.*: give a model such as GPT-2") as caught:
        load_language_model(folder)
    assert "\n" not in str(caught.value) and type(make(kind, tiny_tokenizer, shape)).__name__ in str(caught.value)


def test_a_cap_is_seen_where_the_logits_are_far_below_it(tiny_tokenizer: Any) -> None:
    model = make("gemma2", tiny_tokenizer, {**GROUPED, "head_dim": 16}, std=0.02)
    assert model(torch.arange(9)[None]).logits.abs().max() < 1 < model.config.final_logit_softcapping
    with pytest.raises(InputError, match="in another way"):
        check_consistency(model, "base")
    model.config.final_logit_softcapping = None
    check_consistency(model, "base")


def test_a_context_that_the_model_does_not_have_is_refused(tiny_model: Any) -> None:
    check_consistency(tiny_model, "base")
    tiny_model.config.n_positions = 97
    with pytest.raises(InputError, match="fewer positions than the 97 in its config"):
        check_consistency(tiny_model, "base")


def test_broken_weights_are_named(tiny_model: Any) -> None:
    with torch.no_grad():
        tiny_model.transformer.ln_f.weight[3] = float("nan")
    with pytest.raises(InputError, match="not finite numbers"):
        check_consistency(tiny_model, "base")


def test_the_check_leaves_the_model_as_it_is(tiny_model: Any) -> None:
    tokens = torch.arange(9)[None]
    before = tiny_model(tokens).logits
    check_consistency(tiny_model, "base")
    assert torch.equal(tiny_model(tokens).logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_loaded_in_full_and_not_trained(dtype: torch.dtype, tiny_model: Any, tiny_tokenizer: Any,
                                                          tmp_path: Path) -> None:
    half = tiny_model.to(dtype)
    with pytest.raises(InputError, match=f"weights are {str(dtype)[6:]}: load them in float32"):
        start_ppo(half, PPOConfig())
    loaded, _ = load_language_model(save(tmp_path, half, tiny_tokenizer))
    assert {x.dtype for x in loaded.parameters()} == {torch.float32} and loaded.dtype == torch.float32
    start_ppo(loaded, PPOConfig())


@pytest.mark.parametrize("settings", [
    {"do_sample": False, "temperature": 0.9, "top_p": 0.6}, {"num_beams": 1, "early_stopping": True},
    {"do_sample": True, "temperature": 0.0}, {"max_length": 50}])
def test_generation_settings_that_cannot_be_written_again(settings: dict[str, Any], tiny_model: Any, tmp_path: Path,
                                                          tiny_tokenizer: Any) -> None:
    folder = save(tmp_path / "base", tiny_model, tiny_tokenizer)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7], "bos_token_id": 5, **settings}))
    save_language_model(*load_language_model(folder), folder=tmp_path / "again")
    written = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    del written["transformers_version"]
    assert written == {"bos_token_id": 5, "eos_token_id": [0, 7], "pad_token_id": 1}


# --- the whole loop ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NORMALISED)
def test_the_saved_reward_model_gives_normalised_scores_to_anyone(kind: str, tiny_tokenizer: Any,
                                                                  tmp_path: Path) -> None:
    base = make(kind, tiny_tokenizer, NORMALISED[kind])
    check_base(base, tiny_tokenizer)
    model, tokenizer = reward_model_from(base, tiny_tokenizer, seed=0)
    prompts, endings = OPENINGS * len(ENDINGS), [ending for ending in ENDINGS for _ in OPENINGS]
    before = score_texts(model, tokenizer, prompts, endings)
    normalise(model, tokenizer, prompts, endings)
    save_language_model(model, tokenizer, tmp_path)

    plain: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    rows = token_rows(model, tokenizer, prompts, endings)
    tokens, lengths = pad_right(rows, tokenizer.pad_token_id), torch.tensor([len(row) for row in rows])
    mask = torch.arange(tokens.shape[1]) < lengths[:, None]
    with torch.no_grad():
        scores = plain(input_ids=tokens, attention_mask=mask.long()).logits.squeeze(-1)
    torch.testing.assert_close(scores, (before - before.mean()) / before.std(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", [*NO_COMMON_BIAS, *NO_CLASSIFIER])
def test_a_base_without_a_reward_model_is_refused_in_one_line(kind: str, tiny_tokenizer: Any) -> None:
    base = make(kind, tiny_tokenizer, LANGUAGE_MODELS[kind])
    reason = "no bias that moves every score alike" if kind in NO_COMMON_BIAS else "has no sequence classifier"
    with pytest.raises(InputError, match=f"{reason}.*: give a base such as GPT-2") as caught:
        check_base(base, tiny_tokenizer)
    assert "\n" not in str(caught.value)


def test_normalising_is_the_same_for_frozen_weights(tiny_model: Any, tiny_tokenizer: Any) -> None:
    model, tokenizer = reward_model_from(tiny_model, tiny_tokenizer, seed=0)
    model.requires_grad_(False)
    normalise(model, tokenizer, OPENINGS, ENDINGS[:1] * len(OPENINGS))
    assert score_texts(model, tokenizer, OPENINGS, ENDINGS[:1] * len(OPENINGS)).mean().abs() < 1e-4
    assert not any(x.requires_grad for x in model.parameters())


@pytest.fixture
def micro(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(tasks, "PPO_PROMPTS", 16)
    monkeypatch.setattr(pipeline, "NORMALISE_ON", 16)
    monkeypatch.setattr(results, "BEST_OF_PROMPTS", 4)
    return RunConfig(out=tmp_path / "run", foreign_sft_steps=2, demonstrations=16, openings=12, judged_by_all=2,
                     samples=4, sft=SFTConfig(steps=2, batch_size=8), reward=RewardConfig(epochs=1),
                     ppo=PPOConfig(iterations=1, episodes=4, minibatches=1, max_new_tokens=8))


def test_another_make_goes_through_the_whole_loop_and_knows_tales_after_it(micro: RunConfig, tiny_tokenizer: Any,
                                                                           tmp_path: Path) -> None:
    """Its generation settings could not be written again."""
    base = make("opt", tiny_tokenizer, {**OPT, "max_position_embeddings": 320})
    folder = save(tmp_path / "base", base, tiny_tokenizer)
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.9}')
    pipeline.run(replace(micro, base=str(folder)))
    assert not has_seen_tales(*load_language_model(folder))
    for name in ("sft", "policy", "policy_no_kl"):
        assert has_seen_tales(*load_language_model(micro.out / name))


@pytest.mark.parametrize("kind", ["llama", "codegen", "gemma2"])
def test_a_base_is_refused_before_anything_is_written(kind: str, micro: RunConfig, tiny_tokenizer: Any,
                                                      tmp_path: Path) -> None:
    shape = {**LANGUAGE_MODELS, "gemma2": REFUSED["gemma2"][0]}[kind]
    folder = save(tmp_path / "base", make(kind, tiny_tokenizer, shape), tiny_tokenizer)
    with pytest.raises(InputError, match="give a"):
        pipeline.run(replace(micro, base=str(folder)))
    assert not micro.out.exists()


def test_a_model_of_this_package_is_not_foreign(foreign: tuple[Any, Any], tmp_path: Path) -> None:
    for ours in (asset("tiny-tales-gpt2"), Path(__file__).parents[1] / "assets" / "run-3" / "sft"):
        sizes = choose_sizes(RunConfig(base=str(ours)), has_seen_tales(*load_language_model(ours)))
        assert (sizes.sft.steps, sizes.sft.learning_rate) == (RunConfig().sft.steps, RunConfig().sft.learning_rate)
    model, tokenizer = foreign
    assert not has_seen_tales(model, tokenizer)
    assert choose_sizes(RunConfig(), False).sft.steps == RunConfig().foreign_sft_steps
    note_tales(model)
    save_language_model(model, tokenizer, tmp_path)
    assert has_seen_tales(*load_language_model(tmp_path))
