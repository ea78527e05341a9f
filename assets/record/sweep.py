"""What happens when the reward is wrong? PPO at coefficients from 0 upwards, best of n, and a second round of labels.

Starts from a finished run and records what notebook 07 draws. A part is a few minutes on one core.

    coefficients      PPO at each coefficient: history, evaluation on held-out openings, a few stories
    adaptive          the same with the adaptive coefficient
    best_of_n         the best of 1, 2, 4, ... by the reward model, and by the gold reward as the perfect judge
    length            what the fine-tuned model writes: length, gold and proxy of every ending
    second_round      the simulated panel ranks endings of the policy without a penalty; refit, and run again
    nearby_round      the same about endings of the policy with a small one
    more_of_the_same  the control: as many new rankings, but of the fine-tuned model's endings only

    make record ONLY=sweep
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from keeping import rounded, write
from stages import FinishedRun, RewardModel, Storyteller, examples_of, fit, history_of, loop_of, made_once, ppo
from torch import Tensor

from rlhf_mini import rankings, tales
from rlhf_mini.config import PPOConfig, RewardConfig
from rlhf_mini.evaluate import Samples
from rlhf_mini.language_model import load_language_model, save_language_model
from rlhf_mini.metrics import evaluate_samples, example_stories, judge_tales
from rlhf_mini.pipeline import normalise_on_samples
from rlhf_mini.rankings import Ranking
from rlhf_mini.reward import load_reward_model
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.context import RunContext
from rlhf_mini.run.settings import fits_context
from rlhf_mini.run.tasks import ask_panel, seed_for, sorted_judgements
from rlhf_mini.sampling import best_of_n_index, best_of_n_kl

HISTORY = ("iteration", "score", "gold", "kl", "kl_coef", "coherent", "grammatical", "length", "ended", "entropy")
DEMONSTRATIONS = 2000  # as many as tell how long an ending may be; nothing is fine-tuned here
HACKED, NEARBY, SAME = ROUNDS = ("second_round", "nearby_round", "more_of_the_same")
ASKED_ABOUT = {HACKED: 0.0, NEARBY: 0.05}  # coefficient of the policy whose endings are labelled
REFIT = "refit"  # the part of a round that its others start from


@dataclass(frozen=True)
class Sizes:
    """How much is recorded; the rest is as in the run."""

    coefficients: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.8)
    again: tuple[float, ...] = (0.0, 0.05)  # coefficients that are run again with the refitted reward model
    iterations: int = PPOConfig().iterations
    episodes: int = PPOConfig().episodes
    samples: int = 512  # held-out openings of every evaluation
    stories: int = 6  # of each
    openings: int = 256  # held-out openings that best of n answers
    most: int = 64  # candidates of each; a power of two
    endings: int = 1024  # of the fine-tuned model, for the length of what the reward model likes
    labels: int = 200  # training openings of the second round
    epochs: int = RewardConfig().epochs


def settings(sizes: Sizes) -> dict[str, Any]:
    """What the recording depends on, besides the run."""
    return {"sizes": asdict(sizes), "ppo": asdict(PPOConfig()), "reward": asdict(RewardConfig())}


def parts(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    """Section and name of every part, and the parts whose models it needs."""
    names: dict[str, tuple[str, ...]] = {"about": (), "coefficients/sft": ()}
    names |= {f"coefficients/{kl_coef:g}": () for kl_coef in sizes.coefficients}
    names |= {f"adaptive/{PPOConfig().kl_coef:g}": (), "best_of_n/by": (), "length/endings": ()}
    for kind in ROUNDS:
        policies = {0.0, ASKED_ABOUT.get(kind, 0.0)} & set(sizes.coefficients)
        names[f"{kind}/{REFIT}"] = tuple(f"coefficients/{kl_coef:g}" for kl_coef in sorted(policies))
        names |= {f"{kind}/{kl_coef:g}": (f"{kind}/{REFIT}",) for kl_coef in sizes.again}
    return names


@dataclass(frozen=True)
class Bench:
    """A finished run, the loop with its settings, and a folder for models that later parts need."""

    run: FinishedRun
    work: Path
    sizes: Sizes
    loop: RunContext

    @property
    def sft(self) -> Storyteller:
        return self.run.sft

    @property
    def first(self) -> RewardModel:
        """The run's own reward model."""
        return self.run.reward_model


def begin(run: FinishedRun, work: Path, sizes: Sizes) -> Bench:
    """What every part starts from."""
    config = RunConfig(out=work, seed=run.seed, samples=sizes.samples, demonstrations=DEMONSTRATIONS)
    config = replace(config, reward=replace(config.reward, epochs=sizes.epochs),
                     ppo=replace(config.ppo, iterations=sizes.iterations, episodes=sizes.episodes))
    return Bench(run, work, sizes, loop_of(config, run.sft))


