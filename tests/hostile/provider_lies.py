"""A machine whose owner has changed its program: what it may do to who rents it.

The real agent answers, but for the requests that a lie is about. `lying` puts lies in its mouth.
"""

import asyncio
import dataclasses
import io
import tarfile
from collections.abc import Awaitable, Callable
from typing import Any

from deepbrain.net.frames import reply_bytes
from deepbrain.net.messages import Done, Greeting, OrderStatus, Request, Stage, State
from deepbrain.net.stream import Stream
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.units import U64
from deepbrain.provider.admission import Visit
from deepbrain.provider.loop import Agent

Lie = Callable[[Visit, Any, Stream], Awaitable[None]]

ORDERS_A_TERMINAL = (
    "\x1b[2J\x1b[1;1H\x1b]0;yours\x07\x9b31m\x1b]8;;http://evil.example\x1b\\"
    "\r\ndbc: order 0 exited with 0\u202eDBC 0 diap\u2028"
)
"""Words that clear a terminal, name its window, and draw lines that `dbc` never said."""


def lying(
    agent: Agent, lies: dict[type[Request], Lie], greeting: dict[str, Any] | None = None
) -> None:
    """From now on `agent` answers such requests with these lies, and greets like this."""
    honest = agent._service.serve

    async def serve(visit: Visit, request: Request, stream: Stream) -> None:
        lie = lies.get(type(request))
        await (honest(visit, request, stream) if lie is None else lie(visit, request, stream))

    async def greet() -> Greeting:
        return (await agent.greeting()).but(**(greeting or {}))

    gate = agent._gate
    gate._serve = serve
    gate._admission = dataclasses.replace(gate._admission, greeting=greet)


def status(visit: Visit, stage: Stage, done: int = 0, detail: str = "") -> bytes:
    nothing = U64(0)
    return reply_bytes(State(status=OrderStatus(
        order=OrderId(visit.order), stage=stage, detail=detail, done=U64(done), total=U64(1 << 40),
        exit=None, log_start=nothing, log_end=nothing, mode="gvisor", kept_seconds=None,
    )))  # fmt: skip


async def silent(_visit: Visit, _request: Request, _stream: Stream) -> None:
    await asyncio.Event().wait()


def always_busy(seen: list[int]) -> Lie:
    """It unpacks, a little more each time it is asked or not asked."""

    async def lie(visit: Visit, request: Any, stream: Stream) -> None:
        follow = getattr(request, "follow", False)
        while True:
            seen.append(visit.order)
            await stream.write(status(visit, Stage.UPLOADING, len(seen)))
            if not follow:
                return
            await asyncio.sleep(0.05)

    return lie


def failed(detail: str) -> Lie:
    async def lie(visit: Visit, _request: Request, stream: Stream) -> None:
        await stream.write(status(visit, Stage.FAILED, detail=detail))

    return lie


def hangs_up(seen: list[int]) -> Lie:
    async def lie(visit: Visit, _request: Request, _stream: Stream) -> None:
        seen.append(visit.order)
        visit.connection.close(1, ORDERS_A_TERMINAL)

    return lie


def sends(data: bytes) -> Lie:
    async def lie(_visit: Visit, _request: Request, stream: Stream) -> None:
        await stream.write(reply_bytes(Done()) + data)

    return lie


def hostile_results() -> bytes:
    """One file that is one, between many that are not."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: bytes = b"x", **fields: Any) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content) if fields.get("type") is None else 0
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))

        add("out", type=tarfile.SYMTYPE, linkname="/tmp")
        add("out/dbc-hostile-provider", b"x")
        add("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add("../../escaped")
        add("/tmp/dbc-hostile-absolute")
        add(".git/hooks/post-checkout", b"#!/bin/sh\n", mode=0o755)
        add("sub/.GIT/config")
        add("su", b"x", mode=0o6755)
        add("disk", type=tarfile.BLKTYPE, devmajor=7)
        add(f"name{ORDERS_A_TERMINAL}")
        add("model.bin", b"weights")
        add("MODEL.bin", b"other weights")
        add("n\u00e9", b"composed")
        add("ne\u0301", b"in two")
        add("model.bin", b"again")
    return out.getvalue()
