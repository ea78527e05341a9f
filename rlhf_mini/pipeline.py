"""The whole run: SFT, rankings, a reward model, PPO with the KL penalty and without, measurements, a report."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import compress, cycle, islice
from typing import Any

from transformers import PreTrainedModel

from rlhf_mini import files, rankings, team
from rlhf_mini.assets import asset
from rlhf_mini.config import PPOConfig
from rlhf_mini.errors import InputError
from rlhf_mini.health import check_loss
from rlhf_mini.language_model import (
    context_length,
    decode_endings,
    encode_prompts,
    load_language_model,
    pad_id,
    save_language_model,
)
from rlhf_mini.metrics import reward_model_metrics, tales_means
from rlhf_mini.plots import STYLES
from rlhf_mini.ppo import PPOIteration, PPOState, Score, start_ppo, train_ppo
from rlhf_mini.rankings import Ranking
from rlhf_mini.report import write_report
from rlhf_mini.reward import fit_reward, load_reward_model, normalise, reward_model_from, score_rollout
from rlhf_mini.run.amounts import amounts
from rlhf_mini.run.base import base_digest, check_base, has_seen_tales, note_tales, usual_torch
from rlhf_mini.run.config import RunConfig
from rlhf_mini.run.context import RunContext
from rlhf_mini.run.folder import RunFolder
from rlhf_mini.run.json_files import write_json
from rlhf_mini.run.looks import looking
from rlhf_mini.run.ppo_state import FILE, load_state, save_state
from rlhf_mini.run.progress import expect, progress, run_steps
from rlhf_mini.run.results import measure, metrics_so_far, write_results
from rlhf_mini.run.settings import adapt_to_model, choose_sizes, fits_context
from rlhf_mini.run.tasks import (
    ask_panel,
    given_rankings,
    make_task,
    rankings_digest,
    save_copy,
    sorted_judgements,
    split_judgements,
)
from rlhf_mini.sft import mean_loss, train_sft

RANKINGS = "rankings.jsonl"
SAVE_EVERY = 10  # a run can continue from every tenth iteration of PPO
NORMALISE_ON = 1024  # the reward model is normalised on so many endings of the fine-tuned model
NOTHING_FITS = ("what the fine-tuned model writes does not fit into its context of {} tokens when it is read again: "
                "give a base with a longer context, or one that has learnt to stop")
POLICIES = {"ppo": "policy", "ppo_no_kl": "policy_no_kl"}  # the folder of each arm's policy


@usual_torch()
def run(config: RunConfig, resume: bool = False) -> dict[str, Any]:
    """Do the whole run in `config.out`, or continue the run that stopped there; returns its metrics.

    Every stage reads the results of the stages before from the folder. Its randomness depends only on the seed and on
    its name. So a resumed run ends with the same numbers as one that was never stopped.
    Raises: InputError, before anything is written, where a setting, file or folder cannot be used.
    """
    folder = RunFolder(config, resume)
    folder.check()
    rankings_copy = folder.path / RANKINGS
    copied = partial(files.digests, rankings_copy)
    given = given_rankings(config, rankings_copy if folder.is_done("rankings", copied) else None)
    base, tokenizer = load_language_model(config.base or asset("tiny-tales-gpt2"), config.bf16)
    check_base(base, tokenizer)
    folder.given = f"{base_digest(base, tokenizer)} {rankings_digest(given)}"
    config = choose_sizes(config, has_seen_tales(base, tokenizer))
    config, task = adapt_to_model(config, base, tokenizer, make_task(config, given))
    check_shares(config)
    with folder:
        context = RunContext(folder.recorded_settings(config), task, tokenizer, folder)
        expect(amounts(context.config, task, NORMALISE_ON))
        if given:
            with folder.stage("rankings", copied) as todo:
                if todo:
                    save_copy(given, rankings_copy)
        try:
            metrics = rlhf(context, base)
        except KeyboardInterrupt:
            folder.require_place()
            write_report(folder.path, metrics_so_far(context), folder.history.read(), {}, folder.stories.read())
            raise
    team.wait()  # the finished run is there for all processes
    return metrics


def check_shares(config: RunConfig) -> None:
    """Raises: InputError where a batch has fewer rows than there are processes."""
    team.check_share(config.sft.batch_size, "SFTConfig.batch_size")
    team.check_share(config.reward.batch_size, "RewardConfig.batch_size")
    team.check_share(config.ppo.episodes // config.ppo.minibatches, "PPOConfig.episodes / minibatches")


def rlhf(context: RunContext, base: PreTrainedModel) -> dict[str, Any]:
    """Reinforcement learning from human feedback, from a pretrained model to a report."""
    sft = fine_tune(context, base)  # adapt the pretrained model to the task
    judgements = collect_rankings(context, sft)  # several endings for each prompt, ranked
    score = learn_score(context, sft, judgements)  # a second model with one scalar output
    with_kl = optimise(context, "ppo", context.config.ppo, sft, score)  # prompts, endings, scores, updates
    no_kl = optimise(context, "ppo_no_kl", replace(context.config.ppo, kl_coef=0.0), sft, score)
    models = {"base": base, "sft": sft, "ppo": with_kl, "ppo_no_kl": no_kl}
    return write_results(context, measure(context, models, score))  # rewards, grammar, coherence


def fine_tune(context: RunContext, base: PreTrainedModel) -> PreTrainedModel:
    """Fine-tune a copy of the base model on demonstrations: one ending, and then stop."""
    path, config = context.folder.path / "sft", context.config
    reads = ["rankings"] if context.task.judgements else []
    with context.folder.stage("sft", partial(files.digests, path), reads) as todo:
        if todo:
            model = copy.deepcopy(base)
            training = train_sft(model, context.tokenizer, context.task.demonstrations, config.sft)
            run_steps(training, config.sft.steps, "fine-tuning", lambda step: f"loss {step['loss']:.3f}")
            some = context.task.demonstrations[:8]  # nothing is saved that the last step has broken
            check_loss(mean_loss(model, context.tokenizer, some), config.sft.steps, config.sft.learning_rate)
            if context.task.tales_world:
                note_tales(model)
            save_language_model(model, context.tokenizer, path)
    return load_language_model(path, config.bf16)[0]


def collect_rankings(context: RunContext, sft: PreTrainedModel) -> list[Ranking]:
    """The given rankings or, if there are none, the simulated panel's rankings of endings of the fine-tuned model."""
    if context.task.judgements:
        return context.task.judgements
    path, config = context.folder.path / RANKINGS, context.config
    each = config.completions
    with context.folder.stage("rankings", partial(files.digests, path), ["sft"]) as todo:
        if todo:
            prompts = [opening for opening in context.task.to_judge for _ in range(each)]
            endings = context.sample(sft, prompts, "endings to judge").endings
            fitting = fits_context(sft, context.tokenizer, prompts, endings)
            items = [(prompts[i], endings[i:i + each]) for i in range(0, len(prompts), each)
                     if all(fitting[i:i + each])]
            if not items:
                raise InputError(NOTHING_FITS.format(context_length(sft)))
            if team.first():
                save_copy(ask_panel(items, config.judged_by_all, context.folder.state / "rankings", config.seed), path)
    return sorted_judgements(rankings.load_rankings(path))


