"""URLs, `OLLAMA_HOST` and listen addresses are parsed as Ollama does, and nothing silently becomes localhost."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ollama._client import _parse_host
from support.probing import target_plan

from exporter.ollama.client import OllamaClient
from exporter.ollama.transport import TargetTransport
from exporter.settings.addresses import ollama_host_url, parse_listen_address, parse_url, redact_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://gpu-a:11434", "http://gpu-a:11434"),
        ("HTTP://GPU-A:11434", "http://gpu-a:11434"),
        ("http://gpu-a", "http://gpu-a:80"),
        ("https://gpu-a", "https://gpu-a:443"),
        ("gpu-a:11434", "http://gpu-a:11434"),
        ("gpu-a:11434/ollama", "http://gpu-a:11434/ollama"),
        ("http://gpu-a:11434/", "http://gpu-a:11434"),
        ("https://example.com/ollama/", "https://example.com:443/ollama"),
        ("http://[::1]:11434", "http://[::1]:11434"),
        ("http://[2001:db8::7]", "http://[2001:db8::7]:80"),
        ("http://0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("http://[::]:11434", "http://[::1]:11434"),
        ("http://user:pass@gpu-a:11434/x", "http://gpu-a:11434/x"),
        ("http://gpü:11434", "http://gpü:11434"),
    ],
)
def test_urls_are_completed(text: str, url: str) -> None:
    """The result has a scheme and a port, and neither user info nor a trailing slash."""
    assert parse_url(text).url == url


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("gpu-host", "scheme and port"),
        ("", "scheme and port"),
        ("/path", "scheme and port"),
        ("gpu-host:port", "scheme and port"),
        ("ftp://gpu-host", "scheme is not"),
        ("://gpu-host", "scheme is not"),
        ("http://", "without a host"),
        ("http://:11434", "without a host"),
        ("http:///path", "without a host"),
        ("http://gpu-host:", "without a valid port"),
        ("http://gpu-host:0", "without a valid port"),
        ("http://gpu-host:65536", "from 1 to 65535"),
        ("http://gpu-host:http", "from 1 to 65535"),
        ("http://::1:11434", "brackets"),
        ("http://[::1:11434", "brackets"),
        ("http://[gpu]:11434", "brackets"),
        ("http://a..b:1", "host name"),
        ("http://10.0.0.256:11434", "IPv4"),
        ("http://10.0.0.01:11434", "IPv4"),
        ("http://gpu\u2013a:11434", "host name"),
        ("http://xn--gpu.a_\u00fc:11434", "host name"),
        (f"http://gpu-a:1/{'a' * 70000}", "too long"),
        ("http://gpu-a:11434/v1", "Remove /v1"),
        ("http://gpu-a:11434/v1/", "Remove /v1"),
        ("gpu-a:11434/ollama/v1", "Remove /v1"),
        (f"http://{'a' * 64}:1", "host name"),
        ("http://gpu host:1", "space"),
        ("http://gpu\nhost:1", "control character"),
        ("http://gpu\\host:1", "backslash"),
        ("http://gpu:1/?a=b", "query"),
        ("http://gpu:1#a", "query"),
        ("http://user:pa#ss@gpu:1", "%3F or %23"),
        ("http://user:pa/ss@gpu:1", "%2F"),
        ("http://@gpu:1", "user name"),
        ("http://:secret@gpu:1", "user name"),
    ],
)
def test_invalid_urls_are_refused(text: str, keyword: str) -> None:
    """A URL that the Ollama client cannot use, or reads as localhost, is refused."""
    with pytest.raises(ValueError, match=keyword):
        parse_url(text)


@given(
    scheme=st.sampled_from(["http://", "https://", ""]),
    host=st.one_of(
        st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{2,8})?", fullmatch=True),
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    ),
    port=st.one_of(st.none(), st.integers(1, 65535)),
    path=st.sampled_from(["", "/", "/a", "/a/b/"]),
)
def test_the_ollama_client_does_not_change_the_url(scheme: str, host: str, port: int | None, path: str) -> None:
    """The Ollama client uses every parsed URL unchanged."""
    if not scheme and port is None:
        port = 1
    url = parse_url(f"{scheme}{host}{f':{port}' if port else ''}{path}").url

    assert _parse_host(url) == url


@given(st.text())
def test_any_text_is_accepted_or_refused(text: str) -> None:
    """Any text gives a URL without user info, or a ValueError."""
    for candidate in (text, f"http://{text}", f"http://{text}:11434"):
        try:
            address = parse_url(candidate)
        except ValueError:
            continue
        assert _parse_host(address.url) == address.url
        assert "@" not in address.url.partition("://")[2].partition("/")[0]


_HOSTS = st.one_of(
    st.text(st.characters(exclude_characters="/?#@:"), min_size=1, max_size=70),
    st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,4}", fullmatch=True),
    st.from_regex(r"[a-z0-9_.ßüé\u2013\u2460-]{1,70}", fullmatch=True),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)


@settings(max_examples=300)
@given(
    scheme=st.sampled_from(["http", "https"]),
    host=_HOSTS,
    path=st.one_of(st.just(""), st.text(max_size=20).map("/{}".format)),
)
def test_requests_can_be_made_of_every_accepted_url(scheme: str, host: str, path: str) -> None:
    """The Ollama client, httpx and the resolver's codec take every URL that is accepted."""
    try:
        url = parse_url(f"{scheme}://{host}:11434{path}").url
    except ValueError:
        return
    plan = target_plan(url)
    client = httpx.AsyncClient(base_url=url, transport=TargetTransport(plan))
    request = client.build_request("GET", "/api/version")
    request.url.raw_host.decode().encode("idna")
    OllamaClient(plan)


