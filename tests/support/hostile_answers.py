"""Strategies for what a server may answer: any field, type, size and framing, most of it nearly valid."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from support.raw_server import RawAnswer

TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)
"""With lone surrogates, which JSON can carry."""
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 16, 10**9, 2**63, 10**15, 10**15 + 1, 292 * 365 * 86400 * 10**9, -1, 10**400]),
    st.floats(),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
TIMES = st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00+14:00", "soon"])


def mostly(good: Any, bad: st.SearchStrategy[Any] = VALUES) -> st.SearchStrategy[Any]:
    """Return a strategy for a value that is mostly good, because only then the next field is read."""
    return st.just(good) | st.just(good) | st.just(good) | bad


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for an object with any of these fields and sometimes others, in any order."""

    def ordered(fields: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        return st.permutations(list(fields.items())).map(dict)

    known = st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields)
    return st.builds(
        lambda known, other: {**other, **known}, known, st.just({}) | st.dictionaries(TEXTS, VALUES, max_size=2)
    ).flatmap(ordered)


def damaged(good: dict[str, Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for a good object of which at most two fields are replaced, in any order."""

    def damage(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
        bad = st.fixed_dictionaries({name: fields[name] for name in names})
        return bad.flatmap(lambda drawn: st.permutations(list({**good, **drawn}.items())).map(dict))

    return st.lists(st.sampled_from(sorted(fields)), max_size=2, unique=True).flatmap(damage)


MODEL = {
    "name": mostly("llama3.1:latest"),
    "digest": mostly("46e0c10c039e"),
    "size": mostly(5 * 10**9),
    "details": mostly({"family": "llama", "parameter_size": "8B", "quantization_level": "Q4_K_M"}),
    "capabilities": mostly(["completion"]),
    "remote_host": mostly(""),
}
LOADED = {
    "name": mostly("llama3.1:latest"),
    "size": mostly(6 * 10**9),
    "size_vram": mostly(6 * 10**9),
    "context_length": mostly(4096),
    "expires_at": TIMES | VALUES,
}
CHUNK = {"model": mostly("llama3.1"), "created_at": TIMES, "response": mostly(" word"), "done": mostly(good=False)}
DURATION = st.sampled_from([-1, 0, 1, 10**6, 10**8, 3 * 10**8, 10**15 + 1]) | NUMBERS
FINAL = {
    "created_at": TIMES,
    "response": TEXTS,
    "done": VALUES,
    "done_reason": VALUES,
    "context": VALUES,
    "total_duration": DURATION,
    "load_duration": DURATION,
    "prompt_eval_count": NUMBERS,
    "prompt_eval_duration": DURATION,
    "eval_count": NUMBERS,
    "eval_duration": DURATION,
    "thinking": VALUES,
    "error": VALUES,
}
GOOD_CHUNK = {"model": "llama3.1", "created_at": "2026-01-01T00:00:00Z", "response": " word", "done": False}
GOOD_FINAL = {
    **GOOD_CHUNK,
    "response": "",
    "done": True,
    "done_reason": "length",
    "total_duration": 13 * 10**7,
    "load_duration": 10**7,
    "prompt_eval_count": 46,
    "prompt_eval_duration": 10**7,
    "eval_count": 20,
    "eval_duration": 10**8,
}


def json_line(value: Any) -> bytes:
    """Return a value as a line of JSON, with NaN and infinity as Python's parser accepts them."""
    return json.dumps(value).encode() + b"\n"


LINES = st.one_of(
    st.just(json_line(GOOD_CHUNK)), objects(**CHUNK).map(json_line), VALUES.map(json_line), st.binary(max_size=30)
)
STREAMS = st.builds(
    lambda first, lines, last, more: b"".join([json_line(GOOD_CHUNK) * first, *lines, *last, *more]),
    st.sampled_from([20, 0, 15, 16, 200]),
    st.just([]) | st.lists(LINES, max_size=3),
    st.lists(damaged(GOOD_FINAL, **FINAL).map(json_line), min_size=1, max_size=2) | st.just([]),
    st.just([]) | st.lists(LINES, max_size=1),
)
HEADERS = st.lists(
    st.sampled_from(
        [
            b"Content-Type: application/x-ndjson",
            b"Content-Type: application/json; charset=utf-16",
            b"Content-Type: application/json; charset=hex",
            b"Content-Type: text/html; charset=nonsense",
            b"Content-Encoding: gzip",
            b"Set-Cookie: a=b",
            b"Location: http://127.0.0.1:1/",
            b"X-Bytes: \xff\xfe",
            b"Broken header",
            b"Content-Length: 5",
        ]
    ),
    max_size=2,
).map(tuple)
STATUS = st.sampled_from(
    [b"404 Not Found", b"500 Oh", b"302 Found", b"204 No Content", b"100 Continue", b"999 Odd", b"x"]
)


def answers_with(bodies: st.SearchStrategy[bytes], *, may_hold: bool = False) -> st.SearchStrategy[RawAnswer]:
    """Return a strategy for answers with these bodies, most of them valid HTTP."""
    valid = st.builds(
        RawAnswer,
        body=bodies,
        pieces=st.lists(st.integers(1, 400), max_size=4).map(tuple),
        framing=mostly("chunked", st.just("length")),
    )
    odd = st.builds(
        RawAnswer,
        status=mostly(b"200 OK", STATUS),
        headers=HEADERS,
        body=bodies | st.binary(max_size=50),
        pieces=st.lists(st.integers(1, 400), max_size=4).map(tuple),
        cut=st.none() | st.integers(0, 3000),
        framing=st.sampled_from(["length", "chunked", "close", "wrong_length"]),
        hold=st.booleans() if may_hold else st.sampled_from([False]),
    )
    return valid | valid | odd


def model_lists(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    """Return a strategy for bodies of `/api/tags` and `/api/ps`."""
    return objects(models=st.lists(objects(**fields), min_size=1, max_size=2) | VALUES).map(json_line)


LOADED_BODY = b'{"models":[{"name":"llama3.1:latest","size":1,"size_vram":1,"context_length":4096}]}'
ANSWERS = st.fixed_dictionaries(
    {
        "/api/version": mostly(
            RawAnswer(body=b'{"version":"0.33.0"}'), answers_with(objects(version=TEXTS).map(json_line))
        ),
        "/api/tags": mostly(RawAnswer(body=b'{"models":[]}'), answers_with(model_lists(**MODEL))),
        "/api/ps": mostly(RawAnswer(body=LOADED_BODY), answers_with(model_lists(**LOADED))),
        "/api/generate": answers_with(STREAMS, may_hold=True),
    }
)


def generating(body: bytes, **changes: Any) -> dict[str, RawAnswer]:
    """Return the answers of a server that is valid but for the body of `/api/generate`."""
    return {
        "/api/version": RawAnswer(body=b'{"version":"0.33.0"}'),
        "/api/tags": RawAnswer(body=b'{"models":[]}'),
        "/api/ps": RawAnswer(body=LOADED_BODY),
        "/api/generate": RawAnswer(body=body, **{"framing": "chunked", **changes}),
    }
