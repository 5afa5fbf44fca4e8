"""Files that a configuration points to are looked at when it is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest

from exporter.settings.secret_files import check_ca_file, check_secret_file, check_token_file

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBdTCCARugAwIBAgIUMCxuTNu5DJ7PBZ0UTEg8mVkVhCcwCgYIKoZIzj0EAwIw
-----END CERTIFICATE-----
"""


@pytest.mark.parametrize("check", [check_secret_file, check_token_file])
@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", " s3cret \r\n"])
def test_a_secret_is_one_line(tmp_path: Path, check: Callable[[Path], None], content: str) -> None:
    """A line's end and blanks around a secret are not part of it."""
    (tmp_path / "secret").write_text(content)

    check(tmp_path / "secret")


@pytest.mark.parametrize("check", [check_secret_file, check_token_file])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty: write the secret alone into it"),
        (b" \n", "the file is empty"),
        (b"s3cret\nother", "the file is more than one line of text"),
        (b"s3cret\0", "the file is more than one line of text"),
        (b"s3cret\xff", "the file is not text"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    tmp_path: Path, check: Callable[[Path], None], content: bytes, message: str
) -> None:
    """The refusal says what is wrong, and neither the secret nor the path."""
    (tmp_path / "secret").write_bytes(content)

    with pytest.raises(ValueError, match=message) as refusal:
        check(tmp_path / "secret")

    assert "s3cret" not in str(refusal.value)
    assert str(tmp_path) not in str(refusal.value)


def test_only_a_token_must_be_ascii(tmp_path: Path) -> None:
    """A password is encoded before it is sent; a token goes into the header as it is."""
    (tmp_path / "secret").write_text("pässword", encoding="utf-8")

    check_secret_file(tmp_path / "secret")
    with pytest.raises(ValueError, match="more than ASCII, which no header can carry"):
        check_token_file(tmp_path / "secret")


@pytest.mark.parametrize("check", [check_secret_file, check_token_file, check_ca_file])
@pytest.mark.parametrize(
    ("name", "why"), [("missing", "No such file or directory"), ("", "Is a directory|No such file"), ("\0", "no path")]
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, check: Callable[[Path], None], name: str, why: str
) -> None:
    """A missing file, a directory and what is no path at all are told apart."""
    if check is check_ca_file and not name:
        why = "no certificate|" + why

    with pytest.raises(ValueError, match=why) as refusal:
        check(tmp_path / name)

    assert str(tmp_path) not in str(refusal.value)


def test_a_ca_file_holds_certificates(tmp_path: Path) -> None:
    """A bundle of the system is taken; text without a certificate, and a broken one, are refused."""
    check_ca_file(Path(certifi.where()))
    for content in ("no certificate", CERTIFICATE):
        (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(ValueError, match=re.escape("no certificate in the file: write the path of a PEM file")):
            check_ca_file(tmp_path / "ca.pem")
