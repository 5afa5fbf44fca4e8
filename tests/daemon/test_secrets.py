"""Secrets are put into every place that may hold one, and searched for in everything that the program emits."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml
from aiohttp import web
from support.daemons import START_GUARD_SECONDS, Running, daemon
from support.probing import model_plan, probing, target_plan
from support.programs import free_port

from exporter.errors import ProbeError, Reason
from exporter.gpu.base import ProbedModel
from exporter.gpu.monitor import GpuMonitor, GpuWatch
from exporter.logs import JsonFormatter, LogfmtFormatter
from exporter.ollama.auth import TargetAuth
from exporter.probing.target import Target
from exporter.state.store import StateStore

MARK = "hush"
"""Part of every secret, and of every piece of one that is long enough to be useful."""
AWKWARD = "hush-\"hush\\hush'hush%hush"
"""Printable ASCII that JSON, Python, Go and URLs each escape differently."""
TOKEN = f"tok-{AWKWARD}-hush"
USER = "prometheus"
URL_PASSWORD = "url-hush/hush@hush:hush"
PASSWORD = 'pw-hush"hush  hush-hüsh'
HEADER = f"hdr-{AWKWARD}  hush"
AUTHORIZATION = f"Bearer hdr-{MARK}-{MARK}-{MARK}"
COOKIE = f"session={MARK}-cookie-{MARK}; theme=dark"
ENCODED = [base64.b64encode(f"{user}:{pw}".encode()).decode() for user, pw in ((USER, URL_PASSWORD), ("me", PASSWORD))]


def leaks(text: str) -> list[str]:
    """Return the lines that contain a secret, a piece of one, or one in base64."""
    pieces = [MARK, *(encoded[start : start + 16] for encoded in ENCODED for start in range(8, 24, 8))]
    return [line for line in text.splitlines() if any(piece in line for piece in pieces)]


def echo(request: web.Request) -> str:
    """Return a text that repeats the request's credentials: plain, quoted, and in parts."""
    sent = {name: value for name, value in request.headers.items() if name.lower() in {"authorization", "x-key"}}
    sent["Cookie"] = request.headers.get("cookie", "")
    credentials = sent.get("Authorization", "").partition(" ")[2]
    with contextlib.suppress(ValueError):
        credentials += " " + base64.b64decode(credentials, validate=True).decode()
    return f"no entry with {sent} or {json.dumps(sent)}; {credentials} {quote(credentials)} {sent['Cookie'][8:25]}"


def json_error(text: str, status: int) -> web.Response:
    """Return an error in Ollama's format."""
    return web.json_response({"error": text}, status=status)


async def answer(request: web.Request) -> web.StreamResponse:
    """Fail as the first part of the path says."""
    way, call = request.match_info["way"], request.match_info["call"]
    if way == "denied":
        return json_error(echo(request), 401)
    if way == "page":
        return web.Response(status=500, text=f"<html>{echo(request)}</html>", content_type="text/html")
    if call == "ps":
        return web.json_response({"models": [{"name": "llama3.1:latest", "size": 1, "size_vram": 1}]})
    if call != "generate":
        return web.json_response({"version": "0.33.0", "models": []})
    if way == "late":  # where a long error text is cut, 300 characters in
        return json_error("." * 275 + echo(request).partition(";")[2], 500)
    line: dict[str, dict[str, Any]] = {
        "final": {"response": "", "done": True, "eval_count": echo(request), "eval_duration": 10**9},
        "short": {"response": "", "done": True, "eval_count": 1, "done_reason": echo(request)},
        "stream": {"error": echo(request)},
    }
    return web.Response(text=json.dumps(line[way]) + "\n")


WAYS = ("denied", "page", "late", "final", "short", "stream")


