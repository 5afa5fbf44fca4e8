"""Error mapping: the exceptions of httpx, httpcore, ollama and LangChain become a `ProbeError`.

`map_errors` is applied once per request, in `OllamaClient` and in `ReferenceChain`, and once around a whole probe for
everything that is not a request. Mapping, redaction and shortening happen here and nowhere else.

Where only the text distinguishes errors (out of memory, a missing model), it is compared with Ollama's messages:
`server/routes.go`, `server/sched.go` and `llm/status.go` of Ollama 0.33.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus

import httpcore
import httpx
import ollama
import pydantic
from ollama._types import RequestError

from exporter.errors import ProbeError, Reason
from exporter.ollama.answers import RefusedAnswerError
from exporter.ollama.remedies import Problem, connection_problem, status_remedy
from exporter.plan import TargetPlan

DETAIL_CHARACTERS_MAX = 300
TEXT_CHARACTERS_MAX = 2000
"""Maximum length of a server's text that is searched: the time grows with the square of the length."""
Redact = Callable[[str], str]
"""Replaces secrets in a text. Applied before the text is shortened, because a secret that was cut is not recognised."""

REASONS: Mapping[type[Exception], Reason] = {
    httpx.HTTPError: Reason.PROTOCOL,
    httpx.ConnectError: Reason.CONNECT,
    httpx.ConnectTimeout: Reason.CONNECT,
    httpx.ProxyError: Reason.CONNECT,
    httpx.UnsupportedProtocol: Reason.CONNECT,
    httpx.InvalidURL: Reason.CONNECT,
    httpx.TimeoutException: Reason.TIMEOUT,
    httpx.TooManyRedirects: Reason.HTTP,
    httpx.HTTPStatusError: Reason.HTTP,
    httpx.CookieConflict: Reason.INTERNAL,
    httpx.StreamError: Reason.INTERNAL,
    httpcore.NetworkError: Reason.PROTOCOL,
    httpcore.ProtocolError: Reason.PROTOCOL,
    httpcore.ConnectError: Reason.CONNECT,
    httpcore.ConnectTimeout: Reason.CONNECT,
    httpcore.ProxyError: Reason.CONNECT,
    httpcore.UnsupportedProtocol: Reason.CONNECT,
    httpcore.ConnectionNotAvailable: Reason.CONNECT,
    httpcore.TimeoutException: Reason.TIMEOUT,
    ollama.ResponseError: Reason.HTTP,
    RequestError: Reason.INTERNAL,
    ConnectionError: Reason.CONNECT,
    TimeoutError: Reason.TIMEOUT,
}
"""The reason for each library exception. The most specific class of an exception decides; others are `internal`."""

STREAM_REASONS: Mapping[type[Exception], Reason] = {
    **REASONS,
    AttributeError: Reason.PROTOCOL,
    TypeError: Reason.PROTOCOL,
    ValueError: Reason.PROTOCOL,
    RecursionError: Reason.PROTOCOL,
}
"""As `REASONS`, for a request whose answer the Ollama client and LangChain parse.

They assume that each line is an object of valid JSON whose `error` is a string, and raise these where it is not.
"""

_OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|(cuda|hip)malloc failed|failed to allocate|unable to allocate|"
    r"(not enough|insufficient|requires more)( \w+)? memory",
    re.IGNORECASE,
)
_MODEL_MISSING = re.compile(r"model .*not found|invalid model name|try pulling it", re.IGNORECASE | re.DOTALL)
_UNSUPPORTED = re.compile(r"does not support|not supported", re.IGNORECASE)


@contextlib.contextmanager
def map_errors(plan: TargetPlan, redact: Redact, reasons: Mapping[type[Exception], Reason] = REASONS) -> Iterator[None]:
    """Raise every exception of the block as a `ProbeError`, redacted and shortened, with the exception as its cause.

    A `ProbeError` passes unchanged: it was raised on purpose, or mapped already. The target's URL is shown where the
    server could not be reached.
    """
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        reason, detail, remedy = _describe(error, plan, reasons)
        if reason is Reason.CONNECT:
            detail = f"{plan.url}: {detail}"
        raise ProbeError(reason, one_line(redact(detail), DETAIL_CHARACTERS_MAX), remedy and redact(remedy)) from error


def one_line(text: str, characters: int) -> str:
    """Return the beginning of a text with its whitespace collapsed, as valid Unicode."""
    start = text[: characters * 10].encode(errors="replace").decode()
    return " ".join(start.split())[:characters]


def reason_for(error: BaseException, reasons: Mapping[type[Exception], Reason] = REASONS) -> Reason:
    """Return the reason of the most specific class of an exception, `internal` if none of its classes has one."""
    return next((reasons[kind] for kind in type(error).__mro__ if kind in reasons), Reason.INTERNAL)


def reason_for_answer(status: int, text: str) -> Reason:
    """Return the reason for a server's error, by its text first and its HTTP status second.

    The status is -1 for an error inside a stream that began with 200, as in `ollama.ResponseError`.
    """
    if _OUT_OF_MEMORY.search(text):
        return Reason.OUT_OF_MEMORY
    if _MODEL_MISSING.search(text):
        return Reason.MODEL_MISSING
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED}:
        return Reason.DENIED
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        return Reason.BUSY
    if status == HTTPStatus.BAD_REQUEST and _UNSUPPORTED.search(text):
        return Reason.UNSUPPORTED
    return Reason.HTTP


def _describe(error: Exception, plan: TargetPlan, reasons: Mapping[type[Exception], Reason]) -> Problem:
    """Return the reason, what was seen, and a specific remedy if one is known."""
    if isinstance(error, RefusedAnswerError):
        return Problem(Reason.PROTOCOL, str(error), error.remedy)
    if isinstance(error, ollama.ResponseError):
        return _describe_answer(plan, error.status_code, error.error, None)
    if isinstance(error, httpx.HTTPStatusError):
        return _describe_answer(plan, error.response.status_code, _error_text(error.response.text), error.response)
    if problem := connection_problem(error, plan):
        return problem
    name = type(error).__name__
    # The text of a validation error repeats the server's answer, and takes a second if that is long.
    text = "" if isinstance(error, pydantic.ValidationError) else str(error)
    return Problem(reason_for(error, reasons), f"{name}: {text}" if text else name, None)


def _describe_answer(plan: TargetPlan, status: int, text: str, response: httpx.Response | None) -> Problem:
    shown = f"HTTP {status}" if status > 0 else "HTTP 200 with an error"
    start = text[:TEXT_CHARACTERS_MAX]
    reason = reason_for_answer(status, start)
    remedy = status_remedy(plan, reason, status, start, response)
    return Problem(reason, f"{shown}: {text}" if start.strip() else shown, remedy)


def _error_text(body: str) -> str:
    """Return the `error` of a JSON body as Ollama sends it, or else the body itself."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else body