def learn_score(context: RunContext, sft: PreTrainedModel, judgements: list[Ranking]) -> Score:
    """Fit a reward model to the judgements of training prompts, normalise it, and test it on the other judgements."""
    path, figures = context.folder.path / "reward_model", context.folder.state / "reward_model.json"
    train, test = split_judgements(judgements, context.task.test_prompts)
    with context.folder.stage("reward_model", partial(files.digests, path, figures), ["sft", "rankings"]) as todo:
        if todo:
            config = context.config.reward
            model, tokenizer = reward_model_from(sft, context.tokenizer, config.seed)
            examples = [(judged.prompt, judged.completions, judged.ranking) for judged in train]
            run_steps(fit_reward(model, tokenizer, examples, config),
                      config.epochs * -(-len(examples) // config.batch_size), "reward model",
                      lambda step: f"loss {step['loss']:.3f}, accuracy {step['accuracy']:.0%}")
            scale = normalise_on_samples(context, sft, model, tokenizer)
            save_language_model(model, tokenizer, path)
            pairs_train, pairs_test = rankings.to_pairs(train), rankings.to_pairs(test)
            write_json(figures, {
                **reward_model_metrics(model, tokenizer, pairs_test, scale=scale, panel=context.task.panel),
                "pairs_train": len(pairs_train), "pairs_test": len(pairs_test)})
    reward_model = load_reward_model(path, context.config.bf16)[0]
    return lambda rollout: score_rollout(reward_model, rollout)


def normalise_on_samples(context: RunContext, sft: PreTrainedModel, model: PreTrainedModel, tokenizer: Any) -> float:
    """Normalise the scores of endings of the fine-tuned model; returns the standard deviation before."""
    prompts = list(islice(cycle(context.task.prompts), NORMALISE_ON))
    samples = context.sample(sft, prompts, "endings to normalise on")
    rows = list(compress(zip(prompts, samples.endings, samples.ended, strict=True),
                         fits_context(model, tokenizer, prompts, samples.endings)))
    if not rows:
        raise InputError(NOTHING_FITS.format(context_length(sft)))
    kept, endings, ended = zip(*rows, strict=True)
    return normalise(model, tokenizer, kept, endings, ended)[1]


def optimise(context: RunContext, arm: str, config: PPOConfig, sft: PreTrainedModel, score: Score) -> PreTrainedModel:
    """Train a copy of the fine-tuned model with PPO, and record the history of this arm."""
    path, folder = context.folder.path / POLICIES[arm], context.folder

    def contents() -> dict[str, str]:
        return files.digests(path) | {f"history.jsonl of {arm}": folder.history.digest(arm)}

    with folder.stage(arm, contents, ["sft", "reward_model"]) as todo:
        if todo:
            state = start_or_continue(folder, arm, sft, config)
            ids = encode_prompts(context.tokenizer, context.task.prompts)
            training = train_ppo(state, sft, score, ids, config, context.tokenizer.eos_token_id,
                                 pad_id(context.tokenizer))
            training = looking(context, arm, state, score, training)
            for line in progress(history_lines(context, arm, training), config.iterations, STYLES[arm].label,
                                 iteration_summary, done=state.iteration):
                folder.require_place()
                folder.history.append(line)
                if team.first() and state.iteration % SAVE_EVERY == 0:
                    save_state(state, folder.state / arm, folder.history.digest(arm))
            policy: Any = state.policy.language_model
            save_language_model(policy, context.tokenizer, path)
    return load_language_model(path, context.config.bf16)[0]


def start_or_continue(folder: RunFolder, arm: str, sft: PreTrainedModel, config: PPOConfig) -> PPOState:
    """The state that this arm goes on from: the saved one, if it is whole and belongs to the history."""
    state, saved = start_ppo(sft, config), folder.state / arm
    if (saved / FILE).exists():
        try:
            if load_state(state, saved) != folder.history.digest(arm, state.iteration):
                raise InputError(f"{folder.history.path} is not the history of {saved}")
        except InputError as error:
            warnings.warn(f"{error}; {STYLES[arm].label} begins again", stacklevel=2)
            state = start_ppo(sft, config)
    team.wait()  # all have looked
    folder.history.keep(arm, state.iteration)
    folder.stories.keep(arm, state.iteration)
    return state


def history_lines(context: RunContext, arm: str, training: Iterator[PPOIteration]) -> Iterator[dict[str, Any]]:
    """Each iteration as a line of the history: its statistics, and gold reward and coherence of its endings."""
    ids = encode_prompts(context.tokenizer, context.task.prompts)
    prompt_of = dict(zip(map(tuple, ids), context.task.prompts, strict=True))
    for iteration in training:
        rollout = iteration.rollout
        prompts = [prompt_of[prompt] for prompt in rollout.prompts]
        endings = decode_endings(context.tokenizer, rollout.tokens, rollout.mask)
        yield {"arm": arm, **iteration.stats, **tales_means(prompts, endings, context.task.tales_world)}


def iteration_summary(line: dict[str, Any]) -> str:
    """The main numbers of an iteration in one line: score, gold, KL, coherent."""
    score, kl = f"score {line['score']:+.2f}", f"KL {line['kl']:.2f}"
    known = line["gold"] is not None  # where a line is short, what stands last is left out
    return f"{score}, gold {line['gold']:+.2f}, {kl}, coherent {line['coherent']:.0%}" if known else f"{score}, {kl}"
