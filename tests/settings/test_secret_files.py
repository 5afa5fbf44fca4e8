"""Files that a configuration refers to are checked when it is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from exporter.settings.secret_files import check_ca_file, check_secret_file, check_token_file, read_secret

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUMCxuTNu5DJ7PBZ0UTEg8mVkVhCcwCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----
"""


@pytest.mark.parametrize("check", [check_secret_file, check_token_file])
@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", " s3cret \r\n"])
def test_a_secret_is_one_line(tmp_path: Path, check: Callable[[Path], None], content: str) -> None:
    """A line end and surrounding spaces are not part of the secret."""
    (tmp_path / "secret").write_text(content)

    check(tmp_path / "secret")
    assert read_secret(tmp_path / "secret") == "s3cret"


@pytest.mark.parametrize("check", [check_secret_file, check_token_file])
@pytest.mark.parametrize(
    ("content", "keyword"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"s3cret\nother", "more than one line"),
        (b"s3cret\0", "more than one line"),
        (b"s3cret\xff", "UTF-8"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, check: Callable[[Path], None], content: bytes, keyword: str) -> None:
    """The message contains neither the secret nor the path."""
    (tmp_path / "secret").write_bytes(content)

    with pytest.raises(ValueError, match=keyword) as refusal:
        check(tmp_path / "secret")

    assert "s3cret" not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def test_only_a_token_must_be_ascii(tmp_path: Path) -> None:
    """A password is encoded before it is sent; a token is sent in a header unchanged."""
    (tmp_path / "secret").write_text("pässword", encoding="utf-8")

    check_secret_file(tmp_path / "secret")
    with pytest.raises(ValueError, match="ASCII"):
        check_token_file(tmp_path / "secret")


@pytest.mark.parametrize("check", [check_secret_file, check_token_file, check_ca_file])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        ("", "Is a directory"),
        ("\0", "not a path"),
        ("fifo", "FIFO"),
        ("/dev/zero", "device"),
        ("large", "KiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, check: Callable[[Path], None], name: str, reason: str
) -> None:
    """The message gives the reason, but not the path. A FIFO, a device or a large file neither blocks nor is read."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"a" * (2**20 + 1))
    with pytest.raises(ValueError, match=reason) as refusal:
        check(tmp_path / name)

    assert str(tmp_path) not in str(refusal.value)


def test_a_ca_file_contains_certificates(tmp_path: Path) -> None:
    """A bundle of certificates is accepted; text without a certificate, and an invalid one, are refused."""
    check_ca_file(Path(certifi.where()))
    for content in ("no certificate", CERTIFICATE):
        (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(ValueError, match="certificate"):
            check_ca_file(tmp_path / "ca.pem")
