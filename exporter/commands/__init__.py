"""The commands of the command line, and which one is run."""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130
"""Exit status: 128 + SIGINT, as shells report it."""


def with_default_command(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with `run` as the first one if no command is given."""
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        return ["run", *words]
    return list(words)
