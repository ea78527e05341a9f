"""What happens when the reward is wrong? PPO at coefficients from 0 upwards, best of n, and a second round of labels.

Starts from a finished run and records what notebook 07 draws. What --out already holds is not done again, so a
stopped recording goes on where it was; --only does one part. A PPO run takes two to four minutes on two cores.

    coefficients      PPO at each coefficient: history, evaluation on held-out openings, a few stories
    adaptive          the same with the adaptive coefficient
    best_of_n         the best of 1, 2, 4, ... by the reward model, and by the gold reward as the perfect judge
    length            what the fine-tuned model writes: length, gold and proxy of every ending
    second_round      the simulated panel ranks endings of the policy without a penalty; refit, and run again
    nearby_round      the same about endings of the policy with a small one
    more_of_the_same  the control: as many new rankings, but of the fine-tuned model's endings only

    python -m rlhf_mini run --seed 3 --out runs/3
    python assets/record/sweep.py --run runs/3 --out assets/sweep.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_mini import rankings, tales
from rlhf_mini.config import RunConfig
from rlhf_mini.errors import InputError
from rlhf_mini.evaluate import Samples
from rlhf_mini.language_model import encode_prompts, load_language_model, pad_id, save_language_model
from rlhf_mini.metrics import evaluate_samples, example_stories, judge_tales, reward_model_metrics
from rlhf_mini.pipeline import history_lines, iteration_summary, normalise_on_samples
from rlhf_mini.ppo import start_ppo, train_ppo
from rlhf_mini.rankings import Ranking
from rlhf_mini.reward import fit_reward, load_reward_model, reward_model_from, score_rollout, score_texts
from rlhf_mini.run.context import RunContext
from rlhf_mini.run.folder import RunFolder, versions
from rlhf_mini.run.json_files import read_json
from rlhf_mini.run.progress import progress, run_steps
from rlhf_mini.run.settings import adapt_to_model, fits_context
from rlhf_mini.run.tasks import ask_panel, make_task, seed_for, sorted_judgements, split_judgements
from rlhf_mini.sampling import best_of_n_index, best_of_n_kl

HISTORY = ("iteration", "score", "gold", "kl", "kl_coef", "coherent", "grammatical", "length", "ended", "entropy")
DEMONSTRATIONS = 2000  # as many as tell how long an ending may be; nothing is fine-tuned here
HACKED, NEARBY, SAME = "second_round", "nearby_round", "more_of_the_same"
ASKED_ABOUT = {HACKED: 0.0, NEARBY: 0.05}  # coefficient of the policy whose endings are labelled
Once = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Sizes:
    """How much is recorded; the rest is as in the run."""

    coefficients: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.15, 0.3, 0.8)
    again: tuple[float, ...] = (0.0, 0.05)  # coefficients that are run again with the refitted reward model
    iterations: int = 60
    episodes: int = 128
    samples: int = 512  # held-out openings of every evaluation
    told: int = 6  # stories of each
    openings: int = 256  # held-out openings that best of n answers
    most: int = 64  # candidates of each; a power of two
    endings: int = 1024  # of the fine-tuned model, for the length of what the reward model likes
    labels: int = 200  # training openings of the second round
    epochs: int = 4  # of fitting a reward model


QUICK = Sizes(coefficients=(0.0, 0.15), again=(0.0,), iterations=2, episodes=8, samples=12, told=2, openings=4, most=4,
              endings=16, labels=8, epochs=1)


@dataclass(frozen=True)
class Judge:
    """A reward model with its tokenizer."""

    model: Any
    tokenizer: Any

    def of_rollout(self, rollout: Any) -> Tensor:
        """Scores (B,) of what a policy has just sampled."""
        return score_rollout(self.model, rollout)

    def of_samples(self, samples: Samples) -> Tensor:
        """Scores (N,) of endings, each read as its model left it, with its end or without."""
        return score_texts(self.model, self.tokenizer, samples.prompts, samples.endings, samples.ended).double()


@dataclass(frozen=True)
class Bench:
    """A finished run's models, what the loop needs to go on with them, and a folder for what is made on the way."""

    run: Path
    work: Path
    sizes: Sizes
    loop: RunContext
    sft: Any
    first: Judge

    @cached_property
    def prompt_ids(self) -> list[list[int]]:
        """Tokens of the openings that PPO practises on."""
        return encode_prompts(self.loop.tokenizer, self.loop.task.prompts)

    @cached_property
    def judgements(self) -> tuple[list[Ranking], list[Ranking]]:
        """The run's rankings: those of training openings, and those of held-out ones."""
        judgements = sorted_judgements(rankings.load_rankings(self.run / "rankings.jsonl"))
        return split_judgements(judgements, self.loop.task.test_prompts)


