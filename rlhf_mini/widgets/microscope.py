"""The KL microscope: one ending, token by token, with every number that PPO has for it.

    views = look(policy, reference, rollout, row, scores, config, tokenizer)
    picture(views)                       # for those who read
    KLMicroscope(views, config.kl_coef)  # for those who press
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn

from rlhf_mini import kl
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.forward import lm_logits
from rlhf_mini.kl import full_precision
from rlhf_mini.plots import STYLES
from rlhf_mini.policy import response_states
from rlhf_mini.ppo import gae, shaped_rewards
from rlhf_mini.sampling import Rollout

Choices = tuple[tuple[str, float], ...]  # a token's text and its probability, the likeliest first
PAPER, INK, WARM = (255, 255, 255), "#111111", (0xD5, 0x5E, 0x00)
FAINTEST = 0.1  # nats: in an ending with less KL than this everywhere, no chip gets the full colour
PLAIN, PRESSED = "2px solid #BBBBBB", "2px solid #0072B2"


@dataclass(frozen=True)
class TokenView:
    """One token of an ending. Units: nats for log-probabilities and KL, scores for reward, value, advantage."""

    text: str
    logp: float
    logp_ref: float
    k1: float
    k2: float
    k3: float
    kl: float  # exact, over the whole vocabulary
    score: float  # the reward model's, on the last token; 0 elsewhere
    reward: float  # what PPO uses: the score, minus the coefficient times k1
    value: float
    advantage: float  # before whitening, which needs the whole batch
    policy_choices: Choices
    reference_choices: Choices


@torch.no_grad()
def look(policy: nn.Module, reference: nn.Module, rollout: Rollout, row: int, scores: Tensor, config: PPOConfig,
         tokenizer: Any, choices: int = 3) -> list[TokenView]:
    """All that an iteration of PPO knows of the live tokens of one row, one view per token.

    Shapes: scores (B,), as for the whole rollout.
    Raises: InputError where this policy has changed since it wrote the rollout.
    """
    part = rollout.select(torch.tensor([row]))
    alive = part.mask[0]
    logits = full_precision(lm_logits(policy, part.hidden[0][alive])) / config.temperature  # (N, V): live tokens only
    logits_ref = full_precision(lm_logits(reference, response_states(reference, part))) / config.temperature  # (N, V)
    tokens, logp, values = part.tokens[0][alive], part.logp[0][alive], rollout.values[row][alive]  # (N,)
    moved = (kl.token_logprobs(logits, tokens) - logp).abs().max().item()
    if not moved < 1e-3:
        raise InputError(f"this policy's log-probabilities differ by up to {moved:.2g} from the rollout's: sample the "
                         "endings anew from the policy as it is now, at the config's temperature")
    logp_ref, mask = kl.token_logprobs(logits_ref, tokens), torch.ones_like(logp)[None]
    score = torch.zeros_like(logp)
    score[-1] = scores[row]
    rewards = shaped_rewards(score[-1:], logp[None], logp_ref[None], mask, config.kl_coef)  # (1, N)
    advantages, _ = gae(rewards, values[None], mask, config.gamma, config.lam)
    columns = {"logp": logp, "logp_ref": logp_ref, "k1": kl.estimate(logp, logp_ref, "k1"),
               "k2": kl.estimate(logp, logp_ref, "k2"), "k3": kl.estimate(logp, logp_ref, "k3"),
               "kl": kl.exact(logits, logits_ref), "score": score, "reward": rewards[0], "value": values,
               "advantage": advantages[0]}
    ours, theirs = (_choices(x, tokenizer, choices) for x in (logits, logits_ref))
    return [TokenView(text=_name(tokenizer, token), policy_choices=ours[place], reference_choices=theirs[place],
                      **{name: column[place].item() for name, column in columns.items()})
            for place, token in enumerate(tokens.tolist())]


def describe(view: TokenView, kl_coef: float) -> list[str]:
    """The numbers of one token as sentences of plain text."""
    earned = f"Reward {view.reward:+.3f}: -{kl_coef:g} x k1"
    if view.score:
        earned += f", and {view.score:+.2f} for the whole ending, from the reward model"
    outcome = "better" if view.advantage > 0 else "worse"
    return [
        f"{_shown(view.text)!r} had {math.exp(view.logp):.1%} under the policy ({view.logp:.2f} nats) and "
        f"{math.exp(view.logp_ref):.1%} under the reference ({view.logp_ref:.2f} nats).",
        f"Estimates from this token alone: k1 {view.k1:+.3f}, k2 {view.k2:.3f}, k3 {view.k3:.3f} nats. "
        f"Exact KL here, over every token that could have stood here: {view.kl:.3f} nats.",
        f"{earned}.",
        f"Value {view.value:+.2f}: what was expected from here on. Advantage {view.advantage:+.2f}: this token and "
        f"what followed went {outcome} than that.",
        f"The policy's favourites here: {_listed(view.policy_choices)}.",
        f"The reference's favourites here: {_listed(view.reference_choices)}.",
    ]


def picture(views: Sequence[TokenView]) -> NDArray[Any]:
    """The same numbers as four rows of a still picture, the tokens along the bottom; returns its Axes."""
    _, axes = plt.subplots(4, 1, figsize=(max(6.0, 1.2 + 0.27 * len(views)), 8.2), sharex=True, layout="constrained",
                           height_ratios=(3, 3, 2, 3))
    places, policy, reference = range(len(views)), STYLES["ppo"], STYLES["sft"]
    _row(axes[0], "Log-probability of each token", "nats")
    axes[0].plot(places, [v.logp_ref for v in views], color=reference.color, linestyle=":", marker=reference.marker,
                 markersize=4, linewidth=1, label="reference")
    axes[0].plot(places, [v.logp for v in views], color=policy.color, marker=policy.marker, markersize=4,
                 linewidth=1.4, label="policy")
    _row(axes[1], f"KL: {sum(v.kl for v in views):.2f} nats over the ending, exactly; "
                  f"{sum(v.k1 for v in views):+.2f} by k1", "nats")
    axes[1].bar(places, [v.kl for v in views], color="#D55E00", label="exact, at each place")
    axes[1].plot(places, [v.k1 for v in views], color="#000000", linestyle="none", marker="_", markersize=9,
                 markeredgewidth=1.6, label="k1, which is what the reward charges")
    _row(axes[2], f"Reward: the charge for k1 everywhere, the score at the end; {sum(v.reward for v in views):+.2f} "
                  "in all", "score")
    axes[2].bar(places, [v.reward for v in views], color="#009E73")
    _row(axes[3], "Value and advantage", "score")
    axes[3].bar(places, [v.advantage for v in views], color="#56B4E9", label="advantage: better than expected?")
    axes[3].plot(places, [v.value for v in views], color="#000000", linestyle="--", marker=".", linewidth=1,
                 label="value: what was expected")
    for ax in axes[[0, 1, 3]]:
        ax.legend(fontsize=8, frameon=False, ncols=2)
    axes[3].set_xticks(places, [_shown(v.text) for v in views], rotation=90, fontsize=9, parse_math=False)
    axes[3].set_xlim(-0.7, len(views) - 0.3)
    return axes


class KLMicroscope(ipywidgets.VBox):
    """The ending as a row of buttons, warmer where the exact KL is larger; a press puts that token under the lens."""

    def __init__(self, views: Sequence[TokenView], kl_coef: float) -> None:
        if not views:
            raise InputError("there are no tokens to look at: give the views that `look` returns")
        self.views, self.kl_coef, self.chosen = list(views), kl_coef, -1
        full = max(FAINTEST, *(view.kl for view in views))
        self.chips = [_chip(view, max(0.0, view.kl) / full) for view in views]
        for place, chip in enumerate(self.chips):
            chip.on_click(lambda _, place=place: self.choose(place))
        self.words = ipywidgets.HTML()
        row = ipywidgets.Box(self.chips, layout=ipywidgets.Layout(flex_flow="row wrap"))
        head = _html([f"Press a token. The warmer its colour, the larger its KL; the warmest is {full:.2f} nats."])
        super().__init__([head, row, self.words])
        self.choose(max(range(len(views)), key=lambda place: views[place].kl))

    def choose(self, place: int) -> None:
        """Do what a press on the token at this place does."""
        if self.chosen >= 0:
            self.chips[self.chosen].layout.border = PLAIN
        self.chosen = place
        self.chips[place].layout.border = PRESSED
        sentences = describe(self.views[place], self.kl_coef)
        self.words.value = _html([f"Token {place + 1} of {len(self.views)}. {sentences[0]}", *sentences[1:]]).value

    def __repr__(self) -> str:
        return f"KLMicroscope of {len(self.views)} tokens: run this cell to press them"


def _chip(view: TokenView, heat: float) -> ipywidgets.Button:
    """A button: the front end shows its description as text, whatever a model wrote there."""
    colour = "#" + "".join(f"{round(a + heat * (b - a)):02x}" for a, b in zip(PAPER, WARM, strict=True))
    return ipywidgets.Button(description=_shown(view.text), tooltip=f"KL {view.kl:.3f} nats",
                             style={"button_color": colour, "text_color": INK},
                             layout={"width": "auto", "margin": "2px", "border": PLAIN})


def _html(sentences: Sequence[str]) -> ipywidgets.HTML:
    return ipywidgets.HTML("".join(f'<div style="line-height: 1.5">{escape(sentence)}</div>' for sentence in sentences))


def _listed(choices: Choices) -> str:
    return ", ".join(f"{_shown(text)!r} {probability:.1%}" for text, probability in choices)


def _shown(text: str) -> str:
    """A token without the space before it; a hyphen says that there was none, and that a word goes on."""
    return f"-{text}" if text[:1].isalnum() else text.strip() or repr(text)


def _row(ax: Axes, title: str, unit: str) -> None:
    ax.set_title(title, loc="left", fontsize=10, fontweight="bold")
    ax.set_ylabel(unit, fontsize=9)
    ax.axhline(0, color="#8C8C8C", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", linewidth=0.7)
    ax.set_axisbelow(True)


def _choices(logits: Tensor, tokenizer: Any, count: int) -> list[Choices]:
    """The likeliest tokens at each state. Shapes: (N, V) -> N choices."""
    top = logits.float().softmax(-1).topk(min(count, logits.shape[-1]))
    return [tuple((_name(tokenizer, token), p) for token, p in zip(tokens, probabilities, strict=True))
            for tokens, probabilities in zip(top.indices.tolist(), top.values.tolist(), strict=True)]


def _name(tokenizer: Any, token: int) -> str:
    return "(end)" if token == tokenizer.eos_token_id else tokenizer.decode([token])
