"""The golden file of messages: what a user reads on the terminal and in the log, in one place.

Messages are worded here and nowhere else in the tests. `make golden` writes the file after a change.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import httpcore
import httpx
import ollama
from rich.console import Console
from support.configurations import FILES, MISTAKES, WARNINGS, Case
from support.probing import target_plan
from support.readings import FULL, PLAN, TRUNCATED

from exporter import cli
from exporter.commands.console import print_reading, readings_table
from exporter.commands.demo import print_introduction
from exporter.commands.probers import print_failure
from exporter.durations import Duration
from exporter.errors import Failure, ProbeError, Reason, SkipReason
from exporter.ollama.answers import RefusedAnswerError
from exporter.ollama.error_mapping import map_errors
from exporter.ollama.network import NameNotResolvedError
from exporter.plan import ModelKey
from exporter.state.model_state import ModelState, status_at

HERE = Path(__file__).parent
FILE = "messages.txt"
KEY = ModelKey("gpu-a", "llama3.1")
COLUMNS = 80


def status_error(status: int, text: str, **headers: str) -> Exception:
    """Return the exception of httpx for an error status of `/api/version`."""
    request = httpx.Request("GET", "http://gpu-a:11434/api/version")
    response = httpx.Response(status, text=text, headers=headers, request=request)
    return httpx.HTTPStatusError("", request=request, response=response)


def connect_error(cause: Exception) -> Exception:
    """Return the exception of httpcore for a connection that failed."""
    error = httpcore.ConnectError(str(cause))
    error.__cause__ = cause
    return error


def certificate_error(code: int, text: str) -> Exception:
    """Return OpenSSL's exception for a certificate that was not accepted."""
    error = ssl.SSLCertVerificationError(1, text)
    error.verify_code, error.verify_message = code, text
    return connect_error(error)


def tls_error(reason: str) -> Exception:
    """Return OpenSSL's exception for a handshake that failed."""
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return connect_error(error)


LIBRARY_ERRORS: tuple[Exception, ...] = (
    connect_error(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")),
    connect_error(OSError(errno.EHOSTUNREACH, "No route to host")),
    connect_error(OSError(errno.EMFILE, "Too many open files")),
    socket.gaierror(-2, "Name or service not known"),
    NameNotResolvedError("gpu-a was not resolved within 4 s"),
    httpcore.ConnectTimeout("no answer within 4 s"),
    certificate_error(20, "unable to get local issuer certificate"),
    certificate_error(10, "certificate has expired"),
    certificate_error(62, "Hostname mismatch, certificate is not valid for 'gpu-a'."),
    tls_error("WRONG_VERSION_NUMBER"),
    tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"),
    httpcore.RemoteProtocolError("Server disconnected without sending a response."),
    RefusedAnswerError("the answer is longer than 2097152 bytes"),
    status_error(404, "404 page not found"),
    status_error(308, "", location="https://gpu-a/api/version"),
    ollama.ResponseError("unauthorized", 401),
    httpx.ReadTimeout("timed out"),
    httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
    ollama.ResponseError("model 'llama3.1' not found", 404),
    ollama.ResponseError("cudaMalloc failed: out of memory", 500),
    ollama.ResponseError("server busy, please try again", 503),
    ollama.ResponseError("", 403),
    ollama.ResponseError('"all-minilm" does not support generate', 400),
    ollama.ResponseError("an error was encountered while running the model: unexpected EOF", -1),
    RuntimeError("unexpected"),
)
"""One exception for each way in which it is described."""


def reasons() -> Iterator[str]:
    """Yield each reason with its text."""
    yield from (f"{reason}: {reason.remedy}" for reason in Reason)
    yield from (f"skipped, {reason}: {reason.text}" for reason in SkipReason)


def failures() -> Iterator[str]:
    """Yield how each library error is printed."""
    for error in LIBRARY_ERRORS:
        console = terminal()
        try:
            with map_errors(target_plan("http://gpu-a:11434"), str):
                raise error
        except ProbeError as failure:
            print_failure(console, "llama3.1 on gpu-a", failure)
        yield text_on(console)


def configuration_errors() -> Iterator[str]:
    """Yield what `check-config` prints for each mistake."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in FILES.items():
            Path(name).write_text(content, encoding="utf-8")
        yield from (f"# {case.name}\n{check_config(case)}" for case in (*MISTAKES, *WARNINGS))


def check_config(case: Case) -> str:
    """Return the errors and warnings of `check-config`."""
    arguments = ["check-config", *case.arguments]
    if case.text:
        Path("config.yml").write_text(case.text, encoding="utf-8")
        arguments += ["--config.file", "config.yml"]
    errors = io.StringIO()
    with (
        mock.patch.dict(os.environ, case.environ, clear=True),
        mock.patch("exporter.settings.checks.in_container", return_value=case.in_container),
        mock.patch("socket.gethostname", return_value="5e1f0a7c"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(errors),
    ):
        cli.main(arguments)
    return errors.getvalue().rstrip("\n")


def terminal() -> Console:
    """Return a terminal that keeps what is printed, without colours."""
    return Console(file=io.StringIO(), width=COLUMNS, highlight=False, color_system=None)


def text_on(console: Console) -> str:
    """Return what was printed, without the blanks that fill a table's lines."""
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def results() -> Iterator[str]:
    """Yield how `probe` prints a full and a truncated reading, and the demo its introduction and its table."""
    for reading in (FULL, TRUNCATED):
        console = terminal()
        print_reading(console, KEY, replace(reading, text="A neuron adds."))
        yield text_on(console)
    console = terminal()
    targets = [{"name": "demo-gpu", "url": "http://127.0.0.1:35001"}]
    print_introduction(console, ["http://[::]:10434"], "/metrics", targets, Duration(120))
    yield text_on(console)
    new = ModelState(key=KEY, plan=PLAN)
    good = new.with_success(FULL, 3.0, 10.0)
    slow = new.with_success(replace(TRUNCATED, finished_at=FULL.finished_at), 120.0, 10.0)
    failed = good.with_failure(Failure(Reason.STALLED, "", ""), 3.0, 11.0)
    console = terminal()
    console.print(readings_table([status_at(state, 12.0) for state in (new, good, slow, failed)]))
    yield text_on(console)


SECTIONS = {
    "Reasons": reasons,
    "Failures of a probe, by library error": failures,
    "Errors and warnings of check-config": configuration_errors,
    "Results": results,
}


def messages() -> str:
    """Return the content of the golden file."""
    sections = (f"== {title} ==\n\n" + "\n\n".join(entries()) for title, entries in SECTIONS.items())
    return "\n\n".join(sections) + "\n"


if __name__ == "__main__":
    (HERE / FILE).write_text(messages(), encoding="utf-8")
