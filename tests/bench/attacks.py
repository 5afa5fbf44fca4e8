"""Measures each attack of a server or of a client alone, next to a healthy target: prints a row of a table for each.

    python tests/bench/attacks.py [--seconds 10] [--directory CHECKOUT] [NAME...]

`--directory` measures the exporter of another checkout, for example of an older release. An attack that takes more than
1 GB of memory ends with the daemon's death.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.benching import scripted_model, scripted_server
from support.daemons import daemon
from support.hostile_server import ATTACKS, hostile_servers, target_of
from support.observer import Observer
from support.web_attacks import connections, drip, flood, gzip_bomb, post_bombs

NONE = "(no attack)"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def hold(port: int, seconds: float, count: int, sent: bytes = b"") -> None:
    """Open connections, send the same on each, read nothing, and keep them open."""
    with connections(port, count, sent):
        time.sleep(seconds)


def send_slow_heads(port: int, seconds: float) -> None:
    """Send the head of a request byte by byte on 100 connections."""
    with connections(port, 100, b"GET / HTTP/1.1\r\nX: ") as clients:
        drip(clients, seconds)


def post_bombs_until(port: int, seconds: float) -> None:
    """POST four gzip bombs of 256 MiB again and again."""
    end, body = time.monotonic() + seconds, gzip_bomb(256)
    while time.monotonic() < end:
        post_bombs(port, 4, body)


CLIENTS: dict[str, Callable[[int, float], object]] = {
    "client: gzip bombs by POST": post_bombs_until,
    "client: 1,000 idle connections": lambda port, seconds: hold(port, seconds, 1000),
    "client: 200 that never read": lambda port, seconds: hold(port, seconds, 200, GET * 20),
    "client: 100 slow heads": send_slow_heads,
    "client: 16 floods of name[]": lambda port, seconds: flood(port, 16, lambda i: f"/metrics?name[]=x{i}", seconds),
}
"""What clients do to the exporter's port, for a number of seconds."""
COLUMNS = (
    "attack",
    "longest time without /metrics",
    "memory",
    "healthy target: good of due runs",
    "its elapsed: median, longest",
    "reason",
    "page",
    "log",
    "exit",
)


async def measure(name: str, urls: dict[str, str], healthy: str, seconds: float) -> str:
    """Return the row of one attack."""
    with tempfile.TemporaryDirectory() as folder:
        targets = [{"name": "healthy", "url": healthy, "models": ["llama3.1"], "interval": "1s", "num_predict": 32}]
        if name in ATTACKS:
            targets.append(target_of(ATTACKS[name], urls[name], Path(folder) / "token"))
        async with daemon(Path(folder), targets) as running:
            with Observer(running.process.pid, running.url) as observer:
                if name in CLIENTS:
                    port = int(running.url.rpartition(":")[2])
                    await asyncio.to_thread(CLIENTS[name], port, seconds)
                else:
                    await asyncio.sleep(seconds)
            log_bytes = sum(map(len, running.lines))
            status = str(running.process.returncode)
            if running.process.returncode is None:
                began = asyncio.get_running_loop().time()
                try:
                    status = f"{await running.end()} in {asyncio.get_running_loop().time() - began:.1f} s"
                except TimeoutError:
                    status = "hangs"
    runs, good = (observer.total(f"{kind}_total", target="healthy") for kind in ("runs", "successes"))
    skipped = observer.total("skipped_total", target="healthy")
    elapsed = observer.elapsed_seconds or [0.0]
    columns = (
        name,
        f"{observer.longest_gap_seconds * 1000:.0f} ms",
        f"{observer.resident_mb:.0f} MB" + (", killed" if observer.killed else ""),
        f"{good:.0f} of {runs + skipped:.0f}",
        f"{median(elapsed) * 1000:.0f}, {max(elapsed) * 1000:.0f} ms",
        ", ".join(sorted(observer.reasons(name))) or "none",
        f"{len(observer.page) / 1000:.0f} kB",
        f"{log_bytes / 1000:.0f} kB",
        status,
    )
    return "| " + " | ".join(columns) + " |"


async def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--directory", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("names", nargs="*", default=[NONE, *ATTACKS, *CLIENTS])
    options = parser.parse_args()
    os.chdir(options.directory)  # `python -m exporter` imports from the working directory
    with hostile_servers() as urls, scripted_server([scripted_model(500)]) as healthy:
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
        for name in options.names:
            print(await measure(name, urls, healthy, options.seconds), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
