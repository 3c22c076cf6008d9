"""What a network of validators goes through, each told once: tests hold it to this, `make validators`
writes it down.

Every story begins in a town that makes blocks, and ends in one.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
from typing import NamedTuple

from tests.node.world import account, hexed
from tests.upgrade.next_version import NEXT, SOURCE
from tests.validators.chain import STAKE, stash
from tests.validators.load import Load, no_unit_lost, nonce, storage
from tests.validators.town import COMET_RPC, ROOT, Town, Validator, eventually

from deepbrain.frame.account import HoldReason
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.offences import Offences, Outcome
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import System
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.ids import AccountId, OffenceId
from deepbrain.primitives.units import U32, BlockNumber
from deepbrain.state.trie import verify_proof

HALT_SECONDS = 5.0
SKEWED = ROOT / ".cache" / "bin" / "cometbft-skewed"


async def one_down(town: Town) -> bool:
    """Whether the network stalls with the last validator dead."""
    town.validators[-1].kill()
    with contextlib.suppress(AssertionError):
        await town.grow(6, seconds=60)
        return False
    return True


async def two_down(town: Town) -> bool:
    """Whether it halts with one more dead: no block, and not two chains."""
    town.validators[-2].kill()
    alive = [one for one in town.validators if one.up]
    await asyncio.sleep(HALT_SECONDS)  # a height that was under way may still end
    before = [await one.height() for one in alive]
    await asyncio.sleep(HALT_SECONDS)
    return [await one.height() for one in alive] == before


async def back(town: Town) -> bool:
    """Whether it goes on when one of the two comes back, and the other one catches up."""
    town.validators[-2].start()
    await town.grow(4, *town.validators[:-1])
    town.validators[-1].start()
    await town.grow(4, *town.validators)
    return True


async def partition(town: Town) -> None:
    """Cut in two halves, neither makes a block; healed, both go on with the same chain."""
    half = len(town.validators) // 2
    town.cut(*(one.number for one in town.validators[half:]))
    await asyncio.sleep(HALT_SECONDS)
    before = [await one.height() for one in town.validators]
    await asyncio.sleep(HALT_SECONDS)
    assert [await one.height() for one in town.validators] == before
    town.heal()
    await town.reach(max(before) + 4)


class Punished(NamedTuple):
    """What a double-signer has lost."""

    offences: int
    slashed: int
    """Planck, held to be slashed or slashed."""
    in_set: bool


async def punished(node: Validator, who: AccountId) -> Punished:
    found = [
        offence
        for number in range(int(await value(node, Offences.next_id) or 0))
        if (offence := await value(node, Offences.offences, OffenceId(number))) is not None
        and offence.offender == who
    ]
    key = await value(node, Validators.keys, who)
    held = await value(node, Validators.held)
    assert all(offence.outcome is not Outcome.CANCELLED for offence in found)
    return Punished(
        offences=len(found),
        slashed=sum(int(offence.amount) for offence in found),
        in_set=any(one.key == key for one in held),
    )


async def value(node: Validator, item, *keys):
    """What a storage item holds at the head."""
    return item.decode(await storage(node, item.key_of(*keys)))


async def double_sign(town: Town) -> Punished:
    """A second node votes with the last validator's key; what that costs it."""
    victim = town.validators[-1]
    twin = town.newcomer(len(town.all) + 1)
    key = "comet/config/priv_validator_key.json"
    shutil.copy(victim.data / key, twin.data / key)
    twin.module = "tests.validators.careless"
    who, watcher = stash(victim.number).public, town[1]
    twin.start()
    await town.reach(2, twin)

    async def caught() -> bool:
        return (await punished(watcher, who)).offences > 0

    await eventually(caught, 120)
    await town.grow(8, watcher)  # time for more of the same evidence
    twin.stop()
    town.others.remove(twin)
    await twin.close()
    return await punished(watcher, who)


async def slash_executed(town: Town, who: AccountId, amount: int) -> None:
    """The treasury gets it when the delay is over."""
    watcher = town[1]

    async def held(reason: HoldReason) -> int:
        holds = await value(watcher, Balances.holds, who)
        return sum(int(one.amount) for one in holds if one.id is reason)

    async def executed() -> bool:
        return not await held(HoldReason.SLASH)

    await eventually(executed, 60)
    assert await held(HoldReason.STAKE) == STAKE - amount


