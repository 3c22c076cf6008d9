"""CometBFT as an `Engine`."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deepbrain.frame.consensus import ConsensusAddress
from deepbrain.node.chain import Chain
from deepbrain.node.comet.app import CLOCK_SECONDS, WRONG_CLOCK, App
from deepbrain.node.comet.home import COMETBFT, SOCKET, CometConfig, CometHome, chain_id
from deepbrain.node.comet.process import CometProcess
from deepbrain.node.comet.program import find_cometbft
from deepbrain.node.comet.retaining import Retaining
from deepbrain.node.comet.snapshots import Snapshots
from deepbrain.node.comet.socket import serving
from deepbrain.node.engine import Ledger, Traffic
from deepbrain.node.pool import Pool
from deepbrain.node.solo import calendar
from deepbrain.runtime.runtime import runtime_of

log = logging.getLogger(__name__)

STALLED_SECONDS: Final = 30.0
"""Without a block for so long, something is wrong: it is said."""


class CometEngine:
    """Orders extrinsics together with other nodes. `home` is CometBFT's directory."""

    name = COMETBFT

    def __init__(
        self,
        chain: Chain,
        ledger: Ledger,
        pool: Pool,
        home: Path,
        config: CometConfig,
        *,
        archive: bool = False,
    ) -> None:
        """Raises: NodeError: CometBFT is not here, or its directory is damaged."""
        self.program = find_cometbft(config.program)
        self.home = CometHome(home)
        self.keys = self.home.ensure_keys()
        self.chain_id = chain_id(chain.spec.id, chain.genesis_hash)
        self._chain = chain
        self._config = config
        self.snapshots = Snapshots.at(home.parent, chain, ledger, config.snapshot_interval)
        self.app = App(
            chain,
            ledger,
            pool,
            chain_id=self.chain_id,
            own=self.keys.address,
            last_signed=self.home.last_signed(),
            snapshots=self.snapshots,
            retaining=Retaining(chain, archive=archive),
        )
        self.process = CometProcess(
            self.program, home, prepare=self._prepare, height=lambda: chain.head.number
        )

    @property
    def live(self) -> bool:
        """Whether this node has caught up with the others."""
        return self.app.live

    @property
    def address(self) -> ConsensusAddress:
        return self.keys.address

    @property
    def traffic(self) -> Traffic:
        return Traffic(self.app.inbox, self.app.outbox, self.process.restarts)

    def announce(self, extrinsics: Sequence[bytes]) -> None:
        self.app.announce(extrinsics)

    async def run(self) -> None:
        self._compare_clock()
        async with serving(self.home.path / SOCKET, self.app):
            tasks = [
                asyncio.create_task(self.process.keep(), name="cometbft"),
                asyncio.create_task(self.app.drain(), name="drain"),
                asyncio.create_task(self._watch(), name="watch"),
                asyncio.create_task(self.snapshots.keeper.keep(), name="snapshots"),
            ]
            try:
                await asyncio.wait((*tasks, self.app.failed), return_when=asyncio.FIRST_COMPLETED)
                for ended in (self.app.failed, *tasks):
                    if ended.done():
                        ended.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                # It first: were we gone before it, it would take that for a failure.
                await self.process.stop()

    def _prepare(self) -> None:
        # Of block 0: an upgrade may change figures, and CometBFT's genesis is what it was.
        runtime = runtime_of(self._chain.spec, self._chain.genesis_version)
        # Also where a crash came between our joining and CometBFT's: it joins again.
        self.home.write(runtime, self.chain_id, self._config, may_join=self._chain.is_fresh)

    def _compare_clock(self) -> None:
        """See that this machine's clock is not behind the chain: CometBFT would wait, and not say so."""
        seconds = (int(self._chain.earliest) - int(calendar())) // 1000
        if seconds > CLOCK_SECONDS and self._chain.head.number == 0:
            log.warning("by this machine's clock the chain begins in %d s", seconds)
        elif seconds > CLOCK_SECONDS:
            log.error(WRONG_CLOCK, seconds, "behind")

    async def _watch(self) -> None:
        """Say when the height stands still: CometBFT itself calls that healthy."""
        stands_at = self._chain.head.number
        while True:
            await asyncio.sleep(STALLED_SECONDS)
            height = self._chain.head.number
            if height == stands_at:
                self._compare_clock()
                log.warning(
                    "no block for %d s after block %d: more than a third of the voting power is "
                    "away, or this node is cut off from it",
                    STALLED_SECONDS,
                    height,
                )
            stands_at = height
