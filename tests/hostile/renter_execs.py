"""Sixteen commands that print without end, which nobody reads; and more than sixteen.

`words`: commands whose names, arguments, variables and sizes are none.
"""

import asyncio
from typing import Any

from tests.hostile.attacker import Aim, attack, endpoints

from deepbrain.net.endpoint import IrohConnection
from deepbrain.net.errors import NetError, Refused
from deepbrain.net.frames import expect_reply, request_bytes
from deepbrain.net.messages import Done, Exec
from deepbrain.net.records import EXIT, read_record
from deepbrain.net.stream import Stream
from deepbrain.primitives.units import U16

FLOOD = ("sh", "-c", "while :; do echo 0123456789abcdef0123456789abcdef0123456789abcdef; done")


async def main(aim: Aim) -> dict[str, Any]:
    async with endpoints(1) as keys:
        connection = await aim.proven(keys[0])
        return await (words if aim.how == "words" else flood)(aim, connection)


async def start(connection: IrohConnection, *argv: str, **more: Any) -> Stream:
    fields = {"env": (), "cwd": "", "tty": False, "cols": U16(80), "rows": U16(24)} | more
    stream = await connection.open()
    await stream.write(request_bytes(Exec(argv=argv, **fields)))
    await expect_reply(stream, Done)
    return stream


async def flood(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    started, refused = [], 0
    for _ in range(aim.count):
        try:
            started.append(await start(connection, *FLOOD))
        except Refused:
            refused += 1
    for stream in started:
        await stream.read_some()  # it prints; and from here on nobody reads
    await asyncio.sleep(aim.seconds)
    return {"started": len(started), "refused": refused}


WORDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "no command": ((), {}),
    "an empty command": (("",), {}),
    "a zero byte": (("echo", "a\0b"), {}),
    "a zero byte in a name": (("e\0cho",), {}),
    "a zero byte in a variable": (("echo",), {"env": (("A", "b\0c"),)}),
    "a variable without a name": (("echo",), {"env": (("", "b"),)}),
    "a variable with a sign": (("echo",), {"env": (("A=B", "c"),)}),
    "a zero byte in the directory": (("echo",), {"cwd": "/\0"}),
    "a directory that is none": (("echo",), {"cwd": "/nowhere/at/all"}),
    "an option in place of a command": (("--help",), {}),
    "an option in place of a directory": (("echo",), {"cwd": "--user=0"}),
    "as many words as there may be": (("echo", *("x" * 200,) * 255), {}),
    "a word as long as there may be": (("echo", "x" * 4096), {}),
    "a preloaded library": (("echo",), {"env": (("LD_PRELOAD", "/nowhere.so"),)}),
    "a terminal without size": (("echo",), {"tty": True, "cols": U16(0), "rows": U16(0)}),
    "a terminal too large": (("echo",), {"tty": True, "cols": U16(65535), "rows": U16(65535)}),
}


async def words(aim: Aim, connection: IrohConnection) -> dict[str, Any]:
    """What becomes of each: the exit code, or the sentence."""
    return {name: await _outcome(connection, argv, more) for name, (argv, more) in WORDS.items()}


async def _outcome(
    connection: IrohConnection, argv: tuple[str, ...], more: dict[str, Any]
) -> int | str:
    try:
        async with asyncio.timeout(20):
            stream = await start(connection, *argv, **more)
            while (entry := await read_record(stream)) is not None:
                if entry[0] == EXIT:
                    return entry[1][0]
    except Refused as refusal:
        return str(refusal)
    except NetError as error:
        return f"lost: {error}"
    return "lost"


if __name__ == "__main__":
    attack(main)
