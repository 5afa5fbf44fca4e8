"""Common mistakes: the detail and the remedy for each exception that identifies one."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import httpcore
import httpx

from exporter.errors import Reason
from exporter.ollama.network import NameNotResolvedError, causes
from exporter.plan import TargetPlan

VERSION_PATH = "/api/version"
_LOCATION_CHARACTERS_MAX = 200

_EXPIRED = "The server's certificate has expired. Renew it, and check the clock of this machine."
_NOT_YET_VALID = "The server's certificate is not valid yet. Check the clock of this machine."
_OTHER_HOST = (
    "The server's certificate is for another host name. Write the name for which it was issued in `url`, or issue one"
    " for this name."
)
_UNKNOWN_AUTHORITY = (
    "Set `tls: {ca_file: ...}` of this target to the certificate authority of the server's certificate."
)
_VERIFY_CODES = {9: _NOT_YET_VALID, 10: _EXPIRED, 62: _OTHER_HOST, 63: _OTHER_HOST, 64: _OTHER_HOST}
"""By OpenSSL's X509_V_ERR code (`openssl/x509_vfy.h`); every other one is an unknown authority."""
_USE_HTTP = "The port does not speak TLS. Write `http://` instead of `https://` in `url`."
_USE_HTTPS = "The port speaks TLS. Write `https://` instead of `http://` in `url`."
_PLAIN_PORT = {
    "WRONG_VERSION_NUMBER",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "UNKNOWN_PROTOCOL",
}
"""OpenSSL's reasons where a server answers a TLS handshake in plain text; they differ by its version."""
_ADD_CERTIFICATE = "set `tls: {cert_file: ..., key_file: ...}` of this target to a certificate that the server accepts."
_CLIENT_CERTIFICATE = re.compile(
    r"ALERT_(CERTIFICATE_REQUIRED|BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE|HANDSHAKE_FAILURE)"
)
_TLS_ONLY = re.compile(r"HTTPS (server|port)|to an? (HTTPS|TLS|SSL)|SSL-enabled", re.IGNORECASE)
"""The answers of Go, nginx and Apache to plain HTTP on a TLS port."""


class Problem(NamedTuple):
    """A mistake that was recognised."""

    reason: Reason
    detail: str
    remedy: str | None


