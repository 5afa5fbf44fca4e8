"""HTTP content negotiation: which exposition format and which encoding a scrape's headers ask for.

prometheus_client.aiohttp is not used for this. Its `choose_encoder` ignores quality values, so a format with `q=0` can
be chosen, and it returns every OpenMetrics version from 1.0.0 on as the content type, although only 1.0.0 is written.
"""

from __future__ import annotations

import re

from exporter.metrics.exposition import Format


def negotiate(accept: str) -> Format:
    """Return the format with the highest quality value in an Accept header; by default the text format.

    Only supported versions count; Prometheus also offers others.
    """
    best, chosen = 0.0, Format.TEXT
    for media_range in accept.split(","):
        media_type, *parameters = (part.strip() for part in media_range.lower().split(";"))
        given = dict(parameter.partition("=")[::2] for parameter in parameters)
        version = given.get("version", "").strip('"')
        try:
            quality = float(given.get("q", "1"))
        except ValueError:
            continue
        if media_type == "application/openmetrics-text" and version in {"", "1.0.0"}:
            offered = Format.OPENMETRICS
        elif (media_type == "text/plain" and version in {"", "0.0.4"}) or media_type in {"text/*", "*/*"}:
            offered = Format.TEXT
        else:
            continue
        if quality > best:
            best, chosen = quality, offered
    return chosen


def gzip_accepted(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip; `gzip;q=0` does not."""
    for coding in accept_encoding.lower().split(","):
        name, _, quality = coding.partition(";")
        if name.strip() in {"gzip", "*"}:
            return not re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", quality)
    return False
