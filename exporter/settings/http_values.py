"""Types of values for HTTP: URLs, headers, credentials, certificates, listen addresses and paths.

The text of every ValueError is the problem, then the remedy as a sentence. `messages` puts the value between the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainValidator, SecretStr
from pydantic_settings import NoDecode

from exporter.settings.addresses import ServerAddress, parse_listen_address, parse_url
from exporter.settings.locations import FileText
from exporter.settings.secret_files import check_ca_file, check_secret_file, check_token_file
from exporter.settings.values import Text, first_repeated, not_empty

_HEALTH_PATHS = ("/-/healthy", "/-/ready")
_RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def _url(value: object) -> ServerAddress:
    if not isinstance(value, str):
        raise ValueError("must be a URL. Write http://HOST:11434.")  # noqa: TRY004 - pydantic collects ValueErrors
    return parse_url(value)


def _valid_headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError("a header name contains a character that HTTP does not allow. Correct the name.")
        if name.lower() in _RESERVED_HEADERS:
            raise ValueError(f"header {name} is set by this program. Remove it.")
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()) or text != text.strip():
            raise ValueError(
                f"the value of header {name} is not printable ASCII, or has spaces around it. Correct the value."
            )
    if repeated := first_repeated(name.lower() for name in headers):
        raise ValueError(f"header {repeated} is set twice. Header names are case-insensitive: remove one of the two.")
    return headers


def _valid_username(username: str) -> str:
    if ":" in username:
        raise ValueError("must not contain a colon. Write the password into password_file.")
    return username


def _in_directory_of_file(value: Any) -> Any:
    """Resolve a relative path in the configuration file from the directory of that file."""
    return value.directory / value if isinstance(value, FileText) else value


def _checked_by(check: Callable[[Path], None]) -> AfterValidator:
    def checked(path: Path) -> Path:
        check(path)
        return path

    return AfterValidator(checked)


def _split_at_commas(value: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise ValueError("must be an address or a list of addresses. Write :10434 or 127.0.0.1:10434.")  # noqa: TRY004 - pydantic collects ValueErrors
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _valid_listen_address(text: str) -> str:
    parse_listen_address(text)
    return text


def _distinct_addresses(texts: tuple[str, ...]) -> tuple[str, ...]:
    if first_repeated(text for text in texts if not text.endswith(":0")):
        raise ValueError("an address is listed twice. Remove one of the two.")
    return not_empty(texts)


def _valid_telemetry_path(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("not a valid path. Write a path such as /metrics, of letters, digits and ._~- only.")
    if path in _HEALTH_PATHS:
        raise ValueError("reserved for health checks. Write another path, such as /metrics.")
    return path


Url = Annotated[ServerAddress, PlainValidator(_url)]
Headers = Annotated[dict[str, SecretStr], AfterValidator(_valid_headers)]
Username = Annotated[Text, AfterValidator(_valid_username)]
SecretFile = Annotated[Path, BeforeValidator(_in_directory_of_file), _checked_by(check_secret_file)]
TokenFile = Annotated[Path, BeforeValidator(_in_directory_of_file), _checked_by(check_token_file)]
File = Annotated[Path, BeforeValidator(_in_directory_of_file)]
CaFile = Annotated[Path, BeforeValidator(_in_directory_of_file), _checked_by(check_ca_file)]
ListenAddresses = Annotated[
    tuple[Annotated[str, AfterValidator(_valid_listen_address)], ...],
    NoDecode,  # in the environment it is a comma-separated text, not JSON
    BeforeValidator(_split_at_commas),
    AfterValidator(_distinct_addresses),
]
TelemetryPath = Annotated[str, AfterValidator(_valid_telemetry_path)]
