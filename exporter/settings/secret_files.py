"""Files that a configuration points to: secrets, and certificate authorities. They are looked at when it is loaded."""

from __future__ import annotations

import ssl
from pathlib import Path


def read_secret(path: Path) -> str:
    """Return the one line of text that a file holds, as a password is, without blanks around it.

    Raises OSError where it cannot be read, and ValueError where it holds something else. The text of the latter is what
    is wrong, a colon and the remedy; neither it nor its causes repeat what the file holds.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("the file is not text: write the secret alone into it, in UTF-8") from None
    if not secret or not secret.isprintable():
        state = "empty" if not secret else "more than one line of text"
        raise ValueError(f"the file is {state}: write the secret alone into it")
    return secret


def read_token(path: Path) -> str:
    """Return the secret of a file that holds what may stand in a header: one line of ASCII. Raises as `read_secret`."""
    token = read_secret(path)
    if not token.isascii():
        raise ValueError("the file holds more than ASCII, which no header can carry: write the token alone into it")
    return token


def check_secret_file(path: Path) -> None:
    """Raise ValueError unless the file holds one line of text, as a password does.

    The error's text names the remedy, and neither the path (people put secrets there by mistake) nor what it holds.
    """
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise ValueError(
            f"the file cannot be read ({why}): write its path here, not the secret itself; a relative path starts at"
            " the configuration file; this program's user must be allowed to read it"
        ) from None
    read_secret(path)


def check_token_file(path: Path) -> None:
    """Raise ValueError unless the file holds what may stand in a header: one line of ASCII."""
    check_secret_file(path)
    read_token(path)


def check_ca_file(path: Path) -> None:
    """Raise ValueError unless the file holds certificates in PEM form."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("no certificate in the file: write the path of a PEM file") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no path"
        raise ValueError(
            f"the file cannot be read ({why}): a relative path starts at the configuration file; this program's user"
            " must be allowed to read it"
        ) from None
