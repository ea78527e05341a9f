"""The pictures of notebook 05: estimates, rewards, credit, the clip, a controller, and the world of 64 endings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlhf_mini import kl, ppo
from rlhf_mini.plots import STYLES, labelled_axes
from rlhf_mini.plots.backend import picture, subplots
from rlhf_mini.teaching.policy_gradient import estimates, exact_gradient
from rlhf_mini.teaching.ppo_lesson import share_of_best, slope_by_logp
from rlhf_mini.teaching.tiny_world import TinyWorld

if TYPE_CHECKING:  # plots imports matplotlib, in its own way
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, SKY = (STYLES[name].color for name in ("ppo", "ppo_no_kl", "best_of_16", "best_of_4"))
GREY = STYLES["base"].color
BETA_LOOKS = {0.1: (BLUE, "-"), 0.5: (GREEN, "--"), 2.0: (ORANGE, "-.")}


def beside(ax: Axes, text: str, at: tuple[float, float], colour: str, shift: tuple[float, float] = (5, 0),
           ha: str = "left") -> None:
    """A label next to what it names."""
    ax.annotate(text, at, xytext=shift, textcoords="offset points", color=colour, fontsize=9, va="center", ha=ha)


@picture
def three_estimates(ax: Axes | None = None) -> Axes:
    """k1, k2 and k3 over the log-ratio of the sampled token."""
    ax = labelled_axes(ax, "Three estimates of the same KL", "ln π − ln π_ref of the sampled token (nats)",
                       "estimate (nats)")
    x = torch.linspace(-3, 3, 121)
    for kind, colour, dash, at in (("k1", BLUE, "-", 120), ("k2", GREEN, ":", 120), ("k3", ORANGE, "--", 120)):
        y = kl.estimate(x, torch.zeros(121), kind)  # type: ignore[arg-type]
        ax.plot(x.numpy(), y.numpy(), dash, color=colour, linewidth=2)
        beside(ax, kind, (x[at].item(), y[at].item()), colour)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(ylim=(-3.5, 8), xlim=(-3, 3.3))
    return ax


@picture
def reward_of_each_token(words: Sequence[str], cost: Tensor, score: float, ax: Axes | None = None) -> Axes:
    """Score − KL cost, token by token: the cost of each, and the score on the last. Shapes: cost (T,)."""
    ax = labelled_axes(ax, "The shaped reward of one ending", "token", "reward (s.d. of the score)")
    places = range(len(words))
    ax.bar(places, cost.tolist(), color=ORANGE)
    ax.bar(places[-1], score, bottom=max(0.0, cost[-1].item()), color=BLUE, hatch="//", edgecolor="white")
    for place, height in zip(places, cost.tolist(), strict=True):
        above = height > 0 and place != places[-1]
        ax.annotate(f"{height:+.2f}" if height else "0", (place, height), xytext=(0, 3 if above else -3),
                    textcoords="offset points", ha="center", va="bottom" if above else "top", fontsize=8, color=ORANGE)
    beside(ax, f"score {score:+.1f}", (places[-1] - 0.4, score / 2), BLUE, (-5, 0), "right")
    beside(ax, "KL cost: −β (ln π − ln π_ref)", (-0.4, 0.3), ORANGE, (0, 0))
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(places, words)
    ax.set_ylim(min(cost.min().item(), 0) - 0.3, score + 0.2)
    ax.grid(visible=False, axis="x")
    return ax


@picture
def credit(tokens: int, lams: Sequence[float], ax: Axes | None = None) -> Axes:
    """How much of a score at the end reaches each token of an ending, for some λ: a heat map."""
    if ax is None:
        _, ax = subplots(figsize=(8.2, 0.9 + 0.5 * len(lams)), layout="constrained")
    ax = labelled_axes(ax, "Where the credit for the score goes", "token of the ending; the score comes on the last",
                       "")
    score = torch.zeros(1, tokens)
    score[0, -1] = 1
    rows = torch.cat([ppo.gae(score, torch.zeros(1, tokens), torch.ones(1, tokens), 1.0, lam)[0] for lam in lams])
    ax.imshow(rows.numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
    for row, share in enumerate(rows):
        for place, ha in ((0, "left"), (tokens // 2, "center")):
            x = share[place].item()
            ax.text(place - 0.3 * (place == 0), row, f"{x:.1%}" if x < 0.995 else "100 %", fontsize=9, va="center",
                    ha=ha, color="white" if x > 0.5 else "black")
        ax.text(tokens - 0.2, row, "100 %", fontsize=9, va="center")
    ax.set_yticks(range(len(lams)), [f"λ = {lam}" for lam in lams])
    ax.set_xticks([0, *range(9, tokens, 10)], ["1", *(str(t + 1) for t in range(9, tokens, 10))])
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


@picture
def gradient_spread(logits: Tensor, reward: Tensor, baselines: dict[str, float], size: int = 32,
                    ax: Axes | None = None) -> Axes:
    """Estimates of the last token's gradient, one dot for each batch, with every baseline; a line at the exact one."""
    if ax is None:
        _, ax = subplots(figsize=(6.8, 2.5), layout="constrained")
    ax = labelled_axes(ax, f"The same gradient from {size} samples, 200 times",
                       "estimated gradient of E[r] by the last token's logit", "")
    jitter = torch.rand(200, generator=torch.Generator().manual_seed(1)) - 0.5  # so that dots do not hide each other
    for row, (style, baseline) in enumerate(zip((STYLES["ppo_no_kl"], STYLES["ppo"]), baselines.values(), strict=True)):
        found = estimates(logits, reward, baseline, len(jitter), size)[:, -1]
        ax.plot(found.numpy(), (row + 0.6 * jitter).numpy(), style.marker, color=style.color, markersize=3, alpha=0.6)
    exact = exact_gradient(logits, reward)[-1].item()
    ax.axvline(exact, color="black", linewidth=1.2, linestyle=":")
    beside(ax, "exact", (exact, 1.55), "black")
    ax.set_yticks(range(len(baselines)), list(baselines))
    ax.set_ylim(-0.5, 1.8)
    ax.grid(visible=False, axis="y")
    return ax


