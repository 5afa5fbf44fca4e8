"""The one place that turns other libraries' exceptions into a `ProbeError`.

`REASON_BY_TYPE` names every exception of httpx, httpcore and ollama, so that a test can tell when one of them grows a
new one. Where only text tells (out of memory, a missing model), Ollama's own messages decide: `server/routes.go`,
`server/sched.go` and `llm/status.go` of ollama 0.33.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Callable
from http import HTTPStatus

import httpcore
import httpx
import ollama
import pydantic
from ollama._types import RequestError

from exporter.errors import ProbeError, Reason

DETAIL_CHARACTERS_MAX = 300
Redact = Callable[[str], str]
"""Takes the secrets out of a text; before it is shortened, since half a secret is not recognised."""

REASON_BY_TYPE: dict[type[BaseException], Reason] = {
    httpx.ConnectError: Reason.CONNECT,
    httpx.ConnectTimeout: Reason.CONNECT,
    httpx.ProxyError: Reason.CONNECT,
    httpx.UnsupportedProtocol: Reason.CONNECT,
    httpx.InvalidURL: Reason.CONNECT,
    httpx.ReadTimeout: Reason.TIMEOUT,
    httpx.WriteTimeout: Reason.TIMEOUT,
    httpx.PoolTimeout: Reason.TIMEOUT,
    httpx.TimeoutException: Reason.TIMEOUT,
    httpx.TooManyRedirects: Reason.HTTP,
    httpx.HTTPStatusError: Reason.HTTP,
    httpx.ReadError: Reason.PROTOCOL,
    httpx.WriteError: Reason.PROTOCOL,
    httpx.CloseError: Reason.PROTOCOL,
    httpx.NetworkError: Reason.PROTOCOL,
    httpx.LocalProtocolError: Reason.PROTOCOL,
    httpx.RemoteProtocolError: Reason.PROTOCOL,
    httpx.ProtocolError: Reason.PROTOCOL,
    httpx.DecodingError: Reason.PROTOCOL,
    httpx.TransportError: Reason.PROTOCOL,
    httpx.RequestError: Reason.PROTOCOL,
    httpx.HTTPError: Reason.PROTOCOL,
    httpx.CookieConflict: Reason.INTERNAL,
    httpx.StreamConsumed: Reason.INTERNAL,
    httpx.StreamClosed: Reason.INTERNAL,
    httpx.ResponseNotRead: Reason.INTERNAL,
    httpx.RequestNotRead: Reason.INTERNAL,
    httpx.StreamError: Reason.INTERNAL,
    httpcore.ConnectError: Reason.CONNECT,
    httpcore.ConnectTimeout: Reason.CONNECT,
    httpcore.ProxyError: Reason.CONNECT,
    httpcore.UnsupportedProtocol: Reason.CONNECT,
    httpcore.ConnectionNotAvailable: Reason.CONNECT,
    httpcore.ReadTimeout: Reason.TIMEOUT,
    httpcore.WriteTimeout: Reason.TIMEOUT,
    httpcore.PoolTimeout: Reason.TIMEOUT,
    httpcore.TimeoutException: Reason.TIMEOUT,
    httpcore.ReadError: Reason.PROTOCOL,
    httpcore.WriteError: Reason.PROTOCOL,
    httpcore.NetworkError: Reason.PROTOCOL,
    httpcore.RemoteProtocolError: Reason.PROTOCOL,
    httpcore.LocalProtocolError: Reason.PROTOCOL,
    httpcore.ProtocolError: Reason.PROTOCOL,
    ollama.ResponseError: Reason.HTTP,
    RequestError: Reason.INTERNAL,
    ConnectionError: Reason.CONNECT,
    TimeoutError: Reason.TIMEOUT,
    json.JSONDecodeError: Reason.PROTOCOL,
    RecursionError: Reason.PROTOCOL,  # of JSON that is nested without end: nothing else recurses
    UnicodeDecodeError: Reason.PROTOCOL,
    pydantic.ValidationError: Reason.PROTOCOL,
}

_OUT_OF_MEMORY = re.compile(
    r"out of memory|outofmemory|(cuda|hip)malloc failed|failed to allocate|unable to allocate|"
    r"(not enough|insufficient|requires more)( \w+)? memory",
    re.IGNORECASE,
)
_MODEL_MISSING = re.compile(r"model .*not found|invalid model name|try pulling it", re.IGNORECASE | re.DOTALL)
_UNSUPPORTED = re.compile(r"does not support|not supported", re.IGNORECASE)


def reason_of_answer(status: int, text: str) -> Reason:
    """Return the reason for an error that the server told, by its text first and its HTTP status second.

    Ollama's client says status -1 for an error line inside a stream that began with 200.
    """
    by_text = {_OUT_OF_MEMORY: Reason.OUT_OF_MEMORY, _MODEL_MISSING: Reason.MODEL_MISSING}
    for pattern, reason in by_text.items():
        if pattern.search(text):
            return reason
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.PROXY_AUTHENTICATION_REQUIRED}:
        return Reason.DENIED
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        return Reason.BUSY
    if status == HTTPStatus.BAD_REQUEST and _UNSUPPORTED.search(text):
        return Reason.UNSUPPORTED
    return Reason.HTTP


def error_text(body: str) -> str:
    """Return the `error` of a JSON body as Ollama sends it, else the body itself."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body
    error = answer.get("error") if isinstance(answer, dict) else None
    return error if isinstance(error, str) else body


