"""Many validators on this machine: how many transfers a second, and how soon they are final.

validators_N_tx_per_s     transfers a second with more offered than go in, N validators, blocks of 1 s
validators_N_final_*_s    from handing one in to seeing it in a block of the node it was handed to, at
                          300 transfers a second
validators_4_*_us         CPU a transfer in that saturated run, all four nodes together

Every validator is a node and a CometBFT of its own, in its network namespace; all share the cores, and
with whoever offers the load. Transfers are signed beforehand; each sender uses one node.
"""

import asyncio
import os
import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.node.world import hexed
from tests.validators.load import genesis_of
from tests.validators.town import RPC, Town, Validator, town

from deepbrain.pallets.balances import Balances
from deepbrain.primitives import ss58
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK, Balance
from deepbrain.runtime.extrinsic import Signing, sign
from deepbrain.runtime.version import SPEC_VERSION, TRANSACTION_VERSION

COUNTS: Final = (1, 4, 7)
SENDERS: Final = 280
BATCH: Final = 50
SATURATED: Final = 16_000
IN_FLIGHT: Final = 5_000
"""Transfers that are offered and not yet final: a few blocks of them, less than a pool holds."""
RATE: Final = 300
SECONDS: Final = 25
TICK: Final = 0.05
PATIENCE: Final = 180.0


def senders() -> list[Keypair]:
    return [Keypair.from_uri(f"//sender//{n}") for n in range(SENDERS)]


@dataclass
class Offer:
    """What is sent to one node, in order, and when each was sent and seen in a block."""

    node: Validator
    waiting: deque[str] = field(default_factory=deque)
    sent: dict[str, float] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    said: str = ""

    @property
    def in_flight(self) -> int:
        return len(self.sent) - len(self.final) - self.refused

    async def send(self, count: int) -> None:
        part = [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]
        if not part:
            return
        now = time.monotonic()
        for extrinsic in part:
            self.sent[extrinsic] = now
        answers = await self.node.batch(*(("author_submitExtrinsic", [one]) for one in part))
        for answer in answers:
            if "error" in answer:
                self.refused += 1
                self.said = str(answer["error"])

    async def watch(self) -> None:
        """Note what each new block of the node holds."""
        session = self.node.session()
        url = f"http://127.0.0.1:{RPC}/"
        async with session.ws_connect(url, max_msg_size=0) as socket:
            await socket.send_json(_call(1, "chain_subscribeFinalizedHeads"))
            seen = -1
            async for message in socket:
                frame: dict[str, Any] = message.json()
                if "method" in frame:
                    now = time.monotonic()
                    number = int(frame["params"]["result"]["number"], 16)
                    for height in range(number if seen < 0 else seen + 1, number + 1):
                        for extrinsic in await self._body(height):
                            if extrinsic in self.sent:
                                self.final.setdefault(extrinsic, now)
                    seen = number

    async def _body(self, height: int) -> list[str]:
        digest = await self.node.call("chain_getBlockHash", height)
        block: Any = await self.node.call("chain_getBlock", digest)
        return list(block["block"]["extrinsics"])


