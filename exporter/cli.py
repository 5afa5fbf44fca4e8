"""The command line: argument parsing and dispatch to the commands."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import difflib
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from exporter import __version__
from exporter.commands import INTERRUPTED, with_default_command
from exporter.durations import Duration
from exporter.errors import ExporterError, SettingsError
from exporter.logs import configure_logging, log_in_background
from exporter.plan import TargetPlan
from exporter.settings import Settings, load_settings
from exporter.settings.reference import FLAGS, Flag

# Imports that only one command needs are inside its function: importing LangChain takes more than a second.

PROGRAM = "ollama-throughput-exporter"
OK, FAILED, USAGE = 0, 1, 2

REFERENCE = (
    "Send the request of the reference program: the prompt without generation options. Only `num_ctx` is sent, so that"
    " a loaded model is not reloaded, and `keep_alive` if configured. `when_unloaded` applies as without this flag."
)
UNRECOGNIZED = "unrecognized arguments: "
EPILOG = """\
Without a command, `run` is assumed. `COMMAND --help` lists the flags of a command.
Every setting can also be written in the configuration file, and most as an environment variable.

Exit status: 0 success, 1 failure, 2 usage error.
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help with long options on the same line as their text."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)
        self._action_max_length = 16  # argparse computes the width of subcommands without their indentation


def _help(flag: Flag) -> str:
    """Return a flag's help, with its default and its environment variable."""
    notes = [f"default: {flag.default}"] if flag.default else []
    notes += [f"env: {flag.variable}"] if flag.variable else []
    text = f"{flag.meaning} ({', '.join(notes)})" if notes else flag.meaning
    return text.replace("%", "%%")


def _settings_flags(sections: Sequence[str] = (), *, without_effect: Sequence[str] = ()) -> _Parser:
    """Return a parent parser with the flags for all settings, or for those of some sections of the file.

    Flags for the keys and sections without effect are accepted, so that commands can be exchanged, and have no help.
    """
    parser = _Parser(add_help=False)
    group = parser.add_argument_group("settings")
    for flag in FLAGS:
        if sections and (not flag.key or flag.key[0] not in sections):
            continue
        group.add_argument(
            flag.option,
            dest=flag.dest,
            metavar=flag.metavar,
            action="append" if flag.repeatable else "store",
            help=argparse.SUPPRESS if flag.key[0] in without_effect else _help(flag),
        )
    return parser


