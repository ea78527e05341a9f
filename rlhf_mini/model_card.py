"""The model card of the embedded checkpoint: recipe, held-out loss, coherence, samples, hashes."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from rlhf_mini import tales
from rlhf_mini.evaluate import sample_endings
from rlhf_mini.language_model import encode
from rlhf_mini.sft import mean_loss

HELD_OUT_TALES = 2_000
JUDGED = 512  # endings that the reader judges
NAME = "tiny-tales-gpt2"
CARD = """---
{head}
---
# tiny-tales-gpt2

The pretrained model that `rlhf_mini` starts from: GPT-2 with {parameters:,} parameters ({n_layer} layers, width
{n_embd}, {n_head} heads, {n_positions} positions, no dropout) and a byte-level BPE vocabulary of {vocab_size:,}
tokens, with a pad token of its own. Its corpus is one small world: very short tales, and notices, letters, rhymes
and recipes from the same villages. It was trained on synthetic text only.

## How it was made
`python -m rlhf_mini pretrain --out DIR` builds it again: {documents:,} pages of two pieces each from
the project's own grammar ({tokens:,} tokens, each seen once, seed {seed}), in batches of at most
{batch_tokens:,} tokens, padding included ({steps:,} steps); Muon for the matrices and AdamW for the rest; a learning
rate of {learning_rate:g}, with a warm-up over {warmup:.0%} of the steps and then down to zero in a line.
One opening in eight is held out and never occurs.

## How good it is
| | nats per token |
|---|---|
| loss on {held_out:,} tales with held-out openings (ending and end-of-text) | {loss:.3f} |
| entropy of the grammar (mean of -ln p of the same endings) | {entropy:.3f} |
| the uniform distribution (ln {vocab_size:,}) | {uniform:.3f} |

Of {judged} endings for held-out openings, sampled at temperature 0.7 and cut at their first line break, the program
that reads tales finds {coherent:.1%} coherent.

The loss is higher than the entropy mostly because of the corpus: after a tale, a page continues with another piece
instead of the end of the text. `tales.log_probability` gives ln p of an ending: over all ways to write it, and with
the tries that the writer drops as stuck or too long.

## Samples
At temperature 1, without top-k or top-p, cut after 64 tokens (so most stop in mid-sentence); / is a line break:

{samples}

## Files
{hashes}
"""


def card(out: Path, model: Any, tokenizer: Any, recipe: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """The model card, with figures for the hub in its head.

    `recipe` holds the settings of pretraining by name, `counts` the numbers of documents, tokens and steps.
    """
    pairs = [tales.write(seed, "held_out") for seed in range(HELD_OUT_TALES)]
    tokens = sum(len(row) + 1 for row in encode(tokenizer, [" " + ending for _, ending in pairs]))
    openings = random.Random(recipe["seed"]).sample([opening for opening, _ in pairs], 8)
    endings = sample_endings(model, tokenizer, openings, max_new_tokens=64, temperature=1.0,
                             seed=recipe["seed"]).endings
    loss, coherent = mean_loss(model, tokenizer, pairs), coherent_share(model, tokenizer, recipe["seed"])
    samples = "\n".join(f"> **{opening}** {' / '.join(ending.splitlines())}\n"
                        for opening, ending in zip(openings, endings, strict=True))
    hashes = "\n".join(f"- `{f.name}` sha256 `{hashlib.sha256(f.read_bytes()).hexdigest()}`"
                       for f in sorted(out.iterdir()) if f.suffix in (".safetensors", ".json"))
    shape = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return CARD.format(
        parameters=model.num_parameters(), n_layer=shape["n_layer"], n_embd=shape["n_embd"], n_head=shape["n_head"],
        n_positions=shape["n_positions"], vocab_size=shape["vocab_size"], documents=counts["documents"],
        tokens=counts["tokens"], steps=counts["steps"], seed=recipe["seed"],
        batch_tokens=recipe["batch_tokens"], learning_rate=recipe["learning_rate"], warmup=recipe["warmup"],
        held_out=HELD_OUT_TALES,
        head=head(loss, coherent), loss=loss, judged=JUDGED, coherent=coherent,
        entropy=-sum(tales.log_probability(*pair) for pair in pairs) / tokens,
        uniform=math.log(shape["vocab_size"]), samples=samples, hashes=hashes)


def coherent_share(model: Any, tokenizer: Any, seed: int) -> float:
    """The share of endings that the reader calls coherent. The model does not stop: what counts is the first line."""
    openings = tales.openings(JUDGED, seed, "held_out")
    told = sample_endings(model, tokenizer, openings, max_new_tokens=64, temperature=0.7, seed=seed).endings
    return sum(tales.read(opening, ending.split("\n")[0]).coherent
               for opening, ending in zip(openings, told, strict=True)) / JUDGED


def head(loss: float, coherent: float) -> str:
    """The head of the card in YAML, as the hub reads it."""
    about: dict[str, Any] = {"task_type": "text-generation", "dataset_type": "synthetic",
                             "dataset_name": "tales, held-out openings"}
    found = {"loss": ("nats per token", loss), "coherence": ("share of coherent endings", coherent)}
    results = [EvalResult(**about, metric_type=kind, metric_name=name, metric_value=round(value, 3))
               for kind, (name, value) in found.items()]
    return str(ModelCardData(language="en", license="apache-2.0", library_name="transformers",
                             pipeline_tag="text-generation", tags=["gpt2", "rlhf_mini", "synthetic"], model_name=NAME,
                             eval_results=results).to_yaml())
