"""`healthcheck`: ask a running exporter whether it is well."""

from __future__ import annotations

import argparse
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException

DEFAULT_URL = "http://127.0.0.1:10434/-/healthy"
TIMEOUT_SECONDS = 5


def main(arguments: Sequence[str]) -> int:
    """Return 0 where a running exporter answers that it is well, else 1 and a word on standard error."""
    parser = argparse.ArgumentParser(
        prog="ollama-throughput-exporter healthcheck", description="Ask a running exporter whether it is well."
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="where (%(default)s)")
    url = parser.parse_args(arguments).url
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy of the environment's
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS):
            return 0
    except (OSError, ValueError, HTTPException) as error:
        print(f"{url}: {error}: is the exporter running there?", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
