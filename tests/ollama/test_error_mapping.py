"""The exceptions of other libraries, mapped to reasons in one place."""

from __future__ import annotations

import inspect
import json

import httpcore
import httpx
import ollama
import ollama._types
import pydantic
import pytest
from support.probing import target_plan

from exporter.errors import ProbeError, Reason
from exporter.ollama.error_mapping import DETAIL_CHARACTERS_MAX, REASONS, STREAM_REASONS, map_errors, reason_for

URL = "http://gpu-a:11434"


def mapped(error: Exception, secret: str = "none", **arguments: object) -> ProbeError:
    """Return what an exception is mapped to, with one secret redacted."""
    with (
        pytest.raises(ProbeError) as caught,
        map_errors(target_plan(URL), lambda text: text.replace(secret, "<secret>"), **arguments),  # type: ignore[arg-type]
    ):
        raise error
    return caught.value


def status_error(status: int, body: str) -> httpx.HTTPStatusError:
    """Return httpx's error for an answer with an error status."""
    response = httpx.Response(status, text=body, request=httpx.Request("GET", URL))
    return httpx.HTTPStatusError("", request=response.request, response=response)


@pytest.mark.parametrize("module", [httpx, httpcore, ollama, ollama._types])
def test_every_exception_of_the_libraries_has_a_reason(module: object) -> None:
    """Each exception class of httpx, httpcore and ollama, or one of its bases, is in the table."""
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]
    own = [kind for kind in kinds if kind.__module__.split(".")[0] in {"httpx", "httpcore", "ollama"}]

    assert own
    assert [kind for kind in own if not set(kind.__mro__) & set(REASONS)] == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (httpx.ConnectError, Reason.CONNECT),
        (httpx.ConnectTimeout, Reason.CONNECT),
        (httpx.UnsupportedProtocol, Reason.CONNECT),
        (httpx.ReadTimeout, Reason.TIMEOUT),
        (httpx.PoolTimeout, Reason.TIMEOUT),
        (httpx.ReadError, Reason.PROTOCOL),
        (httpx.RemoteProtocolError, Reason.PROTOCOL),
        (httpx.DecodingError, Reason.PROTOCOL),
        (httpx.TooManyRedirects, Reason.HTTP),
        (httpx.ResponseNotRead, Reason.INTERNAL),
        (httpcore.ConnectError, Reason.CONNECT),
        (httpcore.WriteTimeout, Reason.TIMEOUT),
        (httpcore.ReadError, Reason.PROTOCOL),
        (ConnectionResetError, Reason.CONNECT),
        (RuntimeError, Reason.INTERNAL),
    ],
)
def test_the_most_specific_class_decides(kind: type[Exception], reason: Reason) -> None:
    """A connect timeout is `connect` although it is a timeout as well; an unknown class is `internal`."""
    error = kind.__new__(kind)

    assert reason_for(error) is reason
    assert reason_for(error, STREAM_REASONS) is reason


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (404, "model 'x' not found", Reason.MODEL_MISSING),
        (404, 'model "x" not found, try pulling it first', Reason.MODEL_MISSING),
        (400, "invalid model name", Reason.MODEL_MISSING),
        (404, "404 page not found", Reason.HTTP),
        (400, '"nomic" does not support generate', Reason.UNSUPPORTED),
        (400, '"x" does not support thinking', Reason.UNSUPPORTED),
        (401, "unauthorized", Reason.DENIED),
        (403, "", Reason.DENIED),
        (503, "server busy, please try again.  maximum pending requests exceeded", Reason.BUSY),
        (500, "llama runner process has terminated: cudaMalloc failed: out of memory", Reason.OUT_OF_MEMORY),
        (500, "hipMalloc failed", Reason.OUT_OF_MEMORY),
        (500, "ErrorOutOfMemory", Reason.OUT_OF_MEMORY),
        (500, "failed to allocate compute buffers", Reason.OUT_OF_MEMORY),
        (500, "unable to allocate CUDA0 buffer", Reason.OUT_OF_MEMORY),
        (500, "not enough memory", Reason.OUT_OF_MEMORY),
        (500, "insufficient memory", Reason.OUT_OF_MEMORY),
        (500, "model requires more system memory (5.6 GiB) than is available (3.1 GiB)", Reason.OUT_OF_MEMORY),
        (-1, "CUDA error: out of memory", Reason.OUT_OF_MEMORY),
        (-1, "an error was encountered while running the model: unexpected EOF", Reason.HTTP),
        (500, "llama-server process has terminated: signal: illegal instruction", Reason.HTTP),
        (502, "<html>bad gateway</html>", Reason.HTTP),
    ],
)
def test_ollamas_text_decides_where_only_the_text_distinguishes(status: int, text: str, reason: Reason) -> None:
    """The same answer has the same reason and detail, whether httpx or the Ollama client received it."""
    from_client = mapped(ollama.ResponseError(text, status))
    from_httpx = mapped(status_error(status, json.dumps({"error": text})))

    assert from_client.reason is from_httpx.reason is reason
    if status > 0:
        assert from_client.detail == from_httpx.detail
        assert str(status) in from_client.detail


