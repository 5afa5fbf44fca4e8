"""What is logged of errors of accepting connections."""

from __future__ import annotations

import errno
import logging

import pytest

from exporter.web.accept_errors import AcceptErrorFilter


def _record(error: BaseException | None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error is not None else None
    return logging.LogRecord("asyncio", logging.ERROR, "", 0, "socket: %s", ("x",), exc_info)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_one_message_a_minute(number: int) -> None:
    """The first one passes, without its traceback, and the next one a minute later."""
    now = 100.0
    accept_errors = AcceptErrorFilter(clock=lambda: now)
    first = _record(OSError(number, "no more"))

    assert accept_errors.filter(first)
    assert first.exc_info is None
    assert "%" not in first.getMessage()
    assert "no more" in first.__dict__["fields"]["error"]
    for now in (100.1, 130.0, 159.9):  # noqa: B007 - read by the clock
        assert not accept_errors.filter(_record(OSError(number, "no more")))
    now = 160.0
    assert accept_errors.filter(_record(OSError(number, "no more")))


@pytest.mark.parametrize("error", [None, ValueError("x"), OSError(errno.ECONNRESET, "reset")])
def test_other_messages_pass(error: BaseException | None) -> None:
    """They pass at any rate and are not changed."""
    accept_errors = AcceptErrorFilter()
    for _ in range(3):
        record = _record(error)
        assert accept_errors.filter(record)
        assert record.getMessage() == "socket: x"
        assert (record.exc_info is None) is (error is None)