@picture
def clip_and_gradient(axes: Any = None) -> Any:
    """The surrogate (minus the loss) and its gradient over the ratio, for a good and for a bad token."""
    if axes is None:
        _, axes = subplots(2, 2, figsize=(8.6, 4.8), sharex=True, layout="constrained", height_ratios=(3, 2))
    ratios = np.linspace(0.2, 1.8, 321)
    for column, advantage, colour, flat in ((0, 1.0, BLUE, 1.5), (1, -1.0, ORANGE, 0.5)):
        points = [slope_by_logp(ppo.policy_loss, ratio, advantage) for ratio in ratios]
        name = "A = +1: a good token" if advantage > 0 else "A = −1: a bad token"
        top = labelled_axes(axes[0, column], name, "", "surrogate (minus the loss)" if column == 0 else "")
        below = labelled_axes(axes[1, column], "", "ratio ρ", "gradient by logp" if column == 0 else "")
        top.plot(ratios, advantage * ratios, ":", color=GREY)
        top.plot(ratios, [-loss for loss, _ in points], color=colour, linewidth=2)
        top.plot(1, advantage, "o", color="black")
        beside(top, "not clipped", (flat, advantage * flat), "#555555", (-8, 12) if advantage > 0 else (8, 12),
               "right" if advantage > 0 else "left")
        beside(top, "start of a batch", (1, advantage), "black", (8, -10) if advantage > 0 else (-8, -10),
               "left" if advantage > 0 else "right")
        slopes = np.array([-slope for _, slope in points])
        below.plot(ratios, np.where(np.abs(np.gradient(slopes)) > 0.2, np.nan, slopes), color=colour, linewidth=2)
        beside(below, "0: the clip", (flat, 0), colour, (0, 10 if advantage > 0 else -10), "center")
        below.set_ylim(-0.5, 1.6) if advantage > 0 else below.set_ylim(-2.0, 0.5)
        for ax in (top, below):
            ax.axvspan(0.8, 1.2, color=GREY, alpha=0.15, linewidth=0)
    return axes


