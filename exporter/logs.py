"""Log lines in logfmt or JSON, on the standard library's logging.

A line is a constant message and its fields: `log.info("probe failed", target=..., reason=...)`.

The formatters are written here because existing ones do not escape control characters in logfmt values, and a server's
text may contain any.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from exporter.log_writer import LogWriter

Level = Literal["debug", "info", "warn", "error"]
Format = Literal["logfmt", "json"]

_LEVELS: Mapping[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
_STANDARD_ARGUMENTS = ("exc_info", "stack_info", "stacklevel")
_PLAIN = re.compile(r"[^\s\"=\\]+")
_USER_INFO = re.compile(r"(?<=://)[^\s/]*@")


class EventLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose methods take a message and its fields as keyword arguments."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Return the message, and the fields where the formatters look for them."""
        standard = {name: kwargs.pop(name) for name in _STANDARD_ARGUMENTS if name in kwargs}
        return msg, {**standard, "extra": {"fields": dict(kwargs)}}


def get_logger(name: str) -> EventLogger:
    """Return the logger of a module."""
    return EventLogger(logging.getLogger(name), None)


def configure_logging(level: Level, format: Format, stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Write log messages of the given severity or above to a stream (standard error by default), one line each.

    Other libraries log at `warn` and above only, because their debug messages contain headers, and so secrets. Python's
    warnings are logged too. A second call replaces the first. Inside `log_in_background`, a thread writes the lines.
    """
    handler: logging.Handler
    if _writer is not None and stream is None:
        handler = _BackgroundHandler(_writer)
    else:
        handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_FORMATTERS[format]())
    logging.basicConfig(handlers=[handler], level=max(logging.WARNING, _LEVELS[level]), force=True)
    logging.getLogger("exporter").setLevel(_LEVELS[level])
    logging.captureWarnings(capture=True)


@contextlib.contextmanager
def log_in_background() -> Iterator[None]:
    """Let a thread write to standard error what is logged after `configure_logging` is called inside the context.

    A standard error that is blocked, closed or full then blocks neither the event loop nor, at the end of the context,
    the exit for longer than half a second.
    """
    global _writer  # noqa: PLW0603 - logging is configured per process
    _writer = LogWriter(_descriptor(sys.stderr))
    try:
        yield
    finally:
        _writer.close()
        _writer = None


def flush_logs() -> None:
    """Wait at most half a second until what was logged in the background has been written."""
    if _writer is not None:
        _writer.flush()


def dropped_messages() -> int:
    """Return the number of log messages that were dropped because they could not be written."""
    return _writer.dropped if _writer is not None else 0


class _BackgroundHandler(logging.Handler):
    """Passes each line to a writer. Never writes itself, not even about its own errors."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the record's line."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - logging itself would print a traceback on standard error, which may block
            self._writer.drop()
        else:
            self._writer.put(line)


_writer: LogWriter | None = None


def _descriptor(stream: TextIO | None) -> int | None:
    """Return a stream's file descriptor; None if it was closed when the program started."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError):
        return None


class LogfmtFormatter(logging.Formatter):
    """Formats a record as `ts=... level=... logger=... msg=... key=value`, always on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return " ".join(f"{key}={_logfmt_value(value)}" for key, value in _values(self, record).items())


class JsonFormatter(logging.Formatter):
    """Formats a record as a JSON object on one line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return json.dumps({key: _json_value(value) for key, value in _values(self, record).items()})


_FORMATTERS: Mapping[Format, type[logging.Formatter]] = {"logfmt": LogfmtFormatter, "json": JsonFormatter}


def _values(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    values = {
        "ts": time.replace("+00:00", "Z"),
        "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
        "logger": record.name,
        "msg": record.getMessage(),
        **getattr(record, "fields", {}),
    }
    if record.exc_info:
        values["traceback"] = formatter.formatException(record.exc_info)
    return {key: _USER_INFO.sub("***@", value) if isinstance(value, str) else value for key, value in values.items()}


def _logfmt_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    if _PLAIN.fullmatch(text) and text.isprintable():
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in quoted)


def _json_value(value: Any) -> Any:
    """Return a value that JSON can represent: NaN, infinities and other objects become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if isinstance(value, str | int | None) else str(value)