async def upgrade_that_one_lacks(town: Town, load: Load) -> None:
    """A new version takes over while the last validator has an old release: it stops, others go on.

    All but the last run `tests.upgrade.node`.
    """
    late, watcher = town.validators[-1], town[1]
    block = BlockNumber(await watcher.height() + 8)
    call = System.schedule_upgrade.make(spec_version=U32(NEXT), source=SOURCE, block=block)
    wallet = load.senders[0].wallet
    wallet.nonces["Alice"] = await nonce(watcher, "Alice")
    extrinsic = wallet.sign("Alice", Sudo.sudo.make(call=call))
    await watcher.call("author_submitExtrinsic", hexed(extrinsic))
    others = town.validators[:-1]
    await town.reach(block + 4, *others)

    async def ended() -> bool:
        return not late.up

    await eventually(ended, why="it does not stop")
    assert late.process is not None
    assert late.process.returncode == 1
    assert f"must run version {NEXT} of the rules" in late.said().splitlines()[-1]
    version = await watcher.call("state_getRuntimeVersion")
    assert isinstance(version, dict)
    assert version["specVersion"] == NEXT
    late.module = others[0].module  # its operator upgrades
    late.start()
    await town.reach(await watcher.height() + 2)


async def kills(town: Town, count: int, seed: int) -> int:
    """`kill -9` of a node or a CometBFT at random moments; what dies is started again.

    At most one validator is away at a time, so the network goes on. How many were killed.
    """
    chance = random.Random(seed)
    for _ in range(count):
        await asyncio.sleep(chance.uniform(0.05, 1.2))
        victim = chance.choice(town.validators)
        comet = victim.comet()
        if chance.random() < 0.5 and comet is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(comet, signal.SIGKILL)  # its node starts another
        else:
            victim.signal(signal.SIGKILL)  # its CometBFT ends by itself
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            victim.start()
    await town.grow(4, *town.validators)
    return count


async def state_sync(town: Town) -> bool:
    """Whether a new node joins by a snapshot, follows, and proves a balance under a root of theirs.

    The validators take snapshots.
    """
    first = town[1]
    trusted = await first.height()
    commit = await first.comet_rpc(f"/commit?height={trusted}")
    digest = commit["result"]["signed_header"]["commit"]["block_id"]["hash"]
    node = town.newcomer(len(town.all) + 1)
    servers = ",".join(f"{one.address}:{COMET_RPC}" for one in town.validators[:2])
    node.more = (
        *("--state-sync", servers, "--trust-height", str(trusted), "--trust-hash", str(digest)),
    )
    node.start()
    await town.reach(trusted + 2, node)
    await town.grow(3, node)
    first_block = await first.call("chain_getBlockHash", 1)
    if await node.call("chain_getBlock", first_block) is not None:
        return False  # it has executed every block
    height = await town.agree(node, *town.validators)
    key = System.account.key_of(account("Alice"))
    at = await node.call("chain_getBlockHash", height)
    header = await first.call("chain_getHeader", at)
    proof = await node.call("state_getReadProof", [hexed(key)], at)
    nodes = [bytes.fromhex(one[2:]) for one in proof["proof"]]
    value = verify_proof(bytes.fromhex(header["stateRoot"][2:]), nodes, key)
    return value is not None and value == await storage(first, key, str(at))


async def wrong_clock(town: Town, skew: int) -> str:
    """What the last validator says when its machine's clock is `skew` seconds off; the others go on.

    Its CometBFT is one whose clock can be set wrong: `scripts/get-skewed-cometbft`.
    """
    late = town.validators[-1]
    late.stop()
    late.more = (*late.more, "--cometbft", str(SKEWED))
    late.module, late.env = "tests.validators.skewed", {"CLOCK_SKEW": str(skew)}
    late.start()

    async def told() -> bool:
        return "clock is" in late.said()

    await eventually(told, 120, "it does not say that its clock is wrong")
    await town.grow(4, *town.validators[:-1])
    return next(line for line in late.said().splitlines() if "clock is" in line)


async def right_clock(town: Town) -> None:
    """Its clock is set, and it goes on with the others."""
    late = town.validators[-1]
    late.stop()
    late.module, late.env, late.more = town[1].module, {}, town[1].more
    late.start()
    await town.grow(4, *town.validators)


async def sound(town: Town, load: Load) -> int:
    """All that was sent is in the chain, all nodes have the same one, and no unit is lost."""
    sent = await load.settled()
    await town.agree()
    amounts = {await no_unit_lost(one) for one in town.validators if one.up}
    assert len(amounts) == 1
    return sent