def no_file_descriptors(error: BaseException) -> Problem | None:
    """Return the problem if an exception is due to the limit of open files, of this process or of the system."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in {errno.EMFILE, errno.ENFILE}:
            remedy = (
                "Raise the limit of open files: LimitNOFILE in the systemd unit, or `ulimit -n`. If the whole machine"
                " has reached its limit, raise `fs.file-max`."
            )
            return Problem(Reason.INTERNAL, f"this program has no free file descriptors ({cause.strerror})", remedy)
    return None


def _tls_problem(error: BaseException, plan: TargetPlan) -> Problem:
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = f"certificate not accepted: {error.verify_message}"
        return Problem(Reason.CONNECT, detail, _VERIFY_CODES.get(error.verify_code, _UNKNOWN_AUTHORITY))
    name = getattr(error, "reason", None) or ""
    detail = f"TLS failed: {name.replace('_', ' ').lower() or error}"
    if name in _PLAIN_PORT:
        return Problem(Reason.CONNECT, detail, _USE_HTTP)
    if _CLIENT_CERTIFICATE.search(name):
        return Problem(Reason.DENIED, detail, f"The server requires a client certificate: {_ADD_CERTIFICATE}")
    # The connection may end before the alert that says why the handshake was refused is read.
    remedy = f"Check the TLS settings of the server, and that the port in `url` is right.{_may_need_certificate(plan)}"
    return Problem(Reason.CONNECT, detail, remedy)


def _may_need_certificate(plan: TargetPlan) -> str:
    """Return the remedy for a server that may require a client certificate; empty if one is configured."""
    return "" if plan.cert_file else f" If it requires a client certificate: {_ADD_CERTIFICATE}"


def _no_answer(error: BaseException, plan: TargetPlan) -> Problem | None:
    text = str(error)
    if r"\x15\x03" in text:  # a TLS alert
        return Problem(Reason.PROTOCOL, "the answer is not HTTP but TLS", _USE_HTTPS)
    if plan.url.startswith("https:"):
        needs = _may_need_certificate(plan)
    elif "disconnected without sending a response" in text:
        needs = " If the port speaks TLS, write `https://` instead of `http://` in `url`."
    else:
        return None
    return Problem(
        Reason.PROTOCOL, f"the server closed the connection: {text or 'no answer'}", f"See the server's log.{needs}"
    )


def _name_not_resolved(error: BaseException, _: TargetPlan) -> Problem:
    remedy = "Check the DNS servers of this machine, or write the server's address in `url`."
    return Problem(Reason.CONNECT, str(error), remedy)


def _name_unknown(error: BaseException, _: TargetPlan) -> Problem:
    remedy = "Check the spelling of the host name in `url`, and that this machine's DNS knows it."
    reason = error.strerror if isinstance(error, OSError) else error
    return Problem(Reason.CONNECT, f"the host name does not resolve ({reason})", remedy)


def _refused(_: BaseException, __: TargetPlan) -> Problem:
    return Problem(Reason.CONNECT, "connection refused", None)


def _no_connection(error: BaseException, _: TargetPlan) -> Problem:
    remedy = "Check that the host is up, the address and port in `url`, and that no firewall drops packets."
    return Problem(Reason.CONNECT, f"no connection: {error}", remedy)


def _connect_error(error: BaseException, plan: TargetPlan) -> Problem | None:
    *_, last = causes(error)
    if isinstance(last, OSError) and last.errno:
        return Problem(Reason.CONNECT, os.strerror(last.errno).lower(), None)
    if not str(error) and plan.url.startswith("https:"):
        needs = _may_need_certificate(plan)
        detail = "the server closed the connection during the TLS handshake"
        return Problem(Reason.CONNECT, detail, f"See the server's log.{needs}")
    return None


_Describe = Callable[[BaseException, TargetPlan], Problem | None]
_DESCRIPTIONS: tuple[tuple[type[Exception], _Describe], ...] = (
    (NameNotResolvedError, _name_not_resolved),
    (socket.gaierror, _name_unknown),
    (ssl.SSLError, _tls_problem),
    (ConnectionRefusedError, _refused),
    (httpcore.ConnectTimeout, _no_connection),
    (httpcore.ConnectError, _connect_error),
    (httpcore.RemoteProtocolError, _no_answer),
    (httpcore.ReadError, _no_answer),
)
"""By the type of a cause. The first one that occurs counts."""


def connection_problem(error: BaseException, plan: TargetPlan) -> Problem | None:
    """Return what prevented or ended a connection, None if the exception does not show it."""
    if problem := no_file_descriptors(error):
        return problem
    chain = list(causes(error))
    found = ((describe, cause) for kind, describe in _DESCRIPTIONS for cause in chain if isinstance(cause, kind))
    describe, cause = next(found, (None, error))
    return describe(cause, plan) if describe else None


def status_remedy(
    plan: TargetPlan, reason: Reason, status: int, text: str, response: httpx.Response | None
) -> str | None:
    """Return what to do about an error status, None where only the reason's own remedy is known."""
    if reason is Reason.DENIED:
        return _denied(plan, status)
    if response is not None and response.has_redirect_location:
        return _redirected(response)
    if plan.url.startswith("http:") and status == HTTPStatus.BAD_REQUEST and _TLS_ONLY.search(text):
        return _USE_HTTPS
    if response is not None and response.request.url.path.endswith(VERSION_PATH) and reason is Reason.HTTP:
        return not_ollama(plan) if status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED} else None
    return None


def not_ollama(plan: TargetPlan) -> str:
    """Return what to do where a server does not answer as Ollama does."""
    path = urlsplit(plan.url).path.rstrip("/")
    if end := re.search(r"/(v1|api)(/.*)?$", path):
        return f"This is not Ollama's base URL. Remove `{end[0]}` from `url`."
    if path:
        return f"This is not Ollama's base URL. Correct the path `{path}` in `url`, or remove it."
    return (
        "This is not Ollama's base URL. Check the host and the port in `url`. If a reverse proxy serves Ollama under a"
        " path, add that path."
    )


def _redirected(response: httpx.Response) -> str:
    location = response.headers["location"]
    target = str(response.request.url.join(location)) if location.startswith("/") else location
    base = target.partition("?")[0].removesuffix("/").removesuffix(VERSION_PATH)[:_LOCATION_CHARACTERS_MAX]
    return f"Redirects are not followed. Write the URL to which the server redirects in `url`: {base}"


def _denied(plan: TargetPlan, status: int) -> str:
    if configured := _credentials(plan):
        return f"The server rejected the configured credentials. Check {configured} of this target."
    settings = "set bearer_token_file, basic_auth or headers of this target"
    if status == HTTPStatus.FORBIDDEN:
        return (
            "Ollama on loopback refuses requests for other host names: let the proxy in front of it send `Host:"
            f" localhost`. If the server requires credentials, {settings}."
        )
    return f"The server requires credentials and none are configured: {settings}."


def _credentials(plan: TargetPlan) -> str | None:
    """Return the name of the setting that holds a target's credentials, None if there are none."""
    if plan.bearer_token_file is not None:
        return f"bearer_token_file ({plan.bearer_token_file})"
    if plan.username is not None:
        return "basic_auth" if plan.password_file else "the user name and password in `url`"
    return "headers" if any(name.lower() != "host" for name in plan.headers) else None