class Record:
    """The JSON file: parts that hold named results, saved whenever one is added."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        about = json.loads(json.dumps(about))  # tuples become lists, as in the file
        self.parts: dict[str, Any] = read_json(path, {"about": about | {"versions": versions()}})
        for name, value in about.items():
            if self.parts["about"][name] != value:
                raise InputError(f"{path} was recorded with {name} = {self.parts['about'][name]}, not {value}: "
                                 "choose another --out")

    def once(self, part: str, name: str, make: Callable[[], Any]) -> Any:
        """The result of that name, made only if the file does not hold it."""
        results = self.parts.setdefault(part, {})
        if name not in results:
            print(f"{part}: {name}", file=sys.stderr, flush=True)
            results[name] = rounded(make())
            self.save()
        return results[name]

    def save(self) -> None:
        """Write the file anew, one part on a line; a crash while writing leaves the old one whole."""
        lines = [f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False, allow_nan=False)}"
                 for name, part in self.parts.items()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(self.path.name + ".tmp")
        scratch.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        scratch.replace(self.path)


def rounded(value: Any, digits: int = 4) -> Any:
    """The same value with every float in it rounded."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {name: rounded(inner, digits) for name, inner in value.items()}
    return [rounded(inner, digits) for inner in value] if isinstance(value, list | tuple) else value


