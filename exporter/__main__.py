"""Entry point. Health checks run twice a minute, so they are answered before anything heavy is imported."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from exporter.commands import INTERRUPTED, with_default_command


def main() -> int:
    """Run the command line and return its exit status."""
    command = with_default_command(sys.argv[1:])[0]
    if command == "run":
        _handle_signals_until_the_daemon_does()
    try:
        if command == "healthcheck":
            from exporter.commands import healthcheck

            return healthcheck.main(sys.argv[2:])
        from exporter import cli

        return cli.main()
    except KeyboardInterrupt:
        return INTERRUPTED


def _handle_signals_until_the_daemon_does() -> None:
    """Ignore SIGHUP, which a service manager may send at any time; exit with 0 on the signals that stop the daemon.

    Importing what the daemon needs takes a second. Until then nothing has been started that would have to be stopped.
    """
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)


def _exit(_number: int, _frame: object) -> NoReturn:
    os._exit(0)  # an exception could be lost in an import


if __name__ == "__main__":
    sys.exit(main())
