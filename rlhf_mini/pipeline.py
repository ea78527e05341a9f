"""The whole loop: fine-tune, judge, learn the taste, PPO with the KL penalty and without, measure, report."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress, cycle, islice
from typing import Any

from transformers import PreTrainedModel

from rlhf_mini import rankings
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig, RunConfig
from rlhf_mini.evaluate import (
    DISTINCT_AMONG,
    Samples,
    best_of_n,
    evaluate_samples,
    reward_model_metrics,
    sample_endings,
    stories,
    tales_means,
)
from rlhf_mini.language_model import (
    decode_endings,
    encode_prompts,
    load_language_model,
    pad_id,
    save_language_model,
)
from rlhf_mini.plots import STYLES
from rlhf_mini.ppo import PPOIteration, Score, start_ppo, train_ppo
from rlhf_mini.rankings import Ranking
from rlhf_mini.report import write_report
from rlhf_mini.reward import (
    fit_reward,
    load_reward_model,
    normalise,
    reward_model_from,
    score_rollout,
)
from rlhf_mini.run.folder import RunFolder, read_json, versions, write_json
from rlhf_mini.run.progress import progress, watch
from rlhf_mini.run.settings import fits, fitted, sized
from rlhf_mini.run.tasks import Task, ask_panel, divide, given_rankings, in_order, make_task, seed_for
from rlhf_mini.sft import train_sft

RANKINGS = "rankings.jsonl"
SAVE_EVERY = 10  # iterations of PPO between two states that a run can continue from
NORMALISE_ON = 1024  # endings of the fine-tuned model
BEST_OF = (4, 16)
BEST_OF_PROMPTS = DISTINCT_AMONG  # held-out prompts that best-of-n answers: sixteen endings each are dear
POLICIES = {"ppo": "policy", "ppo_no_kl": "policy_no_kl"}  # arm: the folder of its policy


@dataclass(frozen=True)
class Loop:
    """What every stage needs: settings, task, tokenizer, and the folder that keeps what each stage makes."""

    config: RunConfig
    task: Task
    tokenizer: Any
    folder: RunFolder

    def sampled(self, model: PreTrainedModel, prompts: list[str], purpose: str,
                reference: PreTrainedModel | None = None, score: Score | None = None) -> Samples:
        """One ending for each prompt, by a seed of its own for each purpose."""
        ppo = self.config.ppo
        return sample_endings(model, self.tokenizer, prompts, max_new_tokens=ppo.max_new_tokens,
                              temperature=ppo.temperature, seed=seed_for(self.config.seed, purpose),
                              reference=reference, score=score)


def run(config: RunConfig, resume: bool = False) -> dict[str, Any]:
    """Run the whole loop into `config.out`, or continue the run that stopped there; returns its metrics.

    Every stage starts from what the one before left in the folder and takes its randomness from the seed and
    its own name, so a resumed run ends with the same numbers as one that was never stopped.
    Raises: InputError, before anything is written, where a setting, file or folder cannot be used.
    """
    folder = RunFolder(config, resume)
    folder.check()
    config, own_copy = sized(config), folder.path / RANKINGS
    given = given_rankings(config, own_copy)
    base, tokenizer = load_language_model(config.base or asset("tiny-tales-gpt2"))
    task = make_task(config, given)
    loop = Loop(*fitted(config, base, tokenizer, task), tokenizer, folder)
    with folder:
        if task.judgements and not own_copy.exists():
            rankings.save_rankings(task.judgements, own_copy)
        try:
            return rlhf(loop, base)
        except KeyboardInterrupt:
            write_report(folder.path, known(loop), folder.history.read(), {})
            raise


def rlhf(loop: Loop, base: PreTrainedModel) -> dict[str, Any]:
    """Reinforcement learning from human feedback, from a pretrained model to a report."""
    sft = fine_tune(loop, base)  # adapt the pretrained model to the task
    judgements = judge(loop, sft)  # several outputs for each prompt, ranked
    score = learn_score(loop, sft, judgements)  # a second model, which emits one scalar
    with_kl = optimise(loop, "ppo", loop.config.ppo, sft, score)  # prompts, generations, scores, updates
    no_kl = optimise(loop, "ppo_no_kl", replace(loop.config.ppo, kl_coef=0.0), sft, score)
    models = {"base": base, "sft": sft, "ppo": with_kl, "ppo_no_kl": no_kl}
    return finish(loop, measure(loop, models, score))  # did grammar and logic survive?


def fine_tune(loop: Loop, base: PreTrainedModel) -> PreTrainedModel:
    """Teach the base model, by demonstrations, to write one ending and stop."""
    path, config = loop.folder.path / "sft", loop.config.sft
    with loop.folder.stage("sft") as todo:
        if todo:
            model = copy.deepcopy(base)
            training = train_sft(model, loop.tokenizer, loop.task.demonstrations, config)
            watch(training, config.steps, "fine-tuning", lambda step: f"loss {step['loss']:.3f}")
            save_language_model(model, loop.tokenizer, path)
    return load_language_model(path)[0]


def judge(loop: Loop, sft: PreTrainedModel) -> list[Ranking]:
    """Have the panel rank endings of the fine-tuned model, unless people's rankings were given."""
    if loop.task.judgements:
        return loop.task.judgements
    path, openings, each = loop.folder.path / RANKINGS, loop.task.to_judge, loop.config.completions
    with loop.folder.stage("rankings") as todo:
        if todo:
            prompts = [opening for opening in openings for _ in range(each)]
            told = loop.sampled(sft, prompts, "endings to judge")
            readable = fits(sft, loop.tokenizer, prompts, told.endings)
            items = [(prompts[i], told.endings[i:i + each]) for i in range(0, len(prompts), each)
                     if all(readable[i:i + each])]
            kept, config = loop.folder.state / "rankings", loop.config
            records = ask_panel(items, config.judged_by_all, kept, config.seed)
            path.unlink(missing_ok=True)
            rankings.save_rankings(records, path)
    return in_order(rankings.load_rankings(path))


