"""Single values that a user may write: what each must be, and what to write where it is not."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr
from pydantic_settings import NoDecode

from exporter.durations import Duration
from exporter.settings.addresses import ServerAddress, parse_listen_address, parse_url
from exporter.settings.secret_files import check_ca_file, check_secret_file, check_token_file

_Item = TypeVar("_Item")
_Value = TypeVar("_Value", bound=Hashable)

_HEALTH_PATHS = ("/-/healthy", "/-/ready")
_OWN_HEADERS = frozenset(
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


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("not a number: write one")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _positive(duration: Duration) -> Duration:
    if duration <= 0:
        raise ValueError("nothing would ever be in time: write a duration above 0s")
    return duration


def _at_least_a_second(duration: Duration) -> Duration:
    if duration < 1:
        raise ValueError("shorter than 1s: write 1s or more; 5m suits a dedicated server, 15m a shared one")
    return duration


def _generates(num_predict: int) -> int:
    if num_predict in {0, -2}:
        raise ValueError("Ollama takes this as no limit, so that one probe generates on and on: write 16 or more")
    if num_predict < 16 and num_predict != -1:  # noqa: PLR2004 - said in the message
        raise ValueError("too few tokens to measure: write 16 or more, or -1 to let the model end by itself")
    return num_predict


def _one_placeholder(template: str) -> str:
    try:
        fields = {
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        }
    except ValueError:
        fields = set()
    if fields != {("question", "", None)}:
        raise ValueError("it must hold {question} and no other placeholder: write {{ and }} for literal braces")
    return template


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half a character, which UTF-8 cannot say: write the whole one") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("empty: write some text, or leave the key out")
    return text


def _keep_alive(value: object) -> str | int | None:
    """Take what Ollama takes, but for what would unload the model after each probe."""
    if value is None:
        return None
    text = str(value)
    if re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        kept: str | int = int(text)
        seconds = Duration.parse(text.lstrip("+-") + "s")
    elif isinstance(value, str):
        kept = text
        seconds = Duration.parse(text.removeprefix("-"))
    else:
        raise ValueError("neither a duration nor a whole number of seconds: write 5m, 300, -1 for ever, or null")
    if not seconds:
        raise ValueError(
            "it would unload the model under its users after each probe: write a longer one, or null, which leaves the"
            " server's own"
        )
    return kept


def _telemetry_path(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("not a path: write one like /metrics, of letters, digits and . _ ~ -")
    if path in _HEALTH_PATHS:
        raise ValueError("taken by this program's health pages: write another, like /metrics")
    return path


def _comma_separated(value: Any) -> Any:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _url(value: object) -> ServerAddress:
    if not isinstance(value, str):
        raise ValueError("not a URL: write it as http://HOST:11434")  # noqa: TRY004 - pydantic collects ValueErrors
    return parse_url(value)


def _checked_by(check: Callable[[Path], None]) -> AfterValidator:
    def checked(path: Path) -> Path:
        check(path)
        return path

    return AfterValidator(checked)


def _sendable(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError("a header's name holds a character that HTTP does not allow: correct the name")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name} is this program's own to set, since the measured stream depends on it: remove it")
        text = value.get_secret_value()
        if not (text.isascii() and text.isprintable()) or text != text.strip():
            raise ValueError(f"the value of {name} is not plain ASCII without blanks around it: correct it")
    if twice := first_repeated(name.lower() for name in headers):
        raise ValueError(f"{twice} is written twice (upper and lower case count as one): remove one of them")
    return headers


def _listen_address(text: str) -> str:
    parse_listen_address(text)
    return text


def _listenable(texts: tuple[str, ...]) -> tuple[str, ...]:
    if first_repeated(text for text in texts if not text.endswith(":0")):
        raise ValueError("one address is written twice: remove one of them")
    return not_empty(texts)


def _username(username: str) -> str:
    if ":" in username:
        raise ValueError("a colon cannot be sent in a user name: write the password into password_file")
    return username


def not_empty(values: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """Return the values, or raise ValueError where there is none."""
    if not values:
        raise ValueError("an empty list: write at least one, or leave the key out")
    return values


def first_repeated(values: Iterable[_Value]) -> _Value | None:
    """Return the first value that has come before, or None."""
    seen: set[_Value] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


Text = Annotated[str, AfterValidator(_encodable), AfterValidator(_not_blank)]
Template = Annotated[str, AfterValidator(_encodable), AfterValidator(_one_placeholder)]
Whole = Annotated[int, BeforeValidator(_no_bool), Field(ge=-(2**31), le=2**31 - 1)]
Real = Annotated[float, BeforeValidator(_no_bool)]
NumPredict = Annotated[Whole, AfterValidator(_generates)]
KeepAlive = Annotated[str | int | None, PlainValidator(_keep_alive)]
Timeout = Annotated[Duration, PlainValidator(Duration.parse), AfterValidator(_positive)]
Interval = Annotated[Duration, PlainValidator(Duration.parse), AfterValidator(_at_least_a_second)]
Url = Annotated[ServerAddress, PlainValidator(_url)]
Headers = Annotated[dict[str, SecretStr], AfterValidator(_sendable)]
Username = Annotated[Text, AfterValidator(_username)]
SecretFile = Annotated[Path, _checked_by(check_secret_file)]
TokenFile = Annotated[Path, _checked_by(check_token_file)]
CaFile = Annotated[Path, _checked_by(check_ca_file)]
ListenAddresses = Annotated[
    tuple[Annotated[str, AfterValidator(_listen_address)], ...],
    NoDecode,  # not JSON in the environment
    BeforeValidator(_comma_separated),
    AfterValidator(_listenable),
]
TelemetryPath = Annotated[str, AfterValidator(_telemetry_path)]
