"""Log formats and levels: one line per message, and no headers from other libraries."""

from __future__ import annotations

import io
import json
import logging
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.logs import (
    Format,
    JsonFormatter,
    Level,
    LogfmtFormatter,
    configure_logging,
    dropped_messages,
    flush_logs,
    get_logger,
    log_in_background,
)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, exporter = logging.getLogger(), logging.getLogger("exporter")
    before = root.handlers[:], root.level, exporter.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, exporter.level = before


def _line(level: Level, form: Format, message: str, **fields: Any) -> str:
    stream = io.StringIO()
    configure_logging(level, form, stream)
    get_logger("exporter.test").info(message, **fields)
    return stream.getvalue()


def _fail(text: str) -> None:
    raise ValueError(text)


def _record(message: str, fields: dict[str, Any]) -> logging.LogRecord:
    record = logging.LogRecord("exporter.test", logging.WARNING, "", 0, message, None, None)
    record.created = 1_700_000_000.1234
    record.fields = fields
    return record


def test_logfmt_line() -> None:
    """Time in UTC, level, logger, message, then the fields; only values that need quotes have them."""
    fields = {"target": "gpu-a", "model": "a b", "rate": 51.55123456, "ok": True, "gpu": None, "n": 3, "empty": ""}

    assert LogfmtFormatter().format(_record("probe done", fields)) == (
        'ts=2023-11-14T22:13:20.123Z level=warn logger=exporter.test msg="probe done"'
        ' target=gpu-a model="a b" rate=51.5512 ok=true gpu=null n=3 empty=""'
    )


def test_json_line() -> None:
    """Numbers stay numbers; values that JSON cannot represent become text."""
    fields = {"rate": 51.55, "n": 3, "ok": True, "gpu": None, "bad": math.nan, "path": ValueError("x")}

    assert json.loads(JsonFormatter().format(_record("probe done", fields))) == {
        "ts": "2023-11-14T22:13:20.123Z",
        "level": "warn",
        "logger": "exporter.test",
        "msg": "probe done",
        "rate": 51.55,
        "n": 3,
        "ok": True,
        "gpu": None,
        "bad": "nan",
        "path": "x",
    }


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_starts_a_second_line(text: str) -> None:
    """Newlines, quotes, control characters and surrogates cannot forge a second line or a second field."""
    record = _record(text, {"model": text})
    logfmt, as_json = LogfmtFormatter().format(record), JsonFormatter().format(record)

    for line in (logfmt, as_json):
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        line.encode()
    if "://" not in text:
        assert json.loads(as_json)["model"] == text
        value = logfmt.partition(" model=")[2]
        if value.startswith('"'):
            assert json.loads(value) == text


def test_value_with_an_equals_sign_is_quoted() -> None:
    """A logfmt parser must not read part of a value as a key."""
    assert (
        LogfmtFormatter()
        .format(_record("x", {"a": "b=c", "d": 'e"f', "g": "h\\i"}))
        .endswith(' a="b=c" d="e\\"f" g="h\\\\i"')
    )


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_traceback_stays_on_its_line(form: Format) -> None:
    """The whole traceback is in one field."""
    stream = io.StringIO()
    configure_logging("info", form, stream)
    try:
        _fail("two\nlines")
    except ValueError:
        get_logger("exporter.test").exception("probe failed")

    (line,) = stream.getvalue().splitlines()
    assert "Traceback (most recent call last):\\n" in line
    assert "ValueError: two\\nlines" in line


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_user_info_of_a_url_is_not_logged(form: Format) -> None:
    """A URL loses its user name and password in messages, fields and tracebacks."""
    stream = io.StringIO()
    configure_logging("info", form, stream)
    try:
        _fail("http://user:hunter2@c/")
    except ValueError:
        get_logger("exporter.test").exception("http://user:hunter2@a", url="http://u:hunter2@b")

    assert "hunter2" not in stream.getvalue()
    assert "http://***@a" in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_level(level: Level, written: list[str]) -> None:
    """Messages below the level are not written."""
    stream = io.StringIO()
    configure_logging(level, "json", stream)
    logger = logging.getLogger("exporter.test")
    for method in (logger.debug, logger.info, logger.warning, logger.error):
        method("x")

    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == written


def test_other_libraries_log_from_warnings_on() -> None:
    """HTTP libraries log headers at debug level, which must not be written at any configured level."""
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    for name in ("httpx", "httpcore.http11", "asyncio", "langchain"):
        logging.getLogger(name).debug("Authorization: hunter2")
        logging.getLogger(name).info("Authorization: hunter2")
        logging.getLogger(name).warning("careful")

    assert [json.loads(line)["msg"] for line in stream.getvalue().splitlines()] == ["careful"] * 4


def test_second_call_replaces_the_first() -> None:
    """Configuring again, as a reload does, neither duplicates lines nor keeps the former format."""
    assert _line("info", "json", "x").startswith("{")
    assert _line("info", "logfmt", "x", a=1).count("\n") == 1
    assert _line("warn", "logfmt", "x") == ""


def test_warnings_are_logged() -> None:
    """Python's own warnings become log lines."""
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)

    (line,) = stream.getvalue().splitlines()
    assert (json.loads(line)["level"], json.loads(line)["logger"]) == ("warn", "py.warnings")


def test_background_thread_writes_what_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines are those of the formatter, also after a reload; the context ends after the last one is written."""
    with log_in_background():
        configure_logging("info", "json")
        get_logger("exporter.test").info("first")
        flush_logs()
        assert json.loads(capfd.readouterr().err)["msg"] == "first"
        configure_logging("info", "logfmt")
        get_logger("exporter.test").info("second", text="a\nb\ud800")
    assert capfd.readouterr().err.endswith('msg=second text="a\\nb\\ud800"\n')


def test_background_message_that_cannot_be_formatted(capfd: pytest.CaptureFixture[str]) -> None:
    """It is dropped and counted; a traceback on standard error could block."""
    with log_in_background():
        configure_logging("info", "logfmt")
        logging.getLogger("exporter.test").info("%d", "not a number")
        assert dropped_messages() == 1
    assert capfd.readouterr().err == ""


def test_standard_error_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has no standard error if it was closed at the start; every message is dropped and counted."""
    monkeypatch.setattr("sys.stderr", None)
    with log_in_background():
        configure_logging("info", "logfmt")
        get_logger("exporter.test").info("first")
        assert dropped_messages() == 1
    assert dropped_messages() == 0
