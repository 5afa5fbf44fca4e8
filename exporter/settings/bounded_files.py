"""Reading the files that a configuration consists of: regular files only, and not more than a limit.

A FIFO or a device would block the program, and a file of any size could use up its memory.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

CONFIG_BYTES_MAX = 2**20
CERTIFICATES_BYTES_MAX = 2**20
"""The bundle of certificates that most systems trust has 0.3 MiB."""
SECRET_BYTES_MAX = 64 * 2**10
_NONBLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def read_bounded(path: Path, bytes_max: int) -> bytes:
    """Return the content of a regular file of at most `bytes_max` bytes. Never blocks on what another process does.

    Raises OSError with the reason as its `strerror`.
    """
    try:
        _check_kind(path.stat().st_mode)  # opening a device can have effects
        descriptor = os.open(path, os.O_RDONLY | _NONBLOCKING)
    except ValueError as error:  # a null character
        raise OSError(errno.EINVAL, "not a path") from error
    with os.fdopen(descriptor, "rb") as file:
        _check_kind(os.fstat(descriptor).st_mode)
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise OSError(errno.EFBIG, f"more than {bytes_max // 1024} KiB")
    return content


def _check_kind(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        kind = "FIFO" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise OSError(errno.EINVAL, f"a {kind}, not a regular file")
