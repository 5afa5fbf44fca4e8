"""`healthcheck`: check /-/healthy of a running exporter. Imports the standard library alone."""

from __future__ import annotations

import argparse
import sys
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from urllib.error import HTTPError

DEFAULT_URL = "http://127.0.0.1:10434/-/healthy"
TIMEOUT_SECONDS = 5


def main(arguments: Sequence[str]) -> int:
    """Return 0 if a running exporter answers that it is healthy, else 1 with a line on standard error."""
    parser = argparse.ArgumentParser(
        prog="ollama-throughput-exporter healthcheck", description="Check /-/healthy of a running exporter."
    )
    parser.add_argument("--url", default=DEFAULT_URL, help="URL to check (default: %(default)s)")
    url = parser.parse_args(arguments).url
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # ignores proxies of the environment
    try:
        with opener.open(url, timeout=TIMEOUT_SECONDS):
            return 0
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()
        print(f"{url}: {error}. Check that the exporter is running and the URL is right.", file=sys.stderr)
        return 1
