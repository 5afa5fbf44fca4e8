"""The messages of the program are those of one golden file, which can be reviewed as a whole."""

from __future__ import annotations

from golden.messages import FILE, HERE, messages


def test_messages_are_those_of_the_golden_file() -> None:
    """A changed message shows in one file: `make golden` writes it."""
    assert messages() == (HERE / FILE).read_text(encoding="utf-8")
