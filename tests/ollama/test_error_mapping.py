"""Other libraries' exceptions, translated in one place."""

from __future__ import annotations

import inspect
import json

import httpcore
import httpx
import ollama
import ollama._types
import pydantic
import pytest

from exporter.errors import REMEDIES, ProbeError, Reason
from exporter.ollama.error_mapping import DETAIL_CHARACTERS_MAX, REASON_BY_TYPE, answer_error, map_error


@pytest.mark.parametrize("module", [httpx, httpcore, ollama, ollama._types])
def test_every_exception_of_the_libraries_has_a_reason(module: object) -> None:
    """When httpx, httpcore or ollama grows an exception that nobody translated, this fails."""
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, Exception)]
    own = [kind for kind in kinds if kind.__module__.split(".")[0] in {"httpx", "httpcore", "ollama"}]

    assert own
    assert [kind for kind in own if kind not in REASON_BY_TYPE] == []


def test_every_reason_has_a_remedy_in_words() -> None:
    """The set of reasons is closed, and each tells the operator what to do."""
    assert set(REMEDIES) == set(Reason)
    assert all(len(remedy) > 20 for remedy in REMEDIES.values())


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
def test_ollamas_own_words_decide_where_only_text_tells(status: int, text: str, reason: Reason) -> None:
    """The same answer gets the same reason, as a JSON body and as the client library's exception."""
    assert answer_error(status, json.dumps({"error": text})).reason is reason
    assert map_error(ollama.ResponseError(text, status)).reason is reason


def test_an_unknown_exception_is_internal_and_keeps_its_cause() -> None:
    """What nobody foresaw is said to be the exporter's own fault, with the traceback at hand."""
    error = RuntimeError("odd")

    translated = map_error(error)

    assert translated.reason is Reason.INTERNAL
    assert translated.__cause__ is error
    assert "RuntimeError: odd" in translated.detail


def test_a_secret_file_that_cannot_be_read_is_denied_with_its_name() -> None:
    """The operator is told which file, not only that access failed."""
    translated = map_error(FileNotFoundError(2, "No such file or directory", "/run/secrets/token"))

    assert translated.reason is Reason.DENIED
    assert "/run/secrets/token" in translated.detail


def test_a_validation_error_does_not_repeat_the_answer() -> None:
    """Pydantic prints the input, which is the server's text: the type alone is said."""
    with pytest.raises(pydantic.ValidationError) as caught:
        ollama.GenerateResponse(response="secret words", eval_count="many")

    translated = map_error(caught.value)

    assert translated.reason is Reason.PROTOCOL
    assert "secret words" not in translated.detail


def test_a_detail_is_one_bounded_line() -> None:
    """A server's page of HTML does not become a page of log."""
    detail = answer_error(500, "a\nb" * 1000).detail

    assert "\n" not in detail
    assert len(detail) <= DETAIL_CHARACTERS_MAX


def test_a_probe_error_passes_as_it_is() -> None:
    """What has its reason keeps it."""
    error = ProbeError(Reason.BUSY, "d", "r")

    assert map_error(error) is error


def test_a_certificate_that_cannot_be_verified_names_the_setting() -> None:
    """The remedy for a private authority is `tls.ca_file`."""
    assert "ca_file" in map_error(httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")).remedy