def columns(lines: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """A history as one list for each key that notebook 07 draws."""
    return {key: [line[key] for line in lines] for key in HISTORY}


def fingerprint(run: Path, about: dict[str, Any]) -> str:
    """A few letters that change with the run's models and with the settings, so that nothing old is taken for new."""
    found = hashlib.sha256(json.dumps(about).encode())
    for model in ("sft", "reward_model"):
        found.update((run / model / "model.safetensors").read_bytes())
    return found.hexdigest()[:12]


def begin(run: Path, work: Path, sizes: Sizes) -> tuple[Bench, dict[str, Any]]:
    """Load a finished run, and say what the recording will be about. Raises: InputError where it is not finished."""
    metrics = read_json(run / "metrics.json", None)
    if metrics is None:
        raise InputError(f"{run} holds no metrics.json: give --run the folder of a finished run")
    sft, tokenizer = load_language_model(run / "sft")
    config = RunConfig(out=work, seed=metrics["seed"], samples=sizes.samples, demonstrations=DEMONSTRATIONS)
    config = replace(config, reward=replace(config.reward, epochs=sizes.epochs),
                     ppo=replace(config.ppo, iterations=sizes.iterations, episodes=sizes.episodes))
    config, task = adapt_to_model(config, sft, tokenizer, make_task(config, []))
    about = {"seed": config.seed, "sizes": asdict(sizes), "ppo": asdict(config.ppo)}
    models = fingerprint(run, about)
    loop = RunContext(config, task, tokenizer, RunFolder(config))
    bench = Bench(run, work / models, sizes, loop, sft, Judge(*load_reward_model(run / "reward_model")))
    return bench, about | {"models": models}


def optimised(bench: Bench, judge: Judge, kl_coef: float, adaptive: bool = False) -> tuple[Any, list[dict[str, Any]]]:
    """PPO from the fine-tuned model, in the run's own settings but for the coefficient: policy and history."""
    loop, config = bench.loop, replace(bench.loop.config.ppo, kl_coef=kl_coef, adaptive=adaptive)
    state = start_ppo(bench.sft, config)
    training = train_ppo(state, bench.sft, judge.of_rollout, bench.prompt_ids, config, loop.tokenizer.eos_token_id,
                         pad_id(loop.tokenizer))
    lines = list(progress(history_lines(loop, "ppo", training), config.iterations, f"coefficient {kl_coef:g}",
                          iteration_summary))
    return state.policy.language_model.requires_grad_(False), lines


def evaluated(bench: Bench, policy: Any, judge: Judge) -> tuple[Samples, dict[str, Any]]:
    """What a policy makes of the held-out openings: the endings, their figures, and the first few stories."""
    samples = bench.loop.sample(policy, bench.loop.task.held_out, "evaluation", bench.sft, judge.of_rollout)
    told = example_stories({"told": samples}, True, bench.sizes.told)
    return samples, {"evaluation": evaluate_samples(samples),
                     "stories": [{"opening": story["opening"], **story["told"]} for story in told]}


def swept(bench: Bench, kl_coef: float, judge: Judge, adaptive: bool = False) -> dict[str, Any]:
    """One PPO run: settings, history, figures, stories; and what the first reward model says of it."""
    policy, lines = optimised(bench, judge, kl_coef, adaptive)
    samples, found = evaluated(bench, policy, judge)
    if judge is not bench.first:
        found["evaluation"]["proxy_first"] = bench.first.of_samples(samples).mean().item()
    if judge is bench.first and not adaptive and kl_coef in ASKED_ABOUT.values():
        save_language_model(policy, bench.loop.tokenizer, bench.work / f"policy-{kl_coef:g}")
    return {"kl_coef": kl_coef, "adaptive": adaptive, **found, "history": columns(lines)}


def policy_of(bench: Bench, kl_coef: float) -> Any:
    """The first round's policy at one of the coefficients asked about, trained again where its folder is gone."""
    folder = bench.work / f"policy-{kl_coef:g}"
    if not folder.exists():
        swept(bench, kl_coef, bench.first)
    return load_language_model(folder)[0]


# --- the parts --------------------------------------------------------------------------------------------------


def coefficients(bench: Bench, once: Once) -> None:
    """PPO at every coefficient, and what they all start from."""
    once("sft", lambda: evaluated(bench, bench.sft, bench.first)[1])
    for kl_coef in bench.sizes.coefficients:
        once(f"{kl_coef:g}", partial(swept, bench, kl_coef, bench.first))


def adaptive(bench: Bench, once: Once) -> None:
    """PPO with a coefficient that follows a target, starting from the default one."""
    start = bench.loop.config.ppo.kl_coef
    once(f"{start:g}", lambda: {"target": bench.loop.config.ppo.kl_target, **swept(bench, start, bench.first, True)})


def best_of_n(bench: Bench, once: Once) -> None:
    """The best of n endings of the fine-tuned model, by the reward model and by the panel's true taste."""
    once("by", lambda: chosen(bench))


def chosen(bench: Bench) -> dict[str, list[dict[str, float]]]:
    """Means over what each of the two judges picks, for n = 1, 2, 4, ..."""
    most = bench.sizes.most
    openings = [opening for opening in bench.loop.task.held_out[:bench.sizes.openings] for _ in range(most)]
    samples = bench.loop.sample(bench.sft, openings, "best of n", score=bench.first.of_rollout)
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


def length(bench: Bench, once: Once) -> None:
    """Length, gold and proxy of endings of the fine-tuned model on held-out openings."""
    samples = plain_endings(bench)
    once("endings", lambda: listed(facts(samples, bench.first.of_samples(samples))))


def plain_endings(bench: Bench) -> Samples:
    """One ending of the fine-tuned model for each of many held-out openings."""
    openings = tales.openings(bench.sizes.endings, seed_for(bench.loop.config.seed, "length"), "held_out")
    return bench.loop.sample(bench.sft, openings, "length")


def second_round(bench: Bench, once: Once, kind: str = HACKED) -> None:
    """New labels, a reward model fitted on old and new ones, and PPO again."""
    once("labels", lambda: counted(new_labels(bench, kind)))
    judge = refitted(bench, kind)
    once("reward_model", lambda: compared(bench, judge))
    once("length", lambda: judge.of_samples(plain_endings(bench)).tolist())
    for kl_coef in bench.sizes.again:
        once(f"{kl_coef:g}", partial(swept, bench, kl_coef, judge))


def nearby_round(bench: Bench, once: Once) -> None:
    """A second round about a policy that has not gone far."""
    second_round(bench, once, NEARBY)


def more_of_the_same(bench: Bench, once: Once) -> None:
    """The control for the second round."""
    second_round(bench, once, SAME)


def new_labels(bench: Bench, kind: str) -> list[Ranking]:
    """The simulated panel's rankings of four endings for each of some training openings, one annotator each.

    In a second round two endings of the policy stand beside two of the fine-tuned model. Four of the policy without a
    penalty would mostly be nonsense: equal to the panel, ordered by its noise, and so no lesson. Beside a sensible
    ending the nonsense loses for certain, and the two sensible ones keep the old lesson fresh.
    """
    loop, seed = bench.loop, bench.loop.config.seed
    openings = tales.openings(bench.sizes.labels, seed_for(seed, "second round"), "train")
    writers = [policy_of(bench, ASKED_ABOUT[kind]) if kind in ASKED_ABOUT else bench.sft, bench.sft]
    each = [[loop.sample(writer, openings, f"{kind} {half} {copy}") for copy in range(2)]
            for half, writer in enumerate(writers)]
    told = [samples.endings for pair in each for samples in pair]
    items = [(opening, [endings[i] for endings in told]) for i, opening in enumerate(openings)]
    readable = [all(fits_context(bench.sft, loop.tokenizer, [opening] * 4, endings)) for opening, endings in items]
    items = [item for item, whole in zip(items, readable, strict=True) if whole]
    return sorted_judgements(ask_panel(items, 0, bench.work / f"rankings-{kind}", seed))


def counted(labels: Sequence[Ranking]) -> dict[str, Any]:
    """How many rankings and pairs there are, in how many pairs one ending makes no sense, and how those went."""
    pairs = rankings.to_pairs(labels)
    sense = [(tales.read(opening, better).coherent, tales.read(opening, worse).coherent)
             for opening, better, worse in pairs]
    mixed = [better for better, worse in sense if better != worse]
    return {"rankings": len(labels), "pairs": len(pairs), "sense_against_nonsense": len(mixed),
            "sense_won": sum(mixed)}


def refitted(bench: Bench, kind: str) -> Judge:
    """A reward model fitted, from the fine-tuned model, on the run's rankings and the new ones; kept in a folder."""
    folder = bench.work / f"reward_model-{kind}"
    if not folder.exists():
        config, loop = bench.loop.config.reward, bench.loop
        model, tokenizer = reward_model_from(bench.sft, loop.tokenizer, config.seed)
        judged = bench.judgements[0] + new_labels(bench, kind)
        examples = [(one.prompt, one.completions, one.ranking) for one in judged]
        run_steps(fit_reward(model, tokenizer, examples, config),
                  config.epochs * -(-len(examples) // config.batch_size), "reward model",
                  lambda step: f"loss {step['loss']:.3f}, accuracy {step['accuracy']:.0%}")
        normalise_on_samples(loop, bench.sft, model, tokenizer)
        save_language_model(model, tokenizer, folder)
    return Judge(*load_reward_model(folder))


def compared(bench: Bench, judge: Judge) -> dict[str, Any]:
    """The first and the refitted reward model on the same texts.

    Accuracy is on the run's held-out pairs. On held-out openings the policy without a penalty and the fine-tuned model
    wrote an ending each: their scores by both, and their gold reward.
    """
    pairs, accuracy = rankings.to_pairs(bench.judgements[1]), {}
    for name, one in (("first", bench.first), ("refitted", judge)):
        accuracy[name] = reward_model_metrics(one.model, one.tokenizer, pairs, scale=1.0, panel=False)["accuracy"]
    found: dict[str, Any] = {"accuracy": accuracy, "pairs_test": len(pairs)}
    for name, policy in (("hacked", policy_of(bench, 0.0)), ("sft", bench.sft)):
        samples = bench.loop.sample(policy, bench.loop.task.held_out[:bench.sizes.openings], "evaluation")
        known = facts(samples, bench.first.of_samples(samples)) | {"refitted": judge.of_samples(samples)}
        found[name] = listed(known)
    return found


PARTS = {part.__name__: part for part in (coefficients, adaptive, best_of_n, length, second_round, nearby_round,
                                             more_of_the_same)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run on the embedded checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file, which is continued if it is there")
    parser.add_argument("--work", type=Path, default=Path("runs/sweep"), help="folder for models made on the way")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS), help="these parts alone")
    parser.add_argument("--quick", action="store_true", help="sizes that show that it works, and nothing else")
    given = parser.parse_args(arguments)
    bench, about = begin(given.run, given.work, QUICK if given.quick else Sizes())
    recorded = Record(given.out, about)
    for name in given.only:
        PARTS[name](bench, partial(recorded.once, name))


if __name__ == "__main__":
    main()
