"""Transfers that people send to validators, each to one node, and what comes of them.

A node that does not answer is tried again: what it may or may not have taken is sent once more, as a
careful client does. So in the end every transfer is in the chain, once.
"""

import asyncio
import contextlib
import json
import time
from collections import deque
from dataclasses import dataclass, field

import aiohttp
from tests.node.world import Wallet, account, hexed, transfer_call
from tests.validators.town import Town, Validator

from deepbrain.node.chain import Chain
from deepbrain.node.node import load_spec
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.system import System
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.state.memory import MemoryStore

SENDERS = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
KNOWN = ("already", "outdated")
"""What a node says of a transfer that it has, or that is in the chain."""
TICK = 0.1
AMOUNT = 10**15


def genesis_of(town: Town) -> Hash:
    return Chain(MemoryStore(), load_spec(str(town.spec)), "load").genesis_hash


@dataclass
class Sender:
    """One account, at one node."""

    name: str
    node: Validator
    wallet: Wallet
    waiting: deque[str] = field(default_factory=deque)
    signed: int = 0
    refused: list[str] = field(default_factory=list)

    def sign(self, count: int) -> None:
        for _ in range(count):
            call = transfer_call(AccountId(self.signed.to_bytes(32, "big")[:31] + b"\1"), AMOUNT)
            self.waiting.append(hexed(self.wallet.sign(self.name, call)))
            self.signed += 1

    async def send(self) -> None:
        """Hand in what waits, up to the first that the node will not take now."""
        while self.waiting:
            part = [self.waiting[at] for at in range(min(100, len(self.waiting)))]
            answers = await self.node.batch(
                *(("author_submitExtrinsic", [extrinsic]) for extrinsic in part)
            )
            for answer in answers:
                error = answer.get("error")
                said = json.dumps(error).lower()
                if error is None or any(word in said for word in KNOWN):
                    self.waiting.popleft()
                else:
                    self.refused.append(said)
                    return


@dataclass
class Load:
    """A number of transfers a second, over all senders."""

    town: Town
    rate: float
    senders: list[Sender] = field(default_factory=list)
    _task: "asyncio.Task[None] | None" = None

    @classmethod
    def of(cls, town: Town, rate: float, *nodes: Validator) -> "Load":
        wallet = Wallet(genesis_of(town))
        at = nodes or tuple(town.validators)
        made = cls(town, rate)
        made.senders = [Sender(name, node, wallet) for name, node in zip(SENDERS, at, strict=False)]
        return made

    async def __aenter__(self) -> "Load":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        owed, last = 0.0, time.monotonic()
        while True:
            now = time.monotonic()
            owed, last = owed + (now - last) * self.rate / len(self.senders), now
            count = int(owed)
            owed -= count
            for sender in self.senders:
                sender.sign(count)
            await asyncio.gather(*(_patiently(sender) for sender in self.senders))
            await asyncio.sleep(TICK)

    async def settled(self, seconds: float = 60.0) -> int:
        """Wait until every transfer is in the chain at every node that is up; how many there were."""
        await self.stop()
        deadline = time.monotonic() + seconds
        while True:
            for sender in self.senders:
                await _patiently(sender)
            lacking = [
                (sender.name, node.number, found, sender.signed)
                for sender in self.senders
                for node in self.town.all
                if node.up
                if (found := await nonce(node, sender.name)) != sender.signed
            ]
            if not lacking:
                return sum(sender.signed for sender in self.senders)
            assert time.monotonic() < deadline, f"not in the chain: {lacking}\n{self.town.logs()}"
            await asyncio.sleep(0.3)


async def _patiently(sender: Sender) -> None:
    if sender.node.up:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            await sender.send()


async def storage(node: Validator, key: bytes, at: str | None = None) -> bytes | None:
    params = [hexed(key)] if at is None else [hexed(key), at]
    found = await node.call("state_getStorage", *params)
    return None if found is None else bytes.fromhex(str(found)[2:])


async def nonce(node: Validator, name: str) -> int:
    found = System.account.decode(await storage(node, System.account.key_of(account(name))))
    assert found is not None
    return int(found.nonce)


async def no_unit_lost(node: Validator) -> int:
    """See that all accounts together have what was issued less what was burned; that amount."""
    at = str(await node.call("chain_getFinalizedHead"))
    total, after = 0, None
    prefix = hexed(System.account.prefix)
    while True:
        keys = await node.call("state_getKeysPaged", prefix, 256, after, at)
        assert isinstance(keys, list)
        for key in keys:
            data = System.account.decode(await storage(node, bytes.fromhex(key[2:]), at))
            assert data is not None
            total += data.data.total()
        if len(keys) < 256:
            break
        after = keys[-1]
    issued = Balances.issued.decode(await storage(node, Balances.issued.key_of(), at))
    burned = Balances.burned.decode(await storage(node, Balances.burned.key_of(), at))
    issuance = Balances.total_issuance.decode(
        await storage(node, Balances.total_issuance.key_of(), at)
    )
    assert issued is not None
    assert burned is not None
    assert total == issuance == int(issued) - int(burned)
    return total
