"""Addresses that a user writes: the URL of an Ollama server, `OLLAMA_HOST`, and addresses to listen on.

The text of every ValueError is the problem, then the remedy as a sentence.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

OLLAMA_PORT = 11434
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONNECTABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to connect, not where to listen
_MAX_PORT = 65535
_MAX_CHARACTERS = 2000
_PLAIN_URL = re.compile(r"https?://[a-z0-9._-]+:[0-9]+[/A-Za-z0-9._~-]*")
_FOUR_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+){3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """The address of an Ollama server, and the credentials in its URL."""

    url: str
    """Scheme, host, port and optional path, without user info and trailing slash."""
    host: str
    """Name or IP address, without brackets."""
    port: int
    port_written: bool
    """Whether the user wrote the port. If not, it is the default of the scheme."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def default_name(self) -> str:
        """Host and port. This machine's host name replaces a loopback address, which is the same on every machine."""
        host = socket.gethostname() if self.is_loopback else self.host
        return f"{_bracketed(host)}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a loopback address or name."""
        return _is_loopback(self.host)

    @property
    def is_local(self) -> bool:
        """Whether the host is loopback, this machine's host name, or one of its addresses. No name is resolved."""
        if self.is_loopback:
            return True
        address = _ip_address(self.host)
        if address is None:
            hostname = socket.gethostname().lower()
            return self.host in {hostname, hostname.partition(".")[0]}
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004 - the version is its name
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(address), 0))
            except OSError:
                return False
        return True


def parse_url(text: str) -> ServerAddress:
    """Return the address of a configured URL: `http://gpu-a:11434`, or `gpu-a:11434` for short.

    Raises ValueError for an invalid URL, for one that httpx refuses, for the base URL of Ollama's OpenAI-compatible
    API, and for one that the Ollama client would silently read as localhost: a name without scheme and port, another
    scheme, an unusable port. Its text does not repeat the URL, which may hold a password.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"URL is too long. Write at most {_MAX_CHARACTERS} characters.")
    scheme, separator, rest = text.partition("://")
    if not separator:
        if not re.search(r":[0-9]+(/|$)", text):
            raise ValueError(f"URL without scheme and port. Write http://HOST:{OLLAMA_PORT}.")
        scheme, rest = "http", text
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"URL scheme is not http or https. Write http://HOST:{OLLAMA_PORT} or https://HOST.")
    if not rest.isprintable() or " " in rest or "\\" in rest:
        raise ValueError("space, backslash or control character in URL. Remove it, or encode it as %XX.")
    netloc, slash, path = rest.partition("/")
    if any(mark in rest for mark in "?#"):
        raise ValueError("URL contains ? or #. Remove the query; in a password, write %3F or %23.")
    userinfo, at, hostport = netloc.rpartition("@")
    if "@" in path:
        raise ValueError(
            "@ after a slash in URL. In a password, write %2F for the slash; in a path, write %40 for the @."
        )
    username, _, password = userinfo.partition(":")
    if at and not username:
        raise ValueError("@ without a user name in URL. Write http://USER:PASSWORD@HOST:PORT, or remove the @.")
    host, port = _parse_hostport(scheme, hostport)
    path = f"{slash}{path}".rstrip("/")
    if path.endswith("/v1"):
        raise ValueError("URL ends in /v1, which is not Ollama's own API. Remove /v1.")
    url = f"{scheme}://{_bracketed(host)}:{port or _DEFAULT_PORTS[scheme]}{path}"
    _check_that_httpx_accepts(url)
    return ServerAddress(
        url=url,
        host=host,
        port=port or _DEFAULT_PORTS[scheme],
        port_written=port is not None,
        username=unquote(username) if at else None,
        password=unquote(password) if at else None,
    )


def _parse_hostport(scheme: str, hostport: str) -> tuple[str, int | None]:
    """Return the host to connect to, and the port if there is one."""
    try:
        split = urlsplit(f"{scheme}://{hostport}")
        host, port = split.hostname or "", split.port
    except ValueError:
        raise ValueError(
            "invalid host or port in URL. Write http://HOST:PORT, with a port from 1 to 65535 and an IPv6 address in"
            " brackets."
        ) from None
    if not host or port == 0 or hostport.endswith(":"):
        missing = "host" if not host else "valid port"
        raise ValueError(f"URL without a {missing}. Write http://HOST:{OLLAMA_PORT}.")
    _check_host_name(host)
    return _CONNECTABLE.get(host, host), port


def _check_host_name(host: str) -> None:
    """Raise ValueError unless a host is an IP address or a name that can be resolved."""
    if _ip_address(host) is not None:
        return
    if _FOUR_NUMBERS.fullmatch(host):
        raise ValueError("invalid IPv4 address. Write four numbers from 0 to 255, without leading zeros.")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("invalid host name. No part of it may be empty or longer than 63 characters.") from None


def _check_that_httpx_accepts(url: str) -> None:
    """Raise ValueError for a URL of which httpx cannot make a request. httpx is imported for unusual URLs only."""
    if _PLAIN_URL.fullmatch(url):
        return
    import httpx

    try:
        httpx.URL(url).raw_host.decode().encode("idna")  # as the resolver does
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError("host name that DNS cannot represent. Check it for special characters.") from None


def redact_url(text: str) -> str:
    """Return a URL, valid or not, without the parts that may be secret: user info, query, fragment."""
    scheme, separator, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", text)
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return scheme + separator + re.sub(r"[?#].*", "", rest, flags=re.DOTALL)


def ollama_host_url(value: str) -> str:
    """Return the URL to connect to for a value of `OLLAMA_HOST`, parsed as Ollama does (`envconfig.Host`).

    Surrounding quotes and spaces are removed. Defaults: http, 127.0.0.1, and port 11434, or 80 and 443 after a written
    http:// and https://. An invalid port is replaced by the default. The path is kept.
    """
    text = value.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("https", "ollama.com:443") if text == "ollama.com" else ("http", text)
    default = _DEFAULT_PORTS.get(scheme, OLLAMA_PORT) if separator else OLLAMA_PORT
    hostport, slash, path = rest.partition("/")
    userinfo, at, hostport = hostport.rpartition("@")
    if _ip_address(hostport.strip("[]")):
        host, port = hostport.strip("[]"), ""
    else:
        host, colon, port = hostport.rpartition(":")
        host = (host if colon else port).strip("[]")
        port = port if colon else ""
    number = int(port) if re.fullmatch(r"\+?[0-9]{1,5}", port, re.ASCII) else default
    if number > _MAX_PORT:
        number = default
    return f"{scheme}://{userinfo}{at}{_bracketed(host or '127.0.0.1')}:{number}{slash}{path}"


def parse_listen_address(text: str) -> tuple[str, int]:
    """Return host and port of `:10434`, `127.0.0.1:10434` or `[::1]:10434`. An empty host means all addresses.

    Raises ValueError.
    """
    match = re.fullmatch(r"(?:\[(?P<ipv6>.*)\]|(?P<host>[\w.-]*)):(?P<port>[0-9]{1,5})", text, re.ASCII)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise ValueError("not a listen address. Write :10434, 127.0.0.1:10434 or [::1]:10434.")
    if match["ipv6"] is not None and not isinstance(_ip_address(match["ipv6"]), ipaddress.IPv6Address):
        raise ValueError("not an IPv6 address in brackets. Write [::1]:10434, or [::]:10434 for all addresses.")
    if match["host"]:
        _check_host_name(match["host"])
    return match["host"] or match["ipv6"] or "", int(match["port"])


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _ip_address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
