"""The reference chain, `prompt | OllamaLLM`, and the callback handler that records when its chunks arrive.

Importing LangChain takes more than a second and 60 MB, so this module is imported late and off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from time import perf_counter
from typing import Any

import httpx
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_ollama import OllamaLLM

from exporter.ollama.answers import SHORT_LIMITS, AnswerLimits
from exporter.ollama.auth import TargetAuth
from exporter.ollama.error_mapping import STREAM_REASONS, map_errors
from exporter.ollama.transport import TargetTransport, no_cookies, request_timeout
from exporter.plan import ModelPlan, TargetPlan
from exporter.reading import Answer


@cache
def warm_up() -> None:
    """Import the modules that LangChain imports when a chain first runs. Otherwise that time would count as elapsed."""
    ChatPromptTemplate.from_template("{question}").invoke({"question": ""}, config={"callbacks": [ChunkRecorder()]})


class ChunkRecorder(BaseCallbackHandler):
    """Records each chunk's time and text, and the final chunk's fields.

    It runs inline, because LangChain calls other synchronous handlers in a thread for every chunk. The final chunk is
    taken from the callback and not from the chain's result, where LangChain merges the fields of servers that send
    `done` twice.
    """

    run_inline = True
    raise_error = True

    def __init__(self, on_first_chunk: Callable[[], None] | None = None) -> None:
        self.times: list[float] = []
        self.texts: list[str] = []
        self.final: dict[str, Any] | None = None
        self.final_at: float | None = None
        self.thinking = ""
        self.on_first_chunk = on_first_chunk

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **_: Any,
    ) -> None:
        """Record one chunk. Chunks after the final one are ignored."""
        now = perf_counter()
        if self.final is not None:
            return
        fields = chunk.generation_info if chunk is not None else None
        done = fields is not None and fields.get("done") is True
        if not done or token:
            if not self.times and self.on_first_chunk is not None:
                self.on_first_chunk()
            self.times.append(now)
            self.texts.append(str(token))
        if fields is not None and done:
            self.final = {name: value for name, value in fields.items() if name != "context"}
            self.final_at = now

    def on_llm_end(self, response: LLMResult, **_: Any) -> None:
        """Record the thinking text, which no earlier callback carries."""
        fields = response.generations[0][0].generation_info or {}
        self.thinking = str(fields.get("thinking") or "")


class ReferenceChain:
    """The reference program's chain for one target. It serves one request at a time."""

    def __init__(self, plan: TargetPlan, auth: TargetAuth) -> None:
        self._plan = plan
        self._redact = auth.redact
        self._sent_at = 0.0
        self._limits = SHORT_LIMITS
        self._transport = TargetTransport(plan)
        client_kwargs = {
            "auth": auth,
            "cookies": no_cookies(),
            "timeout": request_timeout(),
            "trust_env": False,
            "follow_redirects": False,
            "verify": False,  # used only by the synchronous client, which is created but never used
        }
        self._llm = OllamaLLM(
            model="-",
            base_url=plan.url,
            client_kwargs=client_kwargs,
            async_client_kwargs={"transport": self._transport, "event_hooks": {"request": [self._prepare]}},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def ask(
        self, plan: ModelPlan, *, num_ctx: int | None, chunks: ChunkRecorder, reference: bool = False
    ) -> Answer:
        """Send the question of a plan and return what arrived within its timeout.

        With `reference`, `num_ctx` is the only option that is sent; the reference program sends none. Raises
        `ProbeError` if the request failed before its final chunk. If cancelled, closes the connection at once.
        """
        warm_up()
        chain = ChatPromptTemplate.from_template(plan.workload.template) | self._llm.bind(
            model=plan.model, keep_alive=plan.keep_alive, **_parameters(plan, num_ctx, reference=reference)
        )
        self._limits = AnswerLimits.of_stream(-1 if reference else plan.workload.num_predict)
        started_at = self._sent_at = perf_counter()
        with map_errors(self._plan, self._redact, STREAM_REASONS):
            try:
                async with asyncio.timeout(plan.timeout_seconds) as deadline:
                    await chain.ainvoke({"question": plan.workload.question}, config={"callbacks": [chunks]})
                ended_at = perf_counter()
            except Exception:
                if chunks.final_at is None and not deadline.expired():
                    raise
                ended_at = chunks.final_at or perf_counter()
        return Answer(
            started_at=started_at,
            sent_at=self._sent_at,
            ended_at=ended_at,
            chunk_times=tuple(chunks.times),
            chunk_texts=tuple(chunks.texts),
            final=chunks.final,
            thinking=chunks.thinking,
            cut=deadline.expired() and chunks.final is None,
        )

    async def _prepare(self, request: httpx.Request) -> None:
        """Bound the answer, and record when the request is sent: LangChain and connecting take milliseconds before."""

        async def record(event: str, _: Mapping[str, Any]) -> None:
            if event == "http11.send_request_headers.started":  # of httpcore's `trace` extension
                self._sent_at = perf_counter()

        request.extensions |= {"trace": record, **self._limits.extension}


def _parameters(plan: ModelPlan, num_ctx: int | None, *, reference: bool) -> dict[str, Any]:
    """Return the request's options and `reasoning`. `bind` replaces all options, so every one is listed."""
    options: dict[str, Any] = {} if num_ctx is None else {"num_ctx": num_ctx}
    if reference:
        return {"options": options}
    workload = plan.workload
    options |= {"num_predict": workload.num_predict, "temperature": workload.temperature, "seed": workload.seed}
    return {"options": options, "reasoning": workload.reasoning}