def probe_error(reason: Reason, detail: str, remedy: str | None = None) -> ProbeError:
    """Return the error with the reason's own remedy, unless a better one is known."""
    return ProbeError(reason, " ".join(detail.split())[:DETAIL_CHARACTERS_MAX], remedy)


def answer_error(status: int, body: str, redact: Redact = str) -> ProbeError:
    """Return the error for an answer with an error status."""
    text = error_text(body)
    said = f"HTTP {status}" if status > 0 else "an error inside the answer"
    return probe_error(reason_of_answer(status, text), f"{said}: {redact(text)}" if text.strip() else said)


def _read_by_ollama(error: BaseException) -> bool:
    """Return whether the Ollama client stumbled over an answer: it takes any line for an object, any error for text."""
    frames = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [name.partition(".")[0] for name in frames]
    return "ollama" in packages and packages[-1] != "exporter"


def map_error(error: BaseException, redact: Redact = str) -> ProbeError:
    """Return the `ProbeError` for any exception; one that nobody named is `internal`, its traceback kept as cause."""
    if isinstance(error, ProbeError):
        return error
    if isinstance(error, ollama.ResponseError):
        translated = answer_error(error.status_code, error.error, redact)
    elif isinstance(error, OSError) and error.filename is not None:
        translated = probe_error(
            Reason.DENIED, f"{error.filename}: {error.strerror}", "make the secret file readable for this program"
        )
    elif isinstance(error, ValueError) and "No data received from Ollama stream" in str(error):
        translated = probe_error(Reason.PROTOCOL, "the answer was empty")
    elif isinstance(error, AttributeError | TypeError) and _read_by_ollama(error):
        translated = probe_error(Reason.PROTOCOL, "a line of the answer is not what Ollama sends")
    elif isinstance(error, ValueError) and "integer string conversion" in str(error):
        translated = probe_error(Reason.PROTOCOL, "a number of thousands of digits")
    else:
        reason = next((REASON_BY_TYPE[kind] for kind in type(error).__mro__ if kind in REASON_BY_TYPE), Reason.INTERNAL)
        remedy = None
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "name the certificate authority in `tls: {ca_file: ...}` of this target"
        # A validation error prints the answer's text: its type says enough.
        words = "" if isinstance(error, pydantic.ValidationError) else redact(str(error))
        translated = probe_error(reason, f"{type(error).__name__}: {words}" if words else type(error).__name__, remedy)
    translated.__cause__ = error
    return translated
