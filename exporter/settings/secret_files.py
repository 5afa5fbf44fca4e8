"""Files that a configuration refers to: secrets and certificate authorities.

They are checked when the configuration is loaded; secrets are read again for each request. The text of every ValueError
is the problem, then the remedy as a sentence. It contains neither the path (people write secrets there by mistake) nor
the content.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from exporter.settings.bounded_files import CERTIFICATES_BYTES_MAX, SECRET_BYTES_MAX, read_bounded


def read_secret(path: Path) -> str:
    """Return the single line of text in a file, such as a password, without surrounding whitespace.

    Raises OSError if the file cannot be read, and ValueError if it does not contain a single line of text.
    """
    try:
        secret = read_bounded(path, SECRET_BYTES_MAX).decode().strip()
    except UnicodeDecodeError:
        raise ValueError("file is not UTF-8 text. Write only the secret into it.") from None
    if not secret or not secret.isprintable():
        problem = "is empty" if not secret else "contains more than one line of text"
        raise ValueError(f"file {problem}. Write only the secret into it.")
    return secret


def read_token(path: Path) -> str:
    """Return the token in a file: one line of ASCII, as HTTP headers require. Raises as `read_secret` does."""
    token = read_secret(path)
    if not token.isascii():
        raise ValueError(
            "file contains non-ASCII characters, which HTTP headers do not allow. Write only the token into it."
        )
    return token


def check_secret_file(path: Path) -> None:
    """Raise ValueError unless the file can be read and contains one line of text."""
    try:
        read_secret(path)
    except OSError as error:
        raise ValueError(f"{_cannot_be_read(error)} Write the path of a file here, not the secret itself.") from None


def check_token_file(path: Path) -> None:
    """Raise ValueError unless the file can be read and contains one line of ASCII."""
    check_secret_file(path)
    read_token(path)


def check_ca_file(path: Path) -> None:
    """Raise ValueError unless the file contains certificates in PEM format."""
    try:
        read_bounded(path, CERTIFICATES_BYTES_MAX)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("file contains no certificate. Write the path of a PEM file.") from None
    except OSError as error:
        raise ValueError(_cannot_be_read(error)) from None


def check_client_certificate(cert_file: Path, key_file: Path | None) -> None:
    """Raise ValueError unless the files contain a certificate and its private key in PEM format, without a password."""
    try:
        for path in filter(None, (cert_file, key_file)):
            read_bounded(path, CERTIFICATES_BYTES_MAX)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert_file, key_file, password=lambda: "")
    except ssl.SSLError:
        raise ValueError(
            "cert_file and key_file do not contain a certificate and its private key. Write the paths of two PEM files"
            " that belong together. The key must not have a password."
        ) from None
    except OSError as error:
        raise ValueError(f"certificate or key: {_cannot_be_read(error)}") from None


def _cannot_be_read(error: OSError) -> str:
    return f"file cannot be read: {error.strerror}. Check that it exists and that this program's user may read it."