class _Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest flag for an unknown one."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with 2."""
        words = message.removeprefix(UNRECOGNIZED).split()
        if message.startswith(UNRECOGNIZED) and words[0].startswith("-"):
            known = [option for option in self._option_string_actions if option.startswith("--")]
            for option in difflib.get_close_matches(words[0].partition("=")[0], known, n=1):
                message = f"{message}. Did you mean {option}?"
        super().error(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown flags where they belong, so that the usage is that of the command."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(UNRECOGNIZED + " ".join(unknown))
        return found, unknown


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; its `command` is the function to call."""
    settings, once = _settings_flags(), _settings_flags(without_effect=("web", "interval"))
    top = _Parser(
        prog=PROGRAM,
        formatter_class=_HelpFormatter,
        description="Prometheus exporter that measures how fast models on Ollama generate, per model and GPU.",
        epilog=EPILOG,
    )
    version = f"{PROGRAM} {__version__} (Python {platform.python_version()})"
    top.add_argument("--version", action="version", version=version, help="Show the version and exit.")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(
        name: str,
        function: Callable[[argparse.Namespace], int],
        text: str,
        flags: _Parser = settings,
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, parents=[flags], formatter_class=_HelpFormatter, allow_abbrev=False
        )
        command.set_defaults(command=function)
        return command

    add("run", run, "Probe on a schedule and serve /metrics (the default command).")
    probe = add("probe", probe_once, "Run a single probe of each model and print the result.", once)
    probe.add_argument("--reference", action="store_true", help=REFERENCE)
    probe.add_argument("--json", action="store_true", help="Print one JSON object per line instead of text.")
    calibrate = add(
        "calibrate", calibrate_models, "Probe several times and print the expected rates as configuration.", once
    )
    calibrate.add_argument("--runs", type=_positive, default=10, metavar="N", help="Probes per model (default: 10).")
    calibrate.add_argument("--output", type=Path, metavar="FILE", help="Write the configuration to a file.")
    for command in (probe, calibrate):
        command.add_argument("--target", metavar="NAME", help="Only use the configured target of this name.")
    check = add("check-config", check_config, "Validate the configuration and exit.")
    check.add_argument("file", nargs="?", metavar="FILE", help="Configuration file, instead of --config.file.")
    add("gpus", show_gpus, "Show the GPUs of this machine and how the gpu label is chosen.", once)
    demo = add(
        "demo", demonstrate, "Run against built-in Ollama servers, without a GPU.", _settings_flags(("web", "log"))
    )
    demo.add_argument(
        "--drop-after",
        type=_duration,
        metavar="DURATION",
        default="2m",
        help="When the rate of the simulated GPU drops (default: 2m).",
    )
    demo.add_argument("--no-real-model", action="store_true", help="Do not run the real model, which needs xllamacpp.")
    commands.add_parser("healthcheck", help="Check /-/healthy of a running exporter.")  # runs in __main__
    return top


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text!r}")
    return int(text)


def _duration(text: str) -> Duration:
    try:
        return Duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = with_default_command(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(words)
    try:
        return int(options.command(options))
    except ExporterError as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED


def _settings(options: argparse.Namespace) -> Settings:
    config_file = Path(options.config_file) if options.config_file else None
    return load_settings(config_file=config_file, flags=vars(options))


def _load(options: argparse.Namespace) -> Settings:
    settings = _settings(options)
    configure_logging(settings.log.level, settings.log.format)
    return settings


def _targets(options: argparse.Namespace) -> Sequence[TargetPlan]:
    options.log_level = options.log_level or "warn"  # the result is on the terminal already
    plans = _load(options).plans()
    if options.target is None:
        return plans
    chosen = [plan for plan in plans if plan.name == options.target]
    if not chosen:
        names = ", ".join(plan.name for plan in plans)
        raise SettingsError(f"--target: {options.target!r} is not configured. Configured targets: {names}.")
    return chosen


def run(options: argparse.Namespace) -> int:
    """Probe on a schedule and serve until SIGTERM or SIGINT."""
    from prometheus_client import CollectorRegistry

    from exporter.daemon import Daemon

    async def serve() -> None:
        daemon = Daemon(lambda: _settings(options), CollectorRegistry())
        configure_logging(daemon.settings.log.level, daemon.settings.log.format)
        await daemon.run()

    with log_in_background():
        asyncio.run(serve())
    return OK


def probe_once(options: argparse.Namespace) -> int:
    """Probe each configured model once."""
    targets = _targets(options)

    from exporter.commands.console import open_console
    from exporter.commands.probe import probe

    console = open_console(stderr=options.json)
    return asyncio.run(probe(targets, reference=options.reference, as_json=options.json, console=console))


def calibrate_models(options: argparse.Namespace) -> int:
    """Find the expected rate of each configured model."""
    targets = _targets(options)
    if options.output is not None:
        _check_that_it_can_be_written(options.output)  # fail before the probes, not after

    from exporter.commands.calibrate import calibrate
    from exporter.commands.console import open_console

    lines, complete = asyncio.run(calibrate(targets, runs=options.runs, console=open_console(stderr=True)))
    if not lines:
        print("No model had enough clean runs, so no configuration is written.", file=sys.stderr)
    elif options.output is None:
        print(lines, end="")
    else:
        _write(options.output, lines)
        print(f"Written to {options.output}. Copy its lines into the configuration file.", file=sys.stderr)
    return OK if complete else FAILED


def _check_that_it_can_be_written(path: Path) -> None:
    """Raise SettingsError if a file cannot be written. Leaves it as it is, or absent."""
    existed = path.exists()
    with _output_errors(path):
        path.open("ab").close()
        if not existed:
            path.unlink()


def _write(path: Path, text: str) -> None:
    with _output_errors(path):
        path.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"--output: cannot write {path}: {error.strerror}. Choose another file.") from error


def check_config(options: argparse.Namespace) -> int:
    """Validate the configuration, and warn about valid settings that are probably not intended."""
    from exporter.settings.checks import warnings

    options.config_file = options.file or options.config_file
    settings = _load(options)
    for warning in warnings(settings):
        print(f"warning: {warning}", file=sys.stderr)
    count = len(settings.plans())
    print(f"Configuration is valid: {count} target{'s' if count != 1 else ''}.")
    return OK


def show_gpus(options: argparse.Namespace) -> int:
    """Show the GPUs, and how each local model's label would be chosen."""
    targets = _load(options).plans()

    from exporter.commands.console import open_console
    from exporter.commands.gpus import show_gpus as show

    return asyncio.run(show(targets, open_console()))


def demonstrate(options: argparse.Namespace) -> int:
    """Run the daemon against built-in servers."""
    from exporter.commands.demo import demonstrate as run_demo

    return run_demo(options)