def _call(identity: int, method: str, *params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": list(params)}


class Load:
    """Signed transfers for one town."""

    def __init__(self, place: Town) -> None:
        self._signing = Signing(int(SPEC_VERSION), int(TRANSACTION_VERSION), genesis_of(place))
        self._senders = senders()
        self._nonces = [0] * SENDERS
        self._next = 0
        self.offers = [Offer(node) for node in place.validators]

    def sign(self, count: int) -> None:
        """Sign so many, each sender's for the same node."""
        to = self._senders[0].public
        call = Balances.transfer_keep_alive.make(dest=to, value=Balance(PLANCK // 100))
        for _ in range(count):
            at = self._next
            self._next = (at + 1) % SENDERS
            raw = sign(call, self._senders[at], self._signing, nonce=self._nonces[at])
            self._nonces[at] += 1
            self.offers[at % len(self.offers)].waiting.append(hexed(raw))

    def fresh(self) -> None:
        """Forget what was sent before."""
        self.offers = [Offer(offer.node) for offer in self.offers]


async def _saturate(load: Load) -> dict[str, float]:
    """Offer as much as there is room for; the rate between the first and the last block."""
    share = IN_FLIGHT // len(load.offers)

    async def push(offer: Offer) -> None:
        while offer.waiting:
            if offer.in_flight + BATCH <= share:
                await offer.send(BATCH)
            else:
                await asyncio.sleep(TICK)
        while offer.in_flight:  # noqa: ASYNC110 - other processes end it
            await asyncio.sleep(TICK)

    nodes = [offer.node for offer in load.offers]
    before = _cpu(nodes)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*map(push, load.offers))
    after = _cpu(nodes)
    finals = sorted(moment for offer in load.offers for moment in offer.final.values())
    sent = sum(len(offer.sent) for offer in load.offers)
    refused = sum(offer.refused for offer in load.offers)
    if refused:
        raise AssertionError(f"{refused} of {sent} refused: {load.offers[0].said}")
    # Whole blocks: the first one's transfers were done when the clock starts.
    first = finals[0] + 0.5
    counted = [moment for moment in finals if moment > first]
    per_s = len(counted) / (finals[-1] - finals[0])
    return {
        "tx_per_s": round(per_s),
        "node_us": round((after[0] - before[0]) / sent * 1e6),
        "cometbft_us": round((after[1] - before[1]) / sent * 1e6),
    }


async def _paced(load: Load) -> dict[str, float]:
    """Offer at a fixed rate; how long each took to be final."""
    began = time.monotonic()
    total = 0
    while (passed := time.monotonic() - began) < SECONDS:
        due = int(passed * RATE) - total
        total += due
        share, rest = divmod(due, len(load.offers))
        await asyncio.gather(
            *(offer.send(share + (at < rest)) for at, offer in enumerate(load.offers))
        )
        await asyncio.sleep(TICK)
    async with asyncio.timeout(PATIENCE):
        while any(offer.in_flight for offer in load.offers):  # noqa: ASYNC110 - as above
            await asyncio.sleep(TICK)
    delays = [offer.final[one] - offer.sent[one] for offer in load.offers for one in offer.final]
    cuts = statistics.quantiles(delays, n=20)
    return {"final_p50_s": round(cuts[9], 2), "final_p95_s": round(cuts[18], 2)}


def _cpu(nodes: list[Validator]) -> tuple[float, float]:
    """Seconds that nodes, with their workers, and their CometBFTs have used."""
    node = comet = 0.0
    for one in nodes:
        assert one.process is not None
        beside = one.comet()
        node += sum(map(_seconds, _family(one.process.pid, beside)))
        comet += _seconds(beside) if beside is not None else 0.0
    return node, comet


def _family(pid: int, without: int | None) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [pid]
    for child in map(int, children):
        if child != without:
            found += _family(child, without)
    return found


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure_one(count: int) -> dict[str, float]:
    """The figures of so many validators."""
    rich = {ss58.encode(one.public): 10**6 * PLANCK for one in senders()}
    async with town(count, balances=rich) as place:
        load = Load(place)
        load.sign(SATURATED + RATE * SECONDS + 1000)
        watching = [asyncio.create_task(offer.watch()) for offer in load.offers]
        await place.grow(3)
        queued = [offer.waiting for offer in load.offers]
        paced = (RATE * SECONDS + 999) // count
        for offer in load.offers:
            offer.waiting = deque(list(offer.waiting)[:paced])
        figures = await _paced(load)
        for offer, all_of_it in zip(load.offers, queued, strict=True):
            sent = len(offer.sent)
            offer.sent.clear()
            offer.final.clear()
            offer.waiting = deque(list(all_of_it)[sent:])
        figures |= await _saturate(load)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        await place.agree()
    return figures


def measure() -> dict[str, float]:
    """Every figure of this part."""
    figures: dict[str, float] = {}
    for count in COUNTS:
        found = asyncio.run(measure_one(count))
        print(f"  {count} validators: {found}", flush=True)
        figures |= {f"validators_{count}_{name}": value for name, value in found.items()}
    return figures


if __name__ == "__main__":
    measure()
