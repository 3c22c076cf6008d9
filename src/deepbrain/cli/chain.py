"""What every command that talks to the chain shares: its node, its key, its event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from deepbrain.cli.home import node_url

if TYPE_CHECKING:
    from deepbrain.cli.keys import Chosen
    from deepbrain.client import Client

T = TypeVar("T")

CONNECT_SECONDS: Final = 3.0
"""A person waits no longer to hear that no node answers."""


@dataclass(frozen=True, slots=True)
class Choices:
    """`--node` and `--wallet`, as given to this command line."""

    node: str | None
    key: str | None

    @classmethod
    def current(cls) -> "Choices":
        given = click.get_current_context().find_root().obj or {}
        return cls(given.get("node"), given.get("key"))

    @property
    def url(self) -> str:
        return node_url(self.node)

    def chosen(self) -> "Chosen":
        """The key to act for; its password is asked for later. Raises: UserError, InvalidKey."""
        from deepbrain.cli.keys import choose

        return choose(self.key, self.node)

    @contextlib.asynccontextmanager
    async def client(self) -> "AsyncIterator[Client]":
        """Raises: NodeUnreachable, WrongChain."""
        from deepbrain.client import Client

        async with await Client.connect(self.url, seconds=CONNECT_SECONDS) as client:
            yield client


def block_on(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; Ctrl-C cancels it and is raised when it has cleaned up."""
    return asyncio.run(work)