def test_user_info_is_not_in_the_url() -> None:
    """User name and password are decoded, and are neither in the URL nor in the repr."""
    address = parse_url("http://us%40er:p%2Fa%3As@gpu-a:11434")

    assert (address.username, address.password) == ("us@er", "p/a:s")
    assert "us@er" not in repr(address)
    assert "p/a:s" not in repr(address)
    assert (parse_url("http://u@gpu-a:1").username, parse_url("http://u@gpu-a:1").password) == ("u", "")
    assert parse_url("http://gpu-a:1").username is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://gpu-a:11434/x", "http://gpu-a:11434/x"),
        ("http://user:hunter2@gpu-a", "http://***@gpu-a"),
        ("http://user:hun/ter2@gpu-a", "http://***@gpu-a"),
        ("http://user:hun?ter2@gpu-a", "http://***@gpu-a"),
        ("http://user:hun@ter2@gpu-a", "http://***@gpu-a"),
        ("http:/user:hunter2@gpu-a", "***@gpu-a"),
        ("http://user:://hunter2@gpu-a", "***@gpu-a"),
        ("http://gpu-a/?key=hunter2", "http://gpu-a/"),
        ("http://gpu-a/#hun\nter2", "http://gpu-a/"),
    ],
)
def test_redacted_urls_contain_no_secret(text: str, shown: str) -> None:
    """User info, query and fragment are removed, also from an invalid URL."""
    assert redact_url(text) == shown


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("1.2.3.4:1234", "http://1.2.3.4:1234"),
        ("example.com", "http://example.com:11434"),
        ("example.com:1234", "http://example.com:1234"),
        ("http://1.2.3.4", "http://1.2.3.4:80"),
        ("https://1.2.3.4", "https://1.2.3.4:443"),
        ("https://1.2.3.4:1234", "https://1.2.3.4:1234"),
        ("https://example.com", "https://example.com:443"),
        ("example.com/ollama", "http://example.com:11434/ollama"),
        ("https://example.com:1234/ollama", "https://example.com:1234/ollama"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("[2001:db8::1]:1234", "http://[2001:db8::1]:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:1234", "http://127.0.0.1:1234"),
        ("[::]", "http://[::1]:11434"),
        ("http://0.0.0.0:1234", "http://127.0.0.1:1234"),
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("https://example.com:66000", "https://example.com:443"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
        ("'1.2.3.4:1234'", "http://1.2.3.4:1234"),
        ("ollama.com", "https://ollama.com:443"),
        ("user:pass@example.com", "http://example.com:11434"),
    ],
)
def test_ollama_host_is_parsed_as_ollama_does(value: str, url: str) -> None:
    """Every form that Ollama accepts gives the same address; one to listen on gives this machine's."""
    assert parse_url(ollama_host_url(value)).url == url


def test_ollama_host_with_another_scheme_is_refused() -> None:
    """The scheme of `OLLAMA_HOST` must be http or https."""
    with pytest.raises(ValueError, match="scheme is not"):
        parse_url(ollama_host_url("ftp://example.com"))


def test_default_names_differ_between_machines() -> None:
    """The default name is host:port, with the host name in place of a loopback address."""
    hostname = socket.gethostname()

    assert parse_url("http://gpu-a").default_name == "gpu-a:80"
    assert parse_url("http://[2001:db8::7]:1").default_name == "[2001:db8::7]:1"
    for loopback in ("127.0.0.1", "127.1.2.3", "localhost", "ollama.localhost", "[::1]", "0.0.0.0"):
        assert parse_url(f"http://{loopback}:11434").default_name == f"{hostname}:11434"


def test_addresses_of_this_machine_are_local() -> None:
    """Loopback, the host name and this machine's addresses are local; other addresses and names are not."""
    routes = Path("/proc/net/fib_trie").read_text(encoding="ascii").splitlines()
    own = {address.split()[-1] for address, kind in pairwise(routes) if "/32 host LOCAL" in kind}

    assert own
    for host in ("127.0.0.1", "localhost", "[::1]", socket.gethostname(), *own):
        assert parse_url(f"http://{host}:11434").is_local
    for host in ("192.0.2.1", "[2001:db8::7]", "gpu-a.example"):
        assert not parse_url(f"http://{host}:11434").is_local


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":10434", ("", 10434)),
        ("127.0.0.1:10434", ("127.0.0.1", 10434)),
        ("[::1]:10434", ("::1", 10434)),
        ("[::]:0", ("::", 0)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_listen_addresses_are_parsed(text: str, address: tuple[str, int]) -> None:
    """The host may be empty, an IP address or a name; with port 0 the system chooses the port."""
    assert parse_listen_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "10434", "host", "::1:10434", "[::1]", "[host]:1", "h:65536", "h:-1", "http://h:1", "a..b:1"]
)
def test_other_listen_addresses_are_refused(text: str) -> None:
    """A text in any other form is refused."""
    with pytest.raises(ValueError, match=r"listen address|brackets|host name"):
        parse_listen_address(text)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 65535))
def test_every_ip_address_can_be_listened_on(address: IPv4Address | IPv6Address, port: int) -> None:
    """Every IP address is accepted and not changed."""
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    assert parse_listen_address(text) == (str(address), port)
