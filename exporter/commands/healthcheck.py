"""`healthcheck`: check /-/healthy of a running exporter.

Imports the standard library alone, unless a configuration file is given that may contain the address.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from exporter.web.health import HEALTHY

DEFAULT_ADDRESS = ":10434"
TIMEOUT_SECONDS = 5
_VARIABLE = "OLLAMA_PROBE_WEB__LISTEN_ADDRESS"
_FILE_VARIABLES = ("OLLAMA_PROBE_CONFIG_FILE", "OLLAMA_PROBE_WEB")
"""If one of these is set, the settings have to be loaded to know the address."""
_CONNECTABLE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - where to connect, not where to listen


def main(arguments: Sequence[str]) -> int:
    """Return 0 if a running exporter answers that it is healthy, else 1 with a line on standard error."""
    options = parser().parse_args(arguments)
    try:
        url = options.url or _url(_listen_address(options))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    try:
        problem = _problem(url)
    except (OSError, ValueError, HTTPException) as error:
        problem = str(error)
    if problem:
        print(f"{url}: {problem}. Check that the exporter is running and the address is right.", file=sys.stderr)
    return 1 if problem else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's flags."""
    command = argparse.ArgumentParser(
        prog="ollama-throughput-exporter healthcheck",
        description="Check /-/healthy of a running exporter, at the first address on which it is configured to listen.",
    )
    command.add_argument("--url", help="URL to check, instead of the configured address.")
    command.add_argument(
        "--web.listen-address",
        dest="address",
        metavar="ADDRESS",
        help=f"Address of the exporter (default: {DEFAULT_ADDRESS}, env: {_VARIABLE}).",
    )
    command.add_argument(
        "--config.file",
        dest="config_file",
        metavar="FILE",
        help=f"Configuration file of the exporter (env: {_FILE_VARIABLES[0]}).",
    )
    return command


def _listen_address(options: argparse.Namespace) -> str:
    """Return the first address that the exporter listens on, from the source with the highest precedence."""
    environ: Mapping[str, str] = {name.upper(): value for name, value in os.environ.items() if value}
    addresses: Sequence[str]
    if options.address or _VARIABLE in environ:
        addresses = (options.address or environ[_VARIABLE]).split(",")
    elif options.config_file or any(name in environ for name in _FILE_VARIABLES):
        addresses = _configured(Path(options.config_file) if options.config_file else None)
    else:
        addresses = (DEFAULT_ADDRESS,)
    return addresses[0].strip()


def _configured(config_file: Path | None) -> Sequence[str]:
    """Return the addresses of the settings. Raises ValueError if those cannot be loaded."""
    from exporter.errors import SettingsError
    from exporter.settings import load_settings

    try:
        return load_settings(config_file=config_file, flags={}).web.listen_address
    except SettingsError as error:
        raise ValueError(str(error)) from error


def _url(address: str) -> str:
    """Return the URL of the health check for an address to listen on."""
    host, _, port = address.rpartition(":")
    return f"http://{_CONNECTABLE.get(host, host)}:{port}/-/healthy"


def _problem(url: str) -> str:
    """Return what is wrong with the answer, empty if it is that of a healthy exporter."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores proxies of the environment
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
            body = answer.read(len(HEALTHY) + 1)
    except HTTPError as error:
        error.close()
        return str(error)
    return "" if body == HEALTHY.encode() else "another program answers"
