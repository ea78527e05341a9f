"""The command line: options in, one clear line out where something cannot be used."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rlhf_mini.errors import InputError

# Nothing that is slow to import is imported before an option has been read: --help should answer at once.

ABOUT = """Fine-tune a tiny GPT-2 on tales, learn a taste from rankings, and let PPO chase it: once with the
KL penalty, once without. Everything is written into one folder; report.html tells the story."""
COMMANDS_HELP = """other commands (each has --help):
  run                  what happens without a command
  seeds                the run for several seeds, and the table of all of them
  pretrain             rebuild the embedded checkpoint
  merge                pool several annotators' ranking files into one"""
SEED_HELP = "everything random follows from it (default: 0)"
PPO_OPTIONS = ("kl_coef", "temperature", "adaptive")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are InputErrors: one line, no usage."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, argument_default=argparse.SUPPRESS,
                         formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for input that cannot be used, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and arguments[0] in COMMANDS else "run"
    make_parser, command = COMMANDS[name]
    try:
        given = vars(make_parser().parse_args(arguments))
        with _prepared(given):
            return command(given)
    except InputError as error:
        return _complain(str(error), 2)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _complain(f"{error}: give a shorter name", 2)
        return _complain(f"{error}: what is finished is kept, and --resume continues a run", 1)
    except KeyboardInterrupt:
        return _complain("stopped", 130)


def _complain(message: str, code: int) -> int:
    print("rlhf_mini:", " ".join(message.split()), file=sys.stderr)
    return code


# --- run ---------------------------------------------------------------------------------------------------

def _run_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini", description=ABOUT, epilog=COMMANDS_HELP)
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="the run's folder (default: the next runs/NNN)")
    add("--seed", type=int, metavar="N", help=SEED_HELP)
    add("--resume", action="store_true",
        help="continue the run in DIR (default: the latest unfinished one under runs)")
    return _add_run_options(parser)


def _add_run_options(parser: Parser) -> Parser:
    from rlhf_mini.config import PPOConfig

    ppo, add = PPOConfig(), parser.add_argument
    add("--base", metavar="PATH_OR_NAME", help="another GPT-2 to start from: a folder, or a name on the hub")
    add("--rankings", type=Path, nargs="+", action="extend", metavar="FILE",
        help="people's rankings, instead of the panel's (may be given again)")
    add("--kl-coef", type=float, metavar="X", help=f"weight of the KL penalty (default: {ppo.kl_coef})")
    add("--adaptive", action="store_true", help="let the weight follow a KL target instead of staying fixed")
    add("--temperature", type=float, metavar="T",
        help=f"of all sampling and log-probabilities (default: {ppo.temperature})")
    add("--quick", action="store_true", help="a rough pass in three minutes")
    return parser


def _run(given: dict[str, Any]) -> int:
    from rlhf_mini.run.folder import RunFolder, latest_unfinished, next_folder
    from rlhf_mini.tables import summary

    resume = given.pop("resume", False)
    out = given.get("out") or (latest_unfinished() if resume else next_folder())
    finished = resume and (out / "metrics.json").exists()
    if finished:
        from rlhf_mini.run.folder import read_json
        metrics = read_json(out / "metrics.json", {})
    else:
        config = run_config(given | {"out": out}, resume)
        RunFolder(config, resume).check()  # before the seconds that importing torch takes
        from rlhf_mini.pipeline import run
        try:
            metrics = run(config, resume)
        except KeyboardInterrupt:
            return _complain(_how_to_go_on(out), 130)
    try:
        print(summary(metrics, out))
    except (KeyError, TypeError):
        if not finished:
            raise  # a run's own metrics: that would be our fault
        raise InputError(f"{out / 'metrics.json'} is not what a run writes: give another --out") from None
    return 0