def make(part: str, work: Path, run: FinishedRun, sizes: Sizes) -> Any:
    """One part; `work` keeps the models that other parts need, and they are made again where it is lost."""
    bench = begin(run, work, sizes)
    section, _, name = part.partition("/")
    if section == "about":
        return {"seed": run.seed, "sizes": asdict(sizes), "ppo": asdict(bench.loop.config.ppo)}
    if section == "best_of_n":
        return picked_by_each(bench)
    if section == "length":
        samples = plain_endings(bench)
        return listed(facts(samples, bench.first.of_samples(samples)))
    if name == "sft":
        return evaluated(bench, bench.sft, bench.first)[1]
    if section == "adaptive":
        return {"target": bench.loop.config.ppo.kl_target, **swept(bench, float(name), bench.first, adaptive=True)}
    if section == "coefficients":
        return swept(bench, float(name), bench.first)
    return second_round(bench, section) if name == REFIT else swept(bench, float(name), refitted(bench, section))


def gather(found: dict[str, Any], out: Path) -> None:
    """All parts as one file of sections; what came of a refit stands in its section."""
    recorded: dict[str, Any] = {}
    for part, value in found.items():
        section, _, name = part.partition("/")
        recorded.setdefault(section, {}).update(value if name in ("", REFIT) else {name: value})
    write(out, rounded(recorded))


# --- PPO --------------------------------------------------------------------------------------------------------


def swept(bench: Bench, kl_coef: float, judge: RewardModel, adaptive: bool = False) -> dict[str, Any]:
    """PPO from the fine-tuned model, in the run's own settings but for the coefficient; and what came of it.

    Where the reward model is not the first, the first one is asked, too.
    """
    config = replace(bench.loop.config.ppo, kl_coef=kl_coef, adaptive=adaptive)
    policy, training = ppo(bench.sft, judge.of_rollout, bench.loop.task.prompts, config)
    lines = history_of(bench.loop, training)
    policy.model.requires_grad_(False)
    samples, found = evaluated(bench, policy, judge)
    if judge is not bench.first:
        found["evaluation"]["proxy_first"] = bench.first.of_samples(samples).mean().item()
    elif not adaptive and kl_coef in ASKED_ABOUT.values():
        made_once(policy_folder(bench, kl_coef), lambda at: save_language_model(policy.model, policy.tokenizer, at))
    history = {key: [line[key] for line in lines] for key in HISTORY}
    return {"kl_coef": kl_coef, "adaptive": adaptive, **found, "history": history}


def evaluated(bench: Bench, policy: Storyteller, judge: RewardModel) -> tuple[Samples, dict[str, Any]]:
    """What a policy makes of the held-out openings: the endings, their figures, and the first few stories."""
    samples = bench.loop.sample(policy.model, bench.loop.task.held_out, "evaluation", bench.sft.model,
                                 judge.of_rollout)
    first = example_stories({"policy": samples}, True, bench.sizes.stories)
    return samples, {"evaluation": evaluate_samples(samples),
                     "stories": [{"opening": story["opening"], **story["policy"]} for story in first]}


def policy_folder(bench: Bench, kl_coef: float) -> Path:
    """Where the first round's policy at a coefficient is kept."""
    return bench.work / f"policy-{kl_coef:g}"


def policy_of(bench: Bench, kl_coef: float) -> Any:
    """The first round's policy at one of the coefficients asked about, trained again where its folder is gone."""
    folder = policy_folder(bench, kl_coef)
    if not folder.exists():
        swept(bench, kl_coef, bench.first)
    return load_language_model(folder)[0]


# --- what the fine-tuned model writes ---------------------------------------------------------------------------


def picked_by_each(bench: Bench) -> dict[str, list[dict[str, float]]]:
    """Means over what each of the two judges, reward model and panel, picks, for n = 1, 2, 4, ..."""
    most = bench.sizes.most
    openings = [opening for opening in bench.loop.task.held_out[:bench.sizes.openings] for _ in range(most)]
    samples = bench.loop.sample(bench.sft.model, openings, "best of n", score=bench.first.of_rollout)
    known = facts(samples, samples.proxy.double())
    return {by: [picked(known, by, 2 ** k) for k in range(most.bit_length())] for by in ("proxy", "gold")}


def facts(samples: Samples, proxy: Tensor) -> dict[str, Tensor]:
    """What is known of each ending, as columns. Shapes: (N,) each. Units: `length` in tokens, the EOS included."""
    return {"proxy": proxy, **judge_tales(samples.prompts, samples.endings),
            "length": torch.tensor(samples.lengths, dtype=torch.float64)}


