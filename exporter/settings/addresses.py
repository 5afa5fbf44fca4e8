"""Addresses a user writes: an Ollama server's URL, `OLLAMA_HOST`, and where to listen."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAddress:
    """Where an Ollama server is, and who asks."""

    url: str
    """Scheme, host, port and perhaps a path; no user info and no trailing slash."""
    host: str
    """Name or IP address, without brackets."""
    port: int
    port_written: bool
    """Whether the user wrote the port; else it is the scheme's own."""
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def default_name(self) -> str:
        """Host and port, with this machine's host name in place of a loopback address, which says nothing elsewhere."""
        host = socket.gethostname() if _is_loopback(self.host) else self.host
        return f"{_bracketed(host)}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the host is loopback, this machine's host name, or one of its own addresses. Asks no name server."""
        if _is_loopback(self.host):
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
    """Return the address that a configured URL means: `http://gpu-a:11434`, or `gpu-a:11434` for short.

    What the Ollama client would silently read as localhost is refused (a name without scheme and port, another scheme,
    an unusable port). Raises ValueError, whose text says what to write and never repeats the URL, which may hold a
    password.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        if not re.search(r":[0-9]+(/|$)", text):
            raise ValueError(f"neither scheme nor port: write it as http://HOST:{OLLAMA_PORT}")
        scheme, rest = "http", text
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ValueError(f"not a scheme that Ollama speaks: write http://HOST:{OLLAMA_PORT} or https://HOST")
    if not rest.isprintable() or " " in rest or "\\" in rest:
        raise ValueError("a blank, a backslash or a control character in a URL: remove it, or write it as %XX")
    netloc, slash, path = rest.partition("/")
    if any(mark in rest for mark in "?#"):
        raise ValueError("a URL with ? or #: leave the query out; in a password write %3F or %23")
    userinfo, at, hostport = netloc.rpartition("@")
    if "@" in path:
        raise ValueError("an @ after a slash: in a password write %2F for the slash; in a path write %40 for the @")
    username, _, password = userinfo.partition(":")
    if at and not username:
        raise ValueError("an @ without a user name before it: write http://USER:PASSWORD@HOST:PORT, or remove it")
    host, port = _parse_hostport(scheme, hostport)
    path = f"{slash}{path}".rstrip("/")
    return ServerAddress(
        url=f"{scheme}://{_bracketed(host)}:{port or _DEFAULT_PORTS[scheme]}{path}",
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
            "not a host and a port from 1 to 65535: write http://HOST:PORT, an IPv6 address in brackets"
        ) from None
    if not host or port == 0 or hostport.endswith(":"):
        what = "no host" if not host else "no usable port"
        raise ValueError(f"{what}: write it as http://HOST:{OLLAMA_PORT}")
    if _ip_address(host) is None:
        try:
            host.encode("idna")
        except UnicodeError:
            raise ValueError("not a host name: a part of it is empty or over 63 characters long; correct it") from None
    return _CONNECTABLE.get(host, host), port


def redact_url(text: str) -> str:
    """Return a URL, well-formed or not, without what may be a secret: user info, query, fragment."""
    scheme, separator, rest = text.rpartition("://") if text.count("://") == 1 else ("", "", text)
    if "@" in rest:
        rest = "***@" + rest.rpartition("@")[2]
    return scheme + separator + re.sub(r"[?#].*", "", rest, flags=re.DOTALL)


def ollama_host_url(value: str) -> str:
    """Return the URL to connect to that `OLLAMA_HOST` means, read as Ollama reads it.

    Quotes and blanks around it go; the scheme is http unless said; the host is 127.0.0.1 unless said; the port is
    11434, or 80 and 443 after a written http:// and https://, also where the port is no port. The path is kept.
    (Ollama's envconfig.Host.)
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
    """Return host and port of `:10434`, `127.0.0.1:10434` or `[::1]:10434`; the host is empty where all are meant.

    Raises ValueError, whose text says what to write instead.
    """
    match = re.fullmatch(r"(?:\[(?P<ipv6>.*)\]|(?P<host>[\w.-]*)):(?P<port>[0-9]{1,5})", text, re.ASCII)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise ValueError("not an address to listen on: write :10434, 127.0.0.1:10434 or [::1]:10434")
    if match["ipv6"] is not None and not isinstance(_ip_address(match["ipv6"]), ipaddress.IPv6Address):
        raise ValueError("not an IPv6 address between the brackets: write [::1]:10434, or [::]:10434 for all")
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