def run_config(given: Mapping[str, Any], resume: bool = False) -> Any:
    """The settings of a run: the given options on top of the defaults, or of those of the run to resume."""
    from rlhf_mini.config import RunConfig
    from rlhf_mini.run.folder import load_config

    config = load_config(given["out"]) if resume else RunConfig(out=given["out"])
    ppo = {name: given[name] for name in PPO_OPTIONS if name in given}
    others = {name: value for name, value in given.items() if name not in PPO_OPTIONS}
    if "rankings" in others:
        others["rankings"] = tuple(path.resolve() for path in others["rankings"])
    if "base" in others:
        others["base"] = _base(others["base"])
    return replace(config, ppo=replace(config.ppo, **ppo), **others)


def _base(given: str) -> str:
    """A folder's full path, so that a run can be resumed from anywhere; a hub name as it is."""
    if not given.strip():
        raise InputError("--base is empty: give a folder or a hub name, or leave it out for the embedded checkpoint")
    return str(Path(given).resolve()) if Path(given).is_dir() else given


def _how_to_go_on(out: Path) -> str:
    if not (out / "config.json").exists():
        return "stopped before anything was written"
    return f"stopped; so far: {out / 'report.html'}; to continue: python -m rlhf_mini --resume --out {out}"


@contextmanager
def _prepared(given: Mapping[str, Any]) -> Iterator[None]:
    """Stay off the network unless a hub name is given; warnings as notes; a second Ctrl-C stops at once."""
    base = str(given.get("base", "."))
    if Path(base).exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    def note(message: Warning | str, kind: type[Warning], *_: Any) -> None:
        if issubclass(kind, UserWarning):
            print("rlhf_mini: note:", " ".join(str(message).split()), file=sys.stderr)

    def interrupt(*_: Any) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGINT, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = note  # type: ignore[assignment]
            yield
    finally:
        signal.signal(signal.SIGINT, handler)


# --- the other commands ------------------------------------------------------------------------------------

def _seeds_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini seeds",
                    description="Run the loop for several seeds and print a table with medians and ranges.\n"
                                "The same command again continues where it stopped.")
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", required=True, metavar="N", help="the seeds")
    add("--out", type=Path, required=True, metavar="FOLDER", help="a folder with one run for each")
    return _add_run_options(parser)


def _seeds(given: dict[str, Any]) -> int:
    from rlhf_mini.pipeline import run
    from rlhf_mini.run.seeds import markdown, run_seeds

    seeds, out = given.pop("seeds"), given.pop("out")
    configs = [run_config({**given, "seed": seed, "out": out / f"seed-{seed}"}) for seed in seeds]
    try:
        print(markdown(run_seeds(run, configs, out)))
    except KeyboardInterrupt:
        return _complain("stopped: the same command continues", 130)
    return 0


def _pretrain_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini pretrain",
                    description="Rebuild the embedded checkpoint: corpus, tokenizer and model.")
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of the new checkpoint")
    add("--documents", type=int, metavar="N", help="how many to write and train on, once each")
    add("--seed", type=int, metavar="N", help=SEED_HELP)
    return parser


def _pretrain(given: dict[str, Any]) -> int:
    from rlhf_mini.config import PretrainConfig
    from rlhf_mini.pretrain import pretrain

    out = given.pop("out")
    pretrain(out, PretrainConfig(**given))
    return 0


def _merge_parser() -> Parser:
    parser = Parser(prog="python -m rlhf_mini merge", description="Pool ranking files into a new one.")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="ranking files")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file")
    return parser


def _merge(given: dict[str, Any]) -> int:
    from rlhf_mini import rankings
    from rlhf_mini.tables import agreement_table

    try:
        records = rankings.merge(given["files"], given["out"])
    except rankings.NotSavedError as error:
        raise InputError(str(error)) from None
    judged = [record for record in rankings.current(records) if record.ranking]
    annotators = len({record.annotator for record in judged})
    print(f"{given['out']}: {len(records)} records, {len(judged)} judgements hold, {annotators} annotators")
    print(agreement_table(rankings.agreement(records)))
    return 0


COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[dict[str, Any]], int]]] = {
    "run": (_run_parser, _run),
    "seeds": (_seeds_parser, _seeds),
    "pretrain": (_pretrain_parser, _pretrain),
    "merge": (_merge_parser, _merge),
}
