"""What every test gets: a clean environment, loopback only; and the real programs for those that ask."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from support import programs

LEAKY = ("LANGSMITH", "LANGCHAIN", "OLLAMA", "OTEL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
KEPT = "OLLAMA_CONTRACT_"  # tests/contract/ on a real server


def _is_loopback(host: str | bytes | None) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost", socket.gethostname()}:
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _keep_to_loopback(event: str, arguments: tuple[Any, ...]) -> None:
    """Resolve and connect only to loopback in this process; programs that it starts are not affected."""
    if event == "socket.getaddrinfo" and not _is_loopback(arguments[0]):
        raise socket.gaierror(socket.EAI_NONAME, f"tests resolve no other machine's name: {arguments[0]}")
    if event == "socket.connect" and isinstance(arguments[1], tuple) and not _is_loopback(arguments[1][0]):
        raise OSError(errno.ENETUNREACH, f"tests connect to loopback only, not to {arguments[1]}")


def pytest_configure() -> None:
    """Clean the environment before any test module, and so LangChain, is imported."""
    for name in list(os.environ):
        if name.upper().startswith(LEAKY) and not name.startswith(KEPT):
            del os.environ[name]
    sys.addaudithook(_keep_to_loopback)
    hypothesis.settings.register_profile("exporter", deadline=None)  # no test fails for being slow
    hypothesis.settings.load_profile("exporter")


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Undo what a test changes in the configuration of the logging."""
    root, exporter = logging.getLogger(), logging.getLogger("exporter")
    before = root.handlers[:], root.level, exporter.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, exporter.level = before


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print why tests were skipped, how many for each reason. A reason says what to install or set."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped tests")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:4}  {' '.join(reason.split())}")


@pytest.fixture(scope="session", params=[2, 3], ids=["prometheus2", "prometheus3"])
def release(request: pytest.FixtureRequest) -> programs.Release:
    """Return a release of Prometheus; a test that takes it, or a fixture on it, runs once for each major version."""
    for found in programs.releases():
        if found.major == request.param:
            return found
    pytest.skip(
        f"no Prometheus {request.param}: `make programs` fetches it on Debian; elsewhere put prometheus, promtool, "
        f"alertmanager and amtool of a release {request.param} on PATH"
    )


@pytest.fixture(scope="session")
def newest_release() -> programs.Release:
    """Return the newest Prometheus of this machine, for a test that one version is enough for."""
    if not programs.releases():
        pytest.skip(
            "no Prometheus: `make programs` fetches it on Debian; elsewhere put prometheus, promtool, alertmanager "
            "and amtool on PATH"
        )
    return programs.releases()[-1]


@pytest.fixture(scope="session")
def promtool(release: programs.Release) -> Path:
    """Return promtool, of each major version in turn."""
    return release.promtool


@pytest.fixture(scope="session")
def run_prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., programs.Prometheus]]:
    """Return a function `(release, config, *flags, folder=None)` that starts a Prometheus; it ends with the session."""
    with ExitStack() as stack:

        def run(release: programs.Release, config: str, *flags: str, folder: Path | None = None) -> programs.Prometheus:
            where = folder or tmp_path_factory.mktemp("prometheus")
            return stack.enter_context(programs.run_prometheus(release, config, where, *flags))

        yield run


@pytest.fixture(scope="session")
def run_alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[programs.Release, str], str]]:
    """Return a function `(release, config)` that starts an Alertmanager which ends with the session; gives its URL."""
    with ExitStack() as stack:

        def run(release: programs.Release, config: str) -> str:
            folder = tmp_path_factory.mktemp("alertmanager")
            return stack.enter_context(programs.run_alertmanager(release, config, folder))

        yield run


@pytest.fixture
def webhook() -> Iterator[programs.Webhook]:
    """Return a running receiver for Alertmanager's webhook."""
    with programs.run_webhook() as receiver:
        yield receiver
