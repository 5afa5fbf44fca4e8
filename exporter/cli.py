"""The command line: run (default), probe, calibrate, check-config, gpus, demo, healthcheck."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from exporter import __version__
from exporter.durations import Duration
from exporter.errors import ExporterError, SettingsError
from exporter.logs import configure_logging
from exporter.plan import TargetPlan
from exporter.settings import Settings, load_settings
from exporter.settings.reference import FLAGS

PROGRAM = "ollama-throughput-exporter"
OK, FAILED, USAGE = 0, 1, 2


class _Formatter(argparse.HelpFormatter):
    """Gives long options their help on the same line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)
        self._action_max_length = 16  # at least: argparse forgets that commands are indented once more


def _settings_flags(sections: tuple[str, ...] = ()) -> argparse.ArgumentParser:
    """Return the flags that set something: all of them, or those of some sections of the file."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("settings", "each also as a key of the file and as OLLAMA_PROBE_... (see README)")
    for flag in FLAGS:
        if sections and (not flag.key or flag.key[0] not in sections):
            continue
        group.add_argument(
            flag.option,
            dest=flag.dest,
            metavar=flag.metavar,
            action="append" if flag.repeatable else "store",
            help=flag.meaning.replace("%", "%%"),
        )
    return parser


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `command` holds the function to call."""
    settings = _settings_flags()
    version = f"{PROGRAM} {__version__} (Python {platform.python_version()})"
    top = argparse.ArgumentParser(
        prog=PROGRAM,
        formatter_class=_Formatter,
        description="Measures how fast models on Ollama really generate.",
        epilog="Each command takes the flags that set things: see `run --help`. Without a command it runs the daemon.",
    )
    top.add_argument("--version", action="version", version=version)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str,
        function: Callable[[argparse.Namespace], int],
        text: str,
        flags: argparse.ArgumentParser = settings,
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, parents=[flags], formatter_class=_Formatter)
        command.set_defaults(command=function)
        return command

    add("run", run, "Probe on a schedule and serve /metrics (the default).")
    probe = add("probe", probe_once, "Probe once and print the result.")
    probe.add_argument("--reference", action="store_true", help="Ask as the reference program does: without options.")
    probe.add_argument("--json", action="store_true", help="One JSON object a line instead of words.")
    calibrate = add("calibrate", calibrate_pairs, "Probe several times and print the expected rates as YAML.")
    calibrate.add_argument("--runs", type=_positive, default=10, metavar="N", help="Probes per pair (10).")
    calibrate.add_argument("--output", type=Path, metavar="FILE", help="Write the YAML lines there.")
    for command in (probe, calibrate):
        command.add_argument("--target", metavar="NAME", help="Only this one of the configured targets.")
    add("check-config", check_config, "Read the settings, say what is wrong with them, and end.")
    add("gpus", show_gpus, "Show the GPUs found, and how the gpu label would be chosen.")
    text = "Run against servers of its own: no Ollama and no GPU are needed."
    demo = add("demo", demonstrate, text, _settings_flags(("web", "log")))
    demo.add_argument(
        "--drop-after", type=_duration, metavar="DURATION", default="2m", help="When the scripted GPU slows down (2m)."
    )
    demo.add_argument("--no-real-model", action="store_true", help="Leave out the real model, which needs xllamacpp.")
    commands.add_parser("healthcheck", help="Ask a running exporter whether it is well.")  # see __main__
    return top


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs: give 1 or more")
    return int(text)


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 for a failure that was told, 2 for wrong usage."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words.insert(0, "run")
    options = parser().parse_args(words)
    try:
        return int(options.command(options))
    except ExporterError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return FAILED


def _load(options: argparse.Namespace) -> Settings:
    config_file = Path(options.config_file) if options.config_file else None
    settings = load_settings(config_file=config_file, flags=vars(options))
    configure_logging(settings.log.level, settings.log.format)
    return settings


def _targets(options: argparse.Namespace) -> Sequence[TargetPlan]:
    options.log_level = options.log_level or "warn"  # a person reads the result, not the log
    plans = _load(options).plans()
    if options.target is None:
        return plans
    chosen = [plan for plan in plans if plan.name == options.target]
    if not chosen:
        names = ", ".join(plan.name for plan in plans)
        raise SettingsError(f"--target: {options.target!r} is not configured: choose one of {names}")
    return chosen


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - the other commands do without it

    from exporter.daemon import Daemon  # noqa: PLC0415 - likewise

    async def serve() -> None:
        await Daemon(lambda: _load(options), CollectorRegistry()).run()

    asyncio.run(serve())
    return OK


def probe_once(options: argparse.Namespace) -> int:
    """Probe each configured pair once."""
    targets = _targets(options)
    commands = importlib.import_module("exporter.commands.probe")  # imports LangChain
    console = commands.open_console(stderr=options.json)
    return int(asyncio.run(commands.probe(targets, reference=options.reference, as_json=options.json, console=console)))


def calibrate_pairs(options: argparse.Namespace) -> int:
    """Find the expected rate of each configured pair."""
    targets = _targets(options)
    if options.output is not None:
        _write(options.output, "")  # what cannot be written is told before the probes, not after
    commands = importlib.import_module("exporter.commands.probe")  # imports LangChain
    console = commands.open_console(stderr=True)
    lines, complete = asyncio.run(commands.calibrate(targets, runs=options.runs, console=console))
    if options.output is None:
        print(lines, end="")
    else:
        _write(options.output, lines)
        print(f"Written to {options.output}: copy its lines into the configuration file.", file=sys.stderr)
    return OK if complete else FAILED


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--output: cannot write {path}: {error.strerror}: choose another place") from error


def check_config(options: argparse.Namespace) -> int:
    """Say what is wrong with the settings, and what is doubtful."""
    from exporter.settings.checks import warnings  # noqa: PLC0415 - this command's alone

    settings = _load(options)
    for warning in warnings(settings):
        print(f"warning: {warning}")
    plans = settings.plans()
    print(f"The settings are good: {len(plans)} target{'s' if len(plans) != 1 else ''}.")
    return OK


def show_gpus(options: argparse.Namespace) -> int:
    """Show the cards, and how each local target's label would be chosen."""
    targets = _load(options).plans()
    from exporter.commands import console, gpus  # noqa: PLC0415 - imports LangChain

    return asyncio.run(gpus.show_gpus(targets, console.open_console()))


def demonstrate(options: argparse.Namespace) -> int:
    """Run the daemon against servers of its own."""
    demo = importlib.import_module("exporter.commands.demo")
    return int(demo.demonstrate(options))
