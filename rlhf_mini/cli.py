"""The command line. Where an option or a file cannot be used, it prints one line that says what to do."""

from __future__ import annotations

import contextlib
import errno
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_mini import console, team
from rlhf_mini.arguments import Parser, path_text
from rlhf_mini.errors import InputError, visible
from rlhf_mini.export import command as export
from rlhf_mini.surroundings import command_environment

if TYPE_CHECKING:
    from rlhf_mini.run.config import RunConfig
    from rlhf_mini.run.plan import Measured

# Slow imports are made only after the options are read, so that --help answers at once.

ABOUT = """Fine-tune a tiny GPT-2 on tales, fit a reward model to rankings, and train with PPO: once with the KL
penalty, once without. All results are written into one folder; report.html shows them."""
COMMANDS_HELP = """other commands (each has --help):
  run                  the whole run; the default
  seeds                one run for each of several seeds, and a table of all of them
  pretrain             rebuild the embedded checkpoint
  merge                pool the ranking files of several annotators
  export               data, models and a script of a finished run, for TRL"""
SEED_HELP = "the seed of all randomness (default: 0)"
GRACE = 3.0  # seconds that a launcher gets to end the others after the first process has failed


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 1 for what cannot be written, 2 for bad input, 130 after Ctrl-C."""
    with console.safe_streams() as stdout:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        stdout.flush()
        if code == 0 and stdout.lost and not isinstance(stdout.lost, BrokenPipeError):
            return _print_error(f"all is done, but the output cannot be written ({stdout.lost})", 1)
        return code


def _main(arguments: list[str]) -> int:
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "run"
    make_parser, command = COMMANDS[name]
    try:
        options = vars(make_parser().parse_args(arguments))
        with command_environment(options):
            code = command(options)
            team.leave()
            return code
    except RuntimeError:
        if team.size() > 1:
            time.sleep(GRACE)  # another process has failed and says why; the launcher ends this one meanwhile
        raise
    except InputError as error:
        return _print_error(str(error), 2)
    except OSError as error:
        return _print_os_error(error, "repeat the command")
    except KeyboardInterrupt:
        return _print_error("stopped", 130)


def _print_os_error(error: OSError, how_to_continue: str) -> int:
    if error.errno == errno.ENAMETOOLONG:
        return _print_error(f"{error}: give a shorter name", 2)
    return _print_error(f"{error}; {how_to_continue}", 1)


def _print_error(message: str, code: int) -> int:
    if code != 130 or team.first():
        complain(message)
    return code


def complain(message: str) -> None:
    """Print one line on stderr. Where all fail alike, the first prints and the launcher ends the others meanwhile."""
    with contextlib.suppress(InputError):  # which may be what there is to say
        if not team.first():
            time.sleep(GRACE)
    print("rlhf_mini:", visible(" ".join(message.split())), file=console.safe(sys.stderr), flush=True)


# --- run ---------------------------------------------------------------------------------------------------

def _run_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini", description=ABOUT, epilog=COMMANDS_HELP)
    add = parser.add_argument
    add("--out", type=path_text, metavar="DIR", help="the run's folder (default: the next runs/NNN)")
    add("--seed", type=int, metavar="N", help=SEED_HELP)
    add("--resume", action="store_true",
        help="continue the run in DIR (default: the latest unfinished one under runs)")
    return _add_run_options(parser)


def _add_run_options(parser: Parser) -> Parser:
    from rlhf_mini.config import PPOConfig

    ppo, add = PPOConfig(), parser.add_argument
    add("--base", metavar="PATH_OR_NAME", help="another language model to start from: a folder, or a hub name")
    add("--rankings", type=path_text, nargs="+", action="extend", metavar="FILE",
        help="rankings by people, which replace the panel's (the option may be repeated)")
    add("--kl-coef", type=float, metavar="X", help=f"weight of the KL penalty (default: {ppo.kl_coef})")
    add("--adaptive", action="store_true", help="adapt the weight to a KL target instead of keeping it fixed")
    add("--temperature", type=float, metavar="T",
        help=f"temperature of all sampling and log-probabilities (default: {ppo.temperature})")
    add("--quick", action="store_true", help="a rough run in three minutes")
    add("--bf16", action="store_true", help="matrix products in bfloat16, for GPUs and CPUs that have it")
    return parser


def _run(options: dict[str, Any]) -> int:
    from rlhf_mini.run.finished import finished_metrics, latest_unfinished, next_folder
    from rlhf_mini.run.folder import RunFolder
    from rlhf_mini.run.saved_config import check_same_settings, requested_config
    from rlhf_mini.tables import summary

    team.join()
    resume = options.pop("resume", False)
    out = options.get("out") or (latest_unfinished() if resume else next_folder())
    metrics = finished_metrics(out) if resume else None
    if metrics is not None and options.keys() - {"out"}:  # what is shown is to be what was asked for
        check_same_settings(requested_config(options | {"out": out}, resume))
    if metrics is None:
        config = requested_config(options | {"out": out}, resume)
        RunFolder(config, resume).check()  # importing torch takes seconds, so check first
        try:
            metrics = _planned(config, resume)
        except KeyboardInterrupt:
            return _print_error(f"stopped; {_how_to_continue(out)}", 130)
        except OSError as error:
            return _print_os_error(error, _how_to_continue(out))
    if team.first():
        print("\n".join(map(visible, summary(metrics, out).split("\n"))))
        print(console.link(out / "report.html", sys.stdout))
    return 0


def _planned(config: RunConfig, resume: bool, measured: Measured | None = None) -> Any:
    """Do a run, and show its plan before torch is imported, which takes seconds."""
    from rlhf_mini.run.plan import run_plan
    from rlhf_mini.run.screen import doing, showing

    with showing(run_plan(config, resume, measured), "loading torch and transformers"):
        from rlhf_mini.pipeline import run
        doing("loading the base model and writing demonstrations")
        return run(config, resume)


def _how_to_continue(out: Path) -> str:
    if not (out / "config.json").exists():
        return "nothing has been written; repeat the command"
    results = f"results so far: {out / 'report.html'}; " if (out / "report.html").exists() else ""
    return f"{results}to continue: python -m rlhf_mini --resume --out {shlex.quote(str(out))}"


# --- the other commands ------------------------------------------------------------------------------------

def _seeds_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini seeds",
                    description="Do a run for each of several seeds, and print a table with medians and ranges.\n"
                                "If it was stopped, the same command continues.")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", required=True, metavar="N", help="the seeds")
    add("--out", type=path_text, required=True, metavar="FOLDER", help="the folder of all runs")
    return _add_run_options(parser)


def _seeds(options: dict[str, Any]) -> int:
    from rlhf_mini.run.plan import Measured
    from rlhf_mini.run.saved_config import requested_config
    from rlhf_mini.run.seeds import markdown, run_seeds

    team.join()
    seeds, out = options.pop("seeds"), options.pop("out")
    configs = [requested_config({**options, "seed": seed, "out": out / f"seed-{seed}"}) for seed in seeds]
    try:
        table = markdown(run_seeds(partial(_planned, measured=Measured()), configs, out))
        if team.first():
            print(table)
    except KeyboardInterrupt:
        return _print_error("stopped; to continue, repeat the command", 130)
    return 0


def _pretrain_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini pretrain",
                    description="Rebuild the embedded checkpoint: corpus, tokenizer and model.")
    add = parser.add_argument
    add("--out", type=path_text, required=True, metavar="DIR", help="the folder of the new checkpoint")
    add("--documents", type=int, metavar="N", help="how many documents to write; each is trained on once")
    add("--seed", type=int, metavar="N", help=SEED_HELP)
    return parser


def _pretrain(options: dict[str, Any]) -> int:
    from rlhf_mini.run.plan import pretrain_plan
    from rlhf_mini.run.screen import doing, showing

    team.join()
    out = options.pop("out")
    with showing(pretrain_plan(out), "loading torch and transformers"):
        from rlhf_mini.pretrain import PretrainConfig, pretrain
        doing("beginning")
        pretrain(out, PretrainConfig(**options))
    return 0


def _merge_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini merge",
                    description="Pool ranking files into a new one, and print how far the annotators agree.")
    parser.add_argument("files", type=path_text, nargs="+", metavar="FILE",
                        help="ranking files, folders of them (all *.jsonl), or patterns such as my_rankings/*.jsonl")
    parser.add_argument("--out", type=path_text, required=True, metavar="FILE", help="the new file")
    return parser


def _merge(options: dict[str, Any]) -> int:
    from rlhf_mini import rankings
    from rlhf_mini.tables import agreement_table

    records = rankings.merge(options["files"], options["out"])
    judged = [record for record in rankings.current(records) if record.ranking]
    annotators = len({record.annotator for record in judged})
    print(f"{visible(options['out'])}: {len(records)} records, {len(judged)} current judgements, "
          f"{annotators} annotators")
    print(agreement_table(rankings.agreement(records)))
    return 0


def _export_parser() -> Parser:
    return export.add_options(Parser(prog="python -m rlhf_mini export", description=export.ABOUT))


COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[dict[str, Any]], int]]] = {
    "run": (_run_parser, _run),
    "seeds": (_seeds_parser, _seeds),
    "pretrain": (_pretrain_parser, _pretrain),
    "merge": (_merge_parser, _merge),
    "export": (_export_parser, export.export),
}
