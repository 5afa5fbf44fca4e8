"""What the status page shows, and that it is safe to show."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from dataclasses import replace
from html.parser import HTMLParser

import httpx
import pytest
from support.readings import FULL, PLAN, TRUNCATED, WORKLOAD, failure
from support.serving import Served

from exporter import __version__
from exporter.errors import Failure, Reason, SkipReason
from exporter.plan import ModelKey
from exporter.web.status_page import format_duration, render_status_page

KEY = ModelKey("gpu-a", "llama3.1")


class Page(HTMLParser):
    """The text of a page, of its table rows and of its code elements, and every tag that it opens."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text = ""
        self.rows: list[str] = []
        self.code: list[str] = []
        self.tags: list[str] = []
        self._closed = False
        self.feed(html)
        self.text = " ".join(self.text.split())
        self.rows = [" ".join(row.split()) for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record a tag. No tag may have an event handler."""
        assert all(not name.startswith("on") for name, _ in attrs)
        self.tags.append(tag)
        self._closed = False
        if tag == "tr":
            self.rows.append("")

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data
        if self.rows:
            self.rows[-1] += data
        if self.lasttag == "code" and not self._closed:
            self.code.append(data)

    def handle_endtag(self, _: str) -> None:
        """Note that the last tag's text has ended."""
        self._closed = True


def page_of(served: Served) -> Page:
    """Return the page as it is now."""
    return Page(render_status_page(served.store.statuses(), "/metrics", served.wall))


def row_of(served: Served) -> str:
    """Return the row of the only model."""
    [_, row] = page_of(served).rows
    return row


@pytest.fixture
def served(served: Served) -> Served:
    """Return a state with one model."""
    served.store.add_model(KEY, PLAN)
    return served


async def test_the_policy_allows_the_pages_own_style_only(client: httpx.AsyncClient) -> None:
    """There is one style, which has the hash that the policy names, and no script. The page refreshes itself."""
    response = await client.get("/")

    [style] = re.findall("<style>(.*?)</style>", response.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}';" in response.headers["content-security-policy"]
    assert "script" not in Page(response.text).tags
    assert 'http-equiv="refresh" content="30"' in response.text
    assert 'href="metrics"' in response.text
    assert __version__ in response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"


def test_no_models() -> None:
    """Without a model there is no table."""
    page = Page(render_status_page([], "/metrics", 0.0))

    assert "table" not in page.tags
    assert "No models" in page.text


def test_a_good_reading(served: Served) -> None:
    """The row has the reading's figures, its age, its GPU and what it competed with."""
    served.store.probe_succeeded(KEY, FULL, 3.0)
    served.monotonic += 180
    served.wall += 180

    row = row_of(served)
    for part in ("llama3.1", "gpu-a", "102.4", "100.0", "68.0", "0.125", FULL.gpu.label, "measured 3 min ago", ": gpu"):
        assert part in row
    for absent in ("Truncated", "%", "Last success"):
        assert absent not in row


def test_a_truncated_reading_on_the_cpu(served: Served) -> None:
    """The row says that rates are the client's, and how much of the model is on the GPU."""
    served.store.probe_succeeded(KEY, TRUNCATED, 3.0)

    for part in ("2.0", "cpu", "Truncated", "0% of the model on the GPU"):
        assert part in row_of(served)


def test_a_failure_is_shown_with_its_detail_and_its_own_remedy(served: Served) -> None:
    """The specific remedy is shown, not the reason's general one; text in backticks is code."""
    served.store.probe_succeeded(KEY, FULL, 3.0)
    served.wall += 7200
    served.store.probe_failed(KEY, Failure(Reason.CONNECT, "certificate <expired>", "Set `ca_file` & retry."), 1.0)
    served.wall += 180

    page = page_of(served)
    row = page.rows[1]
    for part in (
        "failed 3 min ago",
        "connect",
        "certificate <expired>",
        "Set ca_file & retry.",
        "Last success 2 h ago",
    ):
        assert part in row
    assert page.code == ["ca_file"]
    assert Reason.CONNECT.remedy not in row
    assert "102.4" not in row


@pytest.mark.parametrize("reason", Reason)
def test_every_remedy_is_shown(served: Served, reason: Reason) -> None:
    """A general remedy is shown whole, its backticks become markup."""
    served.store.probe_failed(KEY, failure(reason), 1.0)

    assert reason.remedy.replace("`", "") in row_of(served)


@pytest.mark.parametrize("reason", [SkipReason.UNLOADED, SkipReason.OCCUPIED])
@pytest.mark.parametrize("probed", [False, True])
def test_a_skipped_probe_is_explained(served: Served, reason: SkipReason, probed: bool) -> None:
    """The reason is shown next to the last reading, if there is one."""
    if probed:
        served.store.probe_succeeded(KEY, FULL, 3.0)
    served.store.probe_skipped(KEY, reason)

    row = row_of(served)
    assert reason in row
    assert reason.text.replace("`", "") in row
    assert ("102.4" in row) is probed


def test_a_withdrawn_reading_is_not_shown(served: Served) -> None:
    """A reading that is too old, or of another workload, leaves its GPU and the time of the last success."""
    served.store.probe_succeeded(KEY, FULL, 3.0)
    served.monotonic += 7200
    served.wall += 7200
    old = row_of(served)
    served.store.add_model(KEY, replace(PLAN, workload=replace(WORKLOAD, num_predict=64)))
    changed = row_of(served)

    assert "too old" in old
    assert FULL.gpu.label in old
    assert "workload" in changed
    for row in (old, changed):
        assert "102.4" not in row
        assert "Last success 2 h ago" in row


def test_the_summary_counts_models(served: Served) -> None:
    """Models with a current reading and failing ones are counted separately."""
    for name in ("failing", "new", "newer"):
        served.store.add_model(ModelKey("gpu-a", name), PLAN)
    served.store.probe_succeeded(KEY, FULL, 3.0)
    served.store.probe_failed(ModelKey("gpu-a", "failing"), failure(Reason.HTTP), 3.0)

    page = page_of(served)
    assert "not measured yet" in page.rows[-1]
    assert "4 models, 1 with a current reading, 1 failing" in page.text


def test_every_text_is_escaped(served: Served) -> None:
    """Markup in any text from outside is shown, not interpreted."""
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}$version'
    key = ModelKey(evil, evil)
    served.store.add_model(key, PLAN)
    served.store.probe_succeeded(key, replace(FULL, gpu=replace(FULL.gpu, label=evil)), 1.0)
    served.store.probe_failed(key, Failure(Reason.HTTP, evil, f"`{evil}`"), 1.0)

    page = page_of(served)
    assert not {"script", "img"} & set(page.tags)
    assert page.rows[-1].count(evil) == 5
    assert page.code == [evil]


async def test_text_without_utf_8_encoding_is_replaced(served: Served, client: httpx.AsyncClient) -> None:
    """JSON can carry a lone surrogate."""
    served.store.add_model(ModelKey("gpu-a", "mi\ud800stral"), PLAN)

    assert "mi?stral" in (await client.get("/")).text


async def test_the_models_answer_is_shown_nowhere(served: Served, client: httpx.AsyncClient) -> None:
    """The text of an answer reaches neither Prometheus nor the status page."""
    served.store.probe_succeeded(KEY, replace(FULL, text="the secret of life"), 1.0)

    for path in ("/", "/metrics"):
        response = await client.get(path)
        assert KEY.model in response.text
        assert "secret" not in response.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (0.4, "0 s"), (59, "59 s"), (90, "2 min"), (3600, "1 h"), (200_000, "2 d")],
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    """The largest unit that fits is used."""
    assert format_duration(seconds) == text
