"""`make validators`: four validators under load, what they go through, into `build/validators.json`.

python -m tests.validators [--kills N]

Needs root, for network namespaces. A fact is what was seen; it ends with 1 where one is not as it
should be.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from typing import Any

from bench.validators import measure_one
from tests.validators import stories
from tests.validators.load import Load
from tests.validators.town import ROOT, town

REPORT = ROOT / "build" / "validators.json"
WANTED = {
    "stalled_with_one_down": False,
    "halted_with_two_down": True,
    "resumed": True,
    "state_synced": True,
    "double_signer_slashed": True,
    "roots_equal": True,
}
EVERY = ("--snapshot-interval", "20")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def failures() -> dict[str, Any]:
    async with town(4, more=EVERY) as four, Load.of(four, 100) as load:
        say("one of four dies …")
        stalled = await stories.one_down(four)
        say("one more …")
        halted = await stories.two_down(four)
        say("one comes back, then the other …")
        resumed = await stories.back(four)
        say("the network is cut in two, and healed …")
        await stories.partition(four)
        say("a new node joins by a snapshot …")
        synced = await stories.state_sync(four)
        sent = await stories.sound(four, load)
    say(f"  {sent} transfers, each in the chain once; no unit lost")
    return {
        "stalled_with_one_down": stalled,
        "halted_with_two_down": halted,
        "resumed": resumed,
        "state_synced": synced,
        "transfers": sent,
    }


async def crime() -> dict[str, Any]:
    say("two nodes sign with one key …")
    async with town(4) as four, Load.of(four, 50) as load:
        lost = await stories.double_sign(four)
        await stories.sound(four, load)
    return {"double_signer_slashed": lost.offences == 1 and lost.slashed > 0 and not lost.in_set}


async def clocks() -> dict[str, Any]:
    said = {}
    for hours in (-3, 3):
        say(f"a clock is {hours} hours off …")
        old = {"genesis_time": time.time_ns() // 10**6 - 24 * 3600 * 1000}
        async with town(4, Timestamp=old) as four, Load.of(four, 20) as load:
            said[f"clock_{hours:+}_h"] = await stories.wrong_clock(four, hours * 3600)
            await stories.right_clock(four)
            await stories.sound(four, load)
    return said


async def kills(count: int) -> dict[str, Any]:
    say(f"{count} times something is killed …")
    async with town(4) as four, Load.of(four, 50) as load:
        killed = await stories.kills(four, count, seed=count)
        await stories.sound(four, load)
    return {"kills": killed}


async def main(count: int) -> int:
    say("how much goes through …")
    found = await measure_one(4)
    facts: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.platform()}",
        "date": time.strftime("%Y-%m-%d"),
        "tx_per_s": found["tx_per_s"],
        "finality_p50_s": found["final_p50_s"],
        "finality_p95_s": found["final_p95_s"],
    }
    try:
        facts |= await failures()
        facts |= await crime()
        facts |= await clocks()
        if count:
            facts |= await kills(count)
        facts["roots_equal"] = True
    except AssertionError as error:
        say(f"it does not hold: {error}")
        facts["roots_equal"] = False
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(facts, indent=1) + "\n")
    say(json.dumps(facts, indent=1))
    wrong = [name for name, value in WANTED.items() if facts.get(name) is not value]
    for name in wrong:
        say(f"{name} is {facts.get(name)}")
    return int(bool(wrong))


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("validators: network namespaces need root; run it with sudo")
    parser = argparse.ArgumentParser(prog="python -m tests.validators", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many processes are killed")
    sys.exit(asyncio.run(main(parser.parse_args().kills)))