def listed(known: dict[str, Tensor]) -> dict[str, list[float]]:
    """The columns as lists."""
    return {name: column.tolist() for name, column in known.items()}


def picked(known: dict[str, Tensor], by: str, n: int) -> dict[str, float]:
    """Means over the best of every n endings in a row, by one of the columns, and the KL bound."""
    groups = known[by].view(-1, n)
    index = torch.arange(len(groups)) * n + best_of_n_index(groups)
    return {"n": n, "kl": best_of_n_kl(n), **{name: column[index].double().mean().item()
                                              for name, column in known.items()}}


def plain_endings(bench: Bench) -> Samples:
    """One ending of the fine-tuned model for each of many held-out openings."""
    openings = tales.openings(bench.sizes.endings, seed_for(bench.run.seed, "length"), "held_out")
    return bench.loop.sample(bench.sft.model, openings, "length")


# --- a second round of labels -----------------------------------------------------------------------------------


def second_round(bench: Bench, kind: str) -> dict[str, Any]:
    """New labels, a reward model fitted on old and new ones, and what it says."""
    judge = refitted(bench, kind)
    return {"labels": counted(new_labels(bench, kind)), "reward_model": compared(bench, judge),
            "length": judge.of_samples(plain_endings(bench)).tolist()}


def new_labels(bench: Bench, kind: str) -> list[Ranking]:
    """The simulated panel's rankings of four endings for each of some training openings, one annotator each.

    In a second round two endings of the policy stand beside two of the fine-tuned model. Four of the policy without a
    penalty would mostly be nonsense: equal to the panel, ordered by its noise, and so no lesson. Beside a sensible
    ending the nonsense loses for certain, and the two sensible ones keep the old lesson fresh.
    """
    loop, sft = bench.loop, bench.sft
    openings = tales.openings(bench.sizes.labels, seed_for(bench.run.seed, "second round"), "train")
    writers = [policy_of(bench, ASKED_ABOUT[kind]) if kind in ASKED_ABOUT else sft.model, sft.model]
    four = [loop.sample(writer, openings, f"{kind} {half} {copy}").endings
            for half, writer in enumerate(writers) for copy in range(2)]
    items = [(opening, list(endings)) for opening, *endings in zip(openings, *four, strict=True)]
    items = [(opening, endings) for opening, endings in items
             if all(fits_context(sft.model, sft.tokenizer, [opening] * 4, endings))]
    with tempfile.TemporaryDirectory() as folder:
        return sorted_judgements(ask_panel(items, 0, Path(folder), bench.run.seed))


def counted(labels: Sequence[Ranking]) -> dict[str, Any]:
    """How many rankings and pairs there are, in how many pairs one ending makes no sense, and how those went."""
    pairs = rankings.to_pairs(labels)
    sense = [(tales.read(opening, better).coherent, tales.read(opening, worse).coherent)
             for opening, better, worse in pairs]
    mixed = [better for better, worse in sense if better != worse]
    return {"rankings": len(labels), "pairs": len(pairs), "sense_against_nonsense": len(mixed),
            "sense_won": sum(mixed)}


def refitted(bench: Bench, kind: str) -> RewardModel:
    """A reward model fitted, from the fine-tuned model, on the run's rankings and the new ones; kept in a folder."""
    def fit_again(folder: Path) -> None:
        examples = examples_of(bench.run.judgements[0] + new_labels(bench, kind))
        judge, _ = fit(bench.sft, examples, bench.loop.config.reward)
        normalise_on_samples(bench.loop, bench.sft.model, judge.model, judge.tokenizer)
        save_language_model(judge.model, judge.tokenizer, folder)

    return RewardModel(*load_reward_model(made_once(bench.work / f"reward_model-{kind}", fit_again)))


def compared(bench: Bench, judge: RewardModel) -> dict[str, Any]:
    """The first and the refitted reward model on the same texts.

    Accuracy is on the run's held-out pairs. On held-out openings the policy without a penalty and the fine-tuned model
    wrote an ending each: their scores by both, and their gold reward.
    """
    pairs = rankings.to_pairs(bench.run.judgements[1])
    found: dict[str, Any] = {"accuracy": {"first": bench.first.accuracy(pairs), "refitted": judge.accuracy(pairs)},
                             "pairs_test": len(pairs)}
    for name, policy in (("hacked", policy_of(bench, 0.0)), ("sft", bench.sft.model)):
        samples = bench.loop.sample(policy, bench.loop.task.held_out[:bench.sizes.openings], "evaluation")
        known = facts(samples, bench.first.of_samples(samples)) | {"refitted": judge.of_samples(samples)}
        found[name] = listed(known)
    return found