def learn_score(loop: Loop, sft: PreTrainedModel, judgements: list[Ranking]) -> Score:
    """Fit a reward model to the judgements of training prompts, normalise it, test it on the others."""
    path = loop.folder.path / "reward_model"
    train, test = divide(judgements, loop.task.test_prompts)
    with loop.folder.stage("reward_model") as todo:
        if todo:
            config = loop.config.reward
            model, tokenizer = reward_model_from(sft, loop.tokenizer, config.seed)
            examples = [(judged.prompt, judged.completions, judged.ranking) for judged in train]
            fitting = fit_reward(model, tokenizer, examples, config)
            watch(fitting, config.epochs * -(-len(examples) // config.batch_size), "reward model",
                  lambda step: f"loss {step['loss']:.3f}, accuracy {step['accuracy']:.0%}")
            scale = normalise_on_samples(loop, sft, model, tokenizer)
            save_language_model(model, tokenizer, path)
            pairs_train, pairs_test = rankings.to_pairs(train), rankings.to_pairs(test)
            write_json(loop.folder.state / "reward_model.json", {
                **reward_model_metrics(model, tokenizer, pairs_test, scale=scale, panel=loop.task.panel),
                "pairs_train": len(pairs_train), "pairs_test": len(pairs_test)})
    reward_model, reward_tokenizer = load_reward_model(path)
    return lambda rollout: score_rollout(reward_model, reward_tokenizer, rollout)


def normalise_on_samples(loop: Loop, sft: PreTrainedModel, model: PreTrainedModel, tokenizer: Any) -> float:
    """Give endings of the fine-tuned model mean 0 and standard deviation 1; returns what this divides by."""
    prompts = list(islice(cycle(loop.task.prompts), NORMALISE_ON))
    told = loop.sampled(sft, prompts, "endings to normalise on")
    rows = compress(zip(prompts, told.endings, told.ended, strict=True),
                    fits(model, tokenizer, prompts, told.endings))
    kept, endings, ended = zip(*rows, strict=True)
    return normalise(model, tokenizer, kept, endings, ended)[1]


def optimise(loop: Loop, arm: str, config: PPOConfig, sft: PreTrainedModel, score: Score) -> PreTrainedModel:
    """Pull a copy of the fine-tuned model towards the taste; a KL penalty, if any, pulls it back."""
    path = loop.folder.path / POLICIES[arm]
    with loop.folder.stage(arm) as todo:
        if todo:
            state, saved = start_ppo(sft, config), loop.folder.state / arm
            if saved.exists():
                state.load(saved)
            loop.folder.history.keep(arm, state.iteration)
            ids = encode_prompts(loop.tokenizer, loop.task.prompts)
            training = train_ppo(state, sft, score, ids, config, loop.tokenizer.eos_token_id,
                                 pad_id(loop.tokenizer))
            for line in progress(record(loop, arm, training), config.iterations, STYLES[arm].label, headline,
                                 done=state.iteration):
                loop.folder.history.append(line)
                if state.iteration % SAVE_EVERY == 0:
                    state.save(saved)
            policy: Any = state.policy.language_model
            save_language_model(policy, loop.tokenizer, path)
    return load_language_model(path)[0]


def record(loop: Loop, arm: str, training: Iterator[PPOIteration]) -> Iterator[dict[str, Any]]:
    """Each iteration as a line of the history, with what only the world of tales knows of its endings."""
    ids = encode_prompts(loop.tokenizer, loop.task.prompts)
    prompt_of = dict(zip(map(tuple, ids), loop.task.prompts, strict=True))
    for iteration in training:
        rollout = iteration.rollout
        prompts = [prompt_of[tuple(row[live].tolist())] for row, live in
                   zip(rollout.prompt_tokens, rollout.prompt_mask, strict=True)]
        endings = decode_endings(loop.tokenizer, rollout.tokens, rollout.mask)
        yield {"arm": arm, **iteration.stats, **tales_means(prompts, endings, loop.task.tales_world)}


def headline(line: dict[str, Any]) -> str:
    """The numbers of an iteration that matter most, in one line."""
    gold = "" if line["gold"] is None else f", gold {line['gold']:+.2f}, coherent {line['coherent']:.0%}"
    return f"score {line['score']:+.2f}{gold}, KL {line['kl']:.2f}"


def measure(loop: Loop, models: dict[str, PreTrainedModel], score: Score) -> dict[str, Any]:
    """Figures and stories of every model, and of best-of-n, on the same held-out prompts."""
    path, tales_world = loop.folder.state / "evaluation.json", loop.task.tales_world
    with loop.folder.stage("evaluation") as todo:
        if todo:
            telling = told(loop, models, score)
            samples = dict(progress(telling, len(STYLES), "evaluation", lambda pair: pair[0]))
            figures = {name: evaluate_samples(samples[name], tales_world) for name in STYLES}
            write_json(path, {"models": figures, "stories": stories(samples, tales_world)})
    return read_json(path, {})


def told(loop: Loop, models: dict[str, PreTrainedModel], score: Score) -> Iterator[tuple[str, Samples]]:
    """What each model, and best-of-n, makes of the held-out prompts."""
    for name, model in models.items():
        reference = None if name == "sft" else models["sft"]
        yield name, loop.sampled(model, loop.task.held_out, "evaluation", reference, score)
    most = max(BEST_OF)
    repeated = [prompt for prompt in loop.task.held_out[:BEST_OF_PROMPTS] for _ in range(most)]
    candidates = loop.sampled(models["sft"], repeated, "best of n", score=score)
    for n in BEST_OF:
        yield f"best_of_{n}", best_of_n(candidates, most, n)


def finish(loop: Loop, measured: dict[str, Any]) -> dict[str, Any]:
    """Write samples, report and, last of all, the metrics, which mark the run as finished."""
    samples = {"stories": measured["stories"]}
    write_json(loop.folder.path / "samples.json", samples)
    metrics = {"seed": loop.config.seed, **measured["models"], **known(loop)}
    write_report(loop.folder.path, metrics, loop.folder.history.read(), samples)
    metrics["seconds"] = loop.folder.seconds()
    write_json(loop.folder.path / "metrics.json", metrics)
    return metrics


def known(loop: Loop) -> dict[str, Any]:
    """What a run can say of itself at any time."""
    reasons: dict[str, str | None] = {}
    if not loop.task.tales_world:
        reasons |= dict.fromkeys(("gold", "grammatical", "coherent"), loop.task.reason)
    reward_model = read_json(loop.folder.state / "reward_model.json", {})
    if reward_model and reward_model["accuracy"] is None:
        reasons |= dict.fromkeys(("accuracy", "accuracy_ceiling"), "the prompts kept for the test hold no preference")
    if not loop.task.panel:
        reasons["accuracy_ceiling"] = "people's true probabilities are not known; the simulated panel's are"
    return {"seed": loop.config.seed, "reward_model": reward_model,
            "reasons": reasons, "seconds": loop.folder.seconds(), "versions": versions()}
