"""Headers, files, listen addresses and paths: which are accepted, and which are refused."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest
from support.configurations import load, mistakes, target


@pytest.mark.parametrize("path", ["metrics", "/", '"/{x}"', "/a b", "/a/"])
def test_an_invalid_telemetry_path_is_refused(tmp_path: Path, path: str) -> None:
    """A path begins with a slash, does not end with one, and needs no encoding."""
    (line,) = mistakes(tmp_path, f"web: {{telemetry_path: {path}}}")

    assert line.startswith("web.telemetry_path: ")
    assert "/metrics" in line


@pytest.mark.parametrize("path", ["/-/ready", "/-/healthy"])
def test_paths_of_health_checks_are_reserved(tmp_path: Path, path: str) -> None:
    """Metrics cannot be exposed under the path of a health check."""
    (line,) = mistakes(tmp_path, f"web: {{telemetry_path: {path}}}")

    assert line.startswith("web.telemetry_path: ")
    assert "health checks" in line


@pytest.mark.parametrize(
    ("addresses", "place", "keyword"),
    [
        ("[]", "web.listen_address", "empty"),
        ('[":1", ":1"]', "web.listen_address", "twice"),
        ('[":1", "10434"]', "web.listen_address[1]", '"10434"'),
        ("10434", "web.listen_address", "10434"),
        ('"a..b:1"', "web.listen_address[0]", "host name"),
    ],
)
def test_invalid_listen_addresses_are_refused(tmp_path: Path, addresses: str, place: str, keyword: str) -> None:
    """The message gives the place of the address in the list."""
    (line,) = mistakes(tmp_path, f"web: {{listen_address: {addresses}}}")

    assert line.startswith(f"{place}: ")
    assert keyword in line


def test_listen_addresses_are_hosts_and_ports(tmp_path: Path) -> None:
    """One text or a list gives pairs of host and port. Port 0 may be repeated."""
    web = load(tmp_path, 'web: {listen_address: [":10434", "[::1]:0", "[::1]:0"]}').web
    assert web.listen_addresses == (("", 10434), ("::1", 0), ("::1", 0))
    assert load(tmp_path, 'web: {listen_address: "127.0.0.1:1"}').web.listen_addresses == (("127.0.0.1", 1),)


@pytest.mark.parametrize(
    ("headers", "keyword"),
    [
        ("{Content-Length: '1'}", "Content-Length"),
        ("{transfer-encoding: chunked}", "transfer-encoding"),
        ("{Accept-Encoding: gzip}", "Accept-Encoding"),
        ("{'X Y': s3cret}", "name"),
        ('{X-Key: "s3cret\\n"}', "X-Key"),
        ('{X-Key: "s3cret\\r\\nHost: evil"}', "X-Key"),
        ("{X-Key: s3cretß}", "X-Key"),
        ("{X-Key: a, x-key: b}", "x-key"),
        ("s3cret", "section"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(tmp_path: Path, headers: str, keyword: str) -> None:
    """The message contains the name of the header, but not its value."""
    (line,) = mistakes(tmp_path, target(f"headers: {headers}"))

    assert line.startswith("targets[0].headers: ")
    assert keyword in line
    assert "s3cret" not in line


def test_a_header_value_that_yaml_reads_as_a_number_is_refused(tmp_path: Path) -> None:
    """YAML might change the number, so quotes are required. The value is not shown."""
    (line,) = mistakes(tmp_path, target("headers: {X-Key: 0123456}"))

    assert line.startswith("targets[0].headers.X-Key: ")
    assert "quotes" in line
    assert "123456" not in line
    assert "42798" not in line  # read as octal


def test_a_header_is_sent_as_it_is_written(tmp_path: Path) -> None:
    """The name of a header has no special meaning, even if it ends in `_file`; Host may be set too."""
    (plan,) = load(tmp_path, target("headers: {Host: localhost, x_file: abc}")).plans()

    assert plan.headers == {"Host": "localhost", "x_file": "abc"}


def test_paths_start_at_the_directory_of_the_configuration_file(tmp_path: Path) -> None:
    """A relative path does not depend on the working directory; an absolute one is not changed."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "password").write_text("s3cret\n")
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())

    basic = "basic_auth: {username: u, password_file: '${DIRECTORY}/password'}"
    relative, absolute = load(
        tmp_path,
        f"""
        targets:
          - {{url: 'https://a', {basic}, tls: {{ca_file: ca.pem}}}}
          - {{url: 'https://b', bearer_token_file: {tmp_path}/sub/password}}
        """,
        environ={"DIRECTORY": "sub"},
    ).plans()

    assert (relative.password_file, relative.ca_file) == (tmp_path / "sub/password", tmp_path / "ca.pem")
    assert absolute.bearer_token_file == tmp_path / "sub/password"
