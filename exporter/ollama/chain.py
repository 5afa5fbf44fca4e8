"""The reference chain, `prompt | OllamaLLM`, and the handler that notes when its chunks arrive.

Importing LangChain takes more than a second and 60 MB: import this module late, and off the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import httpx
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_ollama import OllamaLLM

from exporter.ollama.transport import TargetAuth, TargetTransport, no_cookies, request_timeout
from exporter.plan import TargetPlan, Workload
from exporter.reading import Answer


class ChunkRecorder(BaseCallbackHandler):
    """Notes each chunk's time and text, and keeps the final chunk's fields.

    Runs inline: LangChain hands other synchronous handlers to a thread for every token. The final chunk is taken as it
    passes, not from the chain's result, since LangChain merges the fields of servers that send `done` twice.
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
        """Note one chunk; what follows a final chunk counts for nothing."""
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
        """Keep the thinking text, which no earlier event carries."""
        fields = response.generations[0][0].generation_info or {}
        self.thinking = str(fields.get("thinking") or "")


class ReferenceChain:
    """The reference program's chain for one target, for one request at a time. Each binds model and options anew."""

    def __init__(self, plan: TargetPlan, auth: TargetAuth) -> None:
        self._sent_at = 0.0
        self._transport = TargetTransport(plan)
        client_kwargs = {
            "auth": auth,
            "cookies": no_cookies(),
            "timeout": request_timeout(),
            "trust_env": False,
            "follow_redirects": False,
            "verify": False,  # of the synchronous client alone, which is built but never used
        }
        self._llm = OllamaLLM(
            model="-",
            base_url=plan.url,
            client_kwargs=client_kwargs,
            async_client_kwargs={"transport": self._transport, "event_hooks": {"request": [self._trace]}},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _trace(self, request: httpx.Request) -> None:
        """Have the request's way traced: LangChain and the connection take some milliseconds before it leaves."""

        async def note(event: str, _: Mapping[str, Any]) -> None:
            if event == "http11.send_request_headers.started":  # of httpcore's `trace` extension
                self._sent_at = perf_counter()

        request.extensions["trace"] = note

    async def ask(
        self,
        model: str,
        workload: Workload,
        *,
        num_ctx: int | None,
        keep_alive: str | int | None,
        seconds: float,
        chunks: ChunkRecorder,
        bare: bool = False,
    ) -> Answer:
        """Ask the question and return what came within the deadline.

        `bare` sends no option but `num_ctx`, as the reference program does. Raises what LangChain, the Ollama client
        and httpx raise, unless the final chunk had come by then. Cancelled, it closes the connection at once.
        """
        options: dict[str, Any] = {} if num_ctx is None else {"num_ctx": num_ctx}
        bound: dict[str, Any] = {"model": model, "keep_alive": keep_alive, "options": options}
        if not bare:
            options |= {
                "num_predict": workload.num_predict,
                "temperature": workload.temperature,
                "seed": workload.seed,
            }
            bound["reasoning"] = workload.reasoning
        chain = ChatPromptTemplate.from_template(workload.template) | self._llm.bind(**bound)
        started_at = self._sent_at = perf_counter()
        try:
            async with asyncio.timeout(seconds) as deadline:
                await chain.ainvoke({"question": workload.question}, config={"callbacks": [chunks]})
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


def _import_the_rest() -> None:
    """Run a chain that asks nobody: LangChain imports a part of itself in its first call, 40 ms of a first reading."""
    chain = ChatPromptTemplate.from_template("{question}") | FakeListLLM(responses=[""])
    chain.invoke({"question": ""}, config={"callbacks": [ChunkRecorder()]})


_import_the_rest()