@picture
def controlled(nats: Sequence[float], coefficients: Sequence[float], target: float, axes: Any = None) -> Any:
    """The KL of a run beside the coefficient that follows it."""
    if axes is None:
        _, axes = subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    for ax, column, colour, title, unit in ((axes[0], nats, BLUE, "KL", "nats per ending"),
                                            (axes[1], coefficients, ORANGE, "KL coefficient", "score per nat")):
        labelled_axes(ax, title, "iteration", unit)
        ax.plot(range(1, len(column) + 1), column, color=colour, linewidth=2)
    axes[0].axhline(target, color="black", linestyle=":")
    beside(axes[0], "target", (len(nats), target), "black", (0, 8), "right")
    return axes


@picture
def ratios_after(ratios: Tensor, clip: float, ax: Axes | None = None) -> Axes:
    """A histogram of the ratios after an update; the outer bars hold all that lie beyond. Shapes: (N,)."""
    if ax is None:
        _, ax = subplots(figsize=(6.4, 3.2), layout="constrained")
    ax = labelled_axes(ax, "Ratios after four steps", "ratio ρ (the outer bars hold all beyond 0.5 and 1.5)",
                       "tokens (log scale)")
    ax.hist(ratios.clamp(0.5, 1.5).numpy(), bins=60, color=BLUE)
    ax.set_yscale("log")
    for edge in (1 - clip, 1 + clip):
        ax.axvline(edge, color="black", linestyle=":")
    ax.text(1 + clip + 0.01, 0.92, "clip", transform=ax.get_xaxis_transform(), fontsize=9)
    return ax


# --- the world of 64 endings ------------------------------------------------------------------------------------


def world_bars(ax: Axes, world: TinyWorld, beta: float, logp: Tensor) -> None:
    """The probabilities of all endings, worst to best: PPO's, the reference's, and those of the best policy."""
    order = world.reward.argsort()
    labelled_axes(ax, f"β = {beta}", "endings, worst to best", "probability (log scale)")
    ax.stairs(logp[order].exp().numpy(), baseline=1e-9, fill=True, color=SKY, label="PPO")
    ax.stairs(world.logp_ref[order].exp().numpy(), baseline=None, color="black", linewidth=1, label="reference")
    ax.stairs(world.optimum(beta)[0][order].exp().numpy(), baseline=None, color=ORANGE, linewidth=1.6, label="π*")
    ax.set(yscale="log", ylim=(3e-5, 5))


@picture
def world_so_far(world: TinyWorld, rows: Sequence[tuple[float, Tensor]], axes: Any = None) -> Any:
    """While PPO trains: the endings of the newest policy, and the share of J* that each run has reached."""
    if axes is None:
        _, axes = subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    world_bars(axes[0], world, *rows[-1])
    axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
    labelled_axes(axes[1], "J / J*", "iteration", "share of what can be gained")
    for beta, (colour, dash) in BETA_LOOKS.items():
        reached = [share_of_best(world, b, logp) for b, logp in rows if b == beta]  # after each iteration
        axes[1].plot(range(1, len(reached) + 1), reached, dash, color=colour, label=f"β = {beta}")
    axes[1].set(xlim=(0, 60), ylim=(0, 1.05))
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    return axes


@picture
def world_ends(world: TinyWorld, ends: dict[float, Tensor], axes: Any = None) -> Any:
    """The endings of the last policy at each beta, side by side."""
    if axes is None:
        _, axes = subplots(1, len(ends), figsize=(4 * len(ends), 3.4), sharey=True, squeeze=False, layout="constrained")
        axes = axes[0]
    for ax, (beta, logp) in zip(axes, ends.items(), strict=True):
        world_bars(ax, world, beta, logp)
    for ax in axes[1:]:
        ax.set_ylabel("")
    axes[min(1, len(ends) - 1)].legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
    return axes