@pytest.mark.parametrize("body", ["[" * 100_000, '{"error": {"code": 5}}', "[1]", "", "<html>"])
def test_an_error_body_of_any_form_is_mapped(body: str) -> None:
    """A body that is not Ollama's JSON is shown as it is."""
    error = mapped(status_error(500, body))

    assert error.reason is Reason.HTTP
    assert body[:50] in error.detail


def test_an_unknown_exception_is_internal_and_keeps_its_cause() -> None:
    """The cause is what the log prints as a traceback."""
    error = RuntimeError("odd")

    failure = mapped(error)

    assert failure.reason is Reason.INTERNAL
    assert failure.__cause__ is error
    assert "RuntimeError: odd" in failure.detail


@pytest.mark.parametrize(
    "error", [AttributeError("get"), TypeError("NoneType"), ValueError("digits"), RecursionError()]
)
def test_an_answer_that_a_library_cannot_parse_is_protocol_only_in_a_stream(error: Exception) -> None:
    """Elsewhere the same exceptions are bugs of this program."""
    assert mapped(error, reasons=STREAM_REASONS).reason is Reason.PROTOCOL
    assert mapped(error).reason is Reason.INTERNAL


def test_a_validation_error_does_not_repeat_the_answer() -> None:
    """Pydantic prints its input, which is the server's text."""
    with pytest.raises(pydantic.ValidationError) as caught:
        ollama.GenerateResponse(response="", eval_count="secret words")

    failure = mapped(caught.value, reasons=STREAM_REASONS)

    assert failure.reason is Reason.PROTOCOL
    assert "secret words" not in failure.detail


def test_a_detail_is_one_bounded_line() -> None:
    """An HTML page as the answer must not fill the log."""
    detail = mapped(status_error(500, "a\nb" * 1000)).detail

    assert "\n" not in detail
    assert len(detail) == DETAIL_CHARACTERS_MAX


def test_secrets_are_redacted_before_the_detail_is_shortened() -> None:
    """Otherwise the first half of a secret could remain at the end of the text."""
    detail = mapped(RuntimeError("." * (DETAIL_CHARACTERS_MAX - 25) + "hush-hush-hush"), secret="hush-hush-hush").detail

    assert "hush" not in detail


def test_a_probe_error_passes_unchanged() -> None:
    """It was raised with a specific remedy, or mapped already."""
    error = ProbeError(Reason.BUSY, "detail", "remedy")

    assert mapped(error) is error


def test_a_server_that_cannot_be_reached_is_shown_with_its_url() -> None:
    """The detail names what was tried."""
    assert URL in mapped(httpx.ConnectError("refused")).detail


def test_cancellation_passes() -> None:
    """Only exceptions are mapped, not what ends a task."""
    with pytest.raises(KeyboardInterrupt), map_errors(target_plan(URL), str):
        raise KeyboardInterrupt