@contextlib.asynccontextmanager
async def echoing_server() -> AsyncIterator[str]:
    """Yield the URL of a server whose errors repeat the credentials it was sent."""
    app = web.Application()
    app.router.add_route("*", "/{way}/api/{call}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield "http://{}:{}".format(*runner.addresses[0])
    finally:
        await runner.cleanup()


@dataclass
class Planted:
    """A configuration with a secret in every place that may hold one."""

    folder: Path
    url: str

    def __post_init__(self) -> None:
        self.write("token", TOKEN)
        self.write("password", PASSWORD)

    def write(self, name: str, content: str | bytes) -> str:
        """Write a file and return its name."""
        data = content.encode() if isinstance(content, str) else content
        (self.folder / name).write_bytes(data + b"\n")
        return name

    def with_user_info(self, url: str) -> str:
        """Return the URL with user name and password in it, the latter from the environment."""
        return url.replace("://", f"://{USER}:${{URL_PASSWORD}}@")

    def targets(self, *authorizations: str) -> list[dict[str, Any]]:
        """Return a target for each way to fail and each given way to authorize (by default all of them)."""
        found: list[dict[str, Any]] = []
        common: dict[str, Any] = {"models": ["llama3.1"], "headers": {"X-Key": "${HEADER}", "Cookie": COOKIE}}
        for way in (*WAYS, "refused"):
            url = f"{self.url}/{way}" if way in WAYS else f"http://127.0.0.1:{free_port()}"
            found += [
                {"name": f"{way} header", "url": url, **common}
                | {"headers": {**common["headers"], "Authorization": AUTHORIZATION}},
                {"name": f"{way} url", "url": self.with_user_info(url), **common},
                {"name": f"{way} token", "url": url, "bearer_token_file": "token", **common},
                {"name": f"{way} basic", "url": url, **common}
                | {"basic_auth": {"username": "me", "password_file": "password"}},
            ]
        return [target for target in found if not authorizations or target["name"].endswith(authorizations)]

    def turning(self) -> list[dict[str, Any]]:
        """Return targets whose token files become invalid after the start."""
        return [
            {
                "name": f"turning {name}",
                "url": f"{self.url}/stream",
                "models": ["llama3.1"],
                "interval": "1s",
                "bearer_token_file": self.write(name, TOKEN),
            }
            for name in TURNED
        ]


TURNED: dict[str, bytes | None] = {
    "gone": None,
    "empty": b"",
    "two lines": TOKEN.encode() + b"\n" + TOKEN.encode(),
    "not ASCII": f"{TOKEN}ü".encode(),
    "not text": TOKEN.encode() + b"\xff",
}


@pytest.fixture
def planted_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set environment variables with secrets: some that the configuration expands, some meant for other programs."""
    proxy = f"http://{USER}:{MARK}-proxy@127.0.0.1:9"
    for name, value in {
        "URL_PASSWORD": quote(URL_PASSWORD, safe=""),
        "HEADER": HEADER,
        "OLLAMA_API_KEY": f"key-{MARK}",
        "LANGSMITH_API_KEY": f"key-{MARK}",
        "HTTP_PROXY": proxy,
        "HTTPS_PROXY": proxy,
        "ALL_PROXY": proxy,
        "http_proxy": proxy,
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)


BROKEN = f"""
targets:
  - url: http://{USER}:{MARK}@127.0.0.1:0
  - url: ftp://{USER}:{MARK}@h
  - {{url: "http://h:1", headers: {{X-Key: "{MARK}\\n{MARK}", Accept-Encoding: {MARK}, "bad name": {MARK}}}}}
  - {{url: "http://h:2", bearer_token_file: {MARK}, headers: [{MARK}]}}
  - {{url: "http://h:3", basic_auth: {{username: "{MARK}:{MARK}", password: {MARK}, password_file: {MARK}}}}}
  - {{url: "http://{USER}:{MARK}@h:4", headers: {{Authorization: {MARK}}}}}
"""


async def probed(running: Running, name: str, targets: list[str], **labels: str) -> None:
    """Wait until a counter of every one of the targets is above 0."""
    async with asyncio.timeout(START_GUARD_SECONDS):
        while True:
            samples = await running.scrape()
            keys = [
                (f"ollama_probe_{name}", frozenset({"target": target, "model": "llama3.1", **labels}.items()))
                for target in targets
            ]
            if all(samples.get(key) for key in keys):
                return
            await asyncio.sleep(0.2)


@pytest.mark.usefixtures("planted_environment")
@pytest.mark.parametrize("log_format", ["logfmt", "json"])
async def test_daemon_emits_no_secret(log_format: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not in the debug log, either format of the metrics, the status page, or the errors of a failed reload."""
    async with echoing_server() as url:
        planted = Planted(tmp_path, url)
        targets = planted.targets(*(["url"] if log_format == "json" else [])) + planted.turning()
        settings: dict[str, Any] = {"log": {"format": log_format}, "max_concurrent_probes": 8}
        async with daemon(tmp_path, targets, **settings) as running:
            await probed(running, "runs_total", [target["name"] for target in targets])
            for name, content in TURNED.items():
                if content is None:
                    (tmp_path / name).unlink()
                else:
                    planted.write(name, content)
            await probed(running, "failures_total", [f"turning {name}" for name in TURNED], reason="denied")
            running.config_file.write_text(BROKEN)
            running.process.send_signal(signal.SIGHUP)
            failed_reload = await running.wait_for_line("failed to reload configuration")
            running.config_file.write_text(f"targets: [{{url: {MARK}\n  {MARK}: '{MARK}")
            running.process.send_signal(signal.SIGHUP)
            await running.wait_for_line("config.yml: line")
            async with httpx.AsyncClient(base_url=running.url, trust_env=False) as client:
                answers = [
                    await client.get("/"),
                    await client.get("/metrics"),
                    await client.get("/metrics", headers={"accept": "application/openmetrics-text"}),
                ]
            counted = await running.scrape()
            assert await running.end() == 0
    log = "\n".join(running.lines)

    assert {
        dict(labels).get("reason") for (name, labels), value in counted.items() if "failures" in name and value
    } == {Reason.DENIED, Reason.HTTP, Reason.PROTOCOL, Reason.SHORT, Reason.CONNECT}
    assert "<secret>" in log
    assert all(f"targets[{number}]" in failed_reload for number in range(6))
    for emitted in (log, *capfd.readouterr(), *(f"{answer.headers}\n{answer.text}" for answer in answers)):
        assert leaks(emitted) == []


async def emitted_by(folder: Path, *arguments: str) -> str:
    """Run a command with the folder's configuration and return its whole output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        env=os.environ | {"COLUMNS": "1000"},
    )
    async with asyncio.timeout(START_GUARD_SECONDS):
        output, _ = await process.communicate()
    return output.decode()


@pytest.mark.usefixtures("planted_environment")
async def test_commands_emit_no_secret(tmp_path: Path) -> None:
    """Neither help, nor check-config, nor the results, errors and debug logs of the commands that probe."""
    config = ("--config.file", "config.yml", "--log.level", "debug")
    async with echoing_server() as url:
        planted = Planted(tmp_path, url)
        targets = planted.targets("token", "basic")
        targets += [target | {"name": f"{target['name']} i", "models": "installed"} for target in targets[:4]]
        (tmp_path / "config.yml").write_text(yaml.safe_dump({"targets": targets}))
        (tmp_path / "broken.yml").write_text(BROKEN)
        probed = await asyncio.gather(
            emitted_by(tmp_path, "probe", "--json", *config),
            emitted_by(tmp_path, "probe", *config),
            emitted_by(tmp_path, "calibrate", "--runs", "1", *config),
        )
        others = await asyncio.gather(
            emitted_by(tmp_path, "--help"),
            emitted_by(tmp_path, "run", "--help"),
            emitted_by(tmp_path, "check-config", *config),
            emitted_by(tmp_path, "check-config", "--config.file", "broken.yml"),
            emitted_by(tmp_path, "check-config", "--url", f"http://{USER}:{MARK}@127.0.0.1:0"),
            emitted_by(tmp_path, "gpus", *config),
        )

    assert all("<secret>" in text for text in probed)
    assert "Configuration is valid" in others[2]
    for text in (*probed, *others):
        assert text
        assert leaks(text) == []


class FaultyMonitor(GpuMonitor):
    """A GPU monitor whose exception, cause and context contain a secret."""

    async def watch(self, model: ProbedModel) -> GpuWatch:  # noqa: ARG002
        """Raise."""
        try:
            _fail(f"sent {TOKEN!r}")
        except LookupError as error:
            raise RuntimeError(f"odd: {json.dumps({'token': TOKEN})}") from error
        raise AssertionError


def _fail(message: str) -> None:
    try:
        os.environ[TOKEN]
    except KeyError:
        raise IndexError(message)  # noqa: B904 - so that it has a context, and no cause


@pytest.mark.parametrize("formatter", [LogfmtFormatter(), JsonFormatter()], ids=["logfmt", "json"])
async def test_traceback_of_an_internal_error_is_redacted(
    formatter: logging.Formatter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has every exception of the chain, without the secrets in their messages."""
    caplog.set_level(logging.DEBUG)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    async with echoing_server() as url:
        plan = target_plan(f"{url}/stream", model_plan(), bearer_token_file=token)
        target = Target(plan, FaultyMonitor(), StateStore(), lambda *_: asyncio.sleep(0))
        target._models = {plan.key(model_plan()): model_plan()}
        await target.probe(plan.key(model_plan()))
        await target.close()
    text = "\n".join(formatter.format(record) for record in caplog.records if record.name.startswith("exporter"))

    assert "internal" in text
    assert all(kind in text for kind in ("KeyError", "IndexError", "RuntimeError", "Traceback", "<secret>"))
    assert leaks(text) == []


@pytest.mark.parametrize("name", TURNED)
async def test_invalid_secret_file_is_denied(name: str, tmp_path: Path) -> None:
    """The detail names the file, and nothing of its content is shown."""
    file = tmp_path / "token"
    file.write_bytes(content) if (content := TURNED[name]) is not None else None
    async with echoing_server() as url, probing(f"{url}/stream", bearer_token_file=file) as prober:
        with pytest.raises(ProbeError) as caught:
            await prober.probe(model_plan())

    assert caught.value.reason is Reason.DENIED
    assert str(file) in caught.value.detail
    assert "secret" in caught.value.remedy.replace("token", "secret")
    assert leaks(str(caught.value)) == []


async def sent_by(**target: Any) -> TargetAuth:
    """Return the authentication of a target that has sent a request."""
    auth = TargetAuth(target_plan("http://h:1", **target))
    await anext(auth.async_auth_flow(httpx.Request("GET", "http://h:1/")))
    return auth


def spellings(secret: str) -> Iterable[str]:
    """Return a secret as other programs print it."""
    return secret, json.dumps(secret), repr(secret), repr(secret.encode()), quote(secret), quote(secret, safe="")


@pytest.mark.parametrize(
    ("target", "secrets"),
    [
        ({"headers": {"X-Key": HEADER}}, [HEADER]),
        ({"headers": {"Authorization": AUTHORIZATION}}, [AUTHORIZATION, AUTHORIZATION.removeprefix("Bearer ")]),
        ({"headers": {"Cookie": COOKIE}}, [COOKIE, f"{MARK}-cookie-{MARK}"]),
        ({"headers": {"Authorization": f"Basic {ENCODED[0]}"}}, [ENCODED[0], URL_PASSWORD]),
        ({"username": USER, "password": URL_PASSWORD}, [ENCODED[0], URL_PASSWORD]),
    ],
)
async def test_every_spelling_of_a_secret_is_redacted(target: dict[str, Any], secrets: list[str]) -> None:
    """Plain, in JSON, in Python's and Go's quotes, in a URL; whole, or the part that a server would quote."""
    auth = await sent_by(**target)

    for secret in secrets:
        for spelling in spellings(secret):
            assert leaks(auth.redact(f"said {spelling} so")) == []


async def test_short_words_of_a_header_are_not_redacted() -> None:
    """Words of a header's grammar are not removed from every message."""
    auth = await sent_by(headers={"X-Team": "gpu team; a=b"})

    assert auth.redact("no team of gpus at a b") == "no team of gpus at a b"
