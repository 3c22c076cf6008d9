"""`make demo`: a whole network on this machine does its main job once, and tells the story.

With ENGINE=cometbft four validators agree on its blocks.

A chain and a provider are started, a renter rents the machine and trains a model on it, the model comes
back and the bill is settled. Everything goes through the same commands a person would type. The facts
are written to `build/demo.json`.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from deepbrain.client import Client
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.system import System
from deepbrain.primitives.units import PLANCK

ROOT: Final = Path(__file__).resolve().parents[1]
BUILD: Final = ROOT / "build"
PLACE: Final = BUILD / "demo"
DBC: Final = Path(sys.executable).with_name("dbc")
TERM: Final = "3m"
TRAINING_SECONDS: Final = 10
ENGINES: Final = {"solo": (), "cometbft": ("--validators", "4")}


class DemoError(Exception):
    """Something that should have held did not; one sentence."""


def say(text: str) -> None:
    print(f"\n── {text}", flush=True)


def dbc(*arguments: str) -> str:
    """Run a command to its end and return what it printed. Raises: DemoError."""
    print(f"$ dbc {' '.join(arguments)}", flush=True)
    done = subprocess.run([DBC, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise DemoError(f"dbc {arguments[0]} ended with {done.returncode}")
    return done.stdout


def rent(workspace: Path) -> tuple[int, float, str]:
    """Run the job: its exit code, seconds to its first output, and that output."""
    command = ["python3", "train.py", "--seconds", str(TRAINING_SECONDS)]
    arguments = ["run", "-y", "--for", TERM, "--workspace", str(workspace)]
    arguments += ["--into", str(PLACE / "out"), "--", *command]
    print(f"$ dbc {' '.join(arguments)}", flush=True)
    with (PLACE / "run.err").open("w+") as notes:
        began = time.monotonic()
        job = subprocess.Popen([DBC, *arguments], stdout=subprocess.PIPE, stderr=notes, text=True)
        if job.stdout is None:
            raise DemoError("the job's output is not connected")
        first, lines = None, []
        for line in job.stdout:
            first = first or time.monotonic() - began
            lines.append(line)
            print(f"   │ {line}", end="", flush=True)
        code = job.wait()
        notes.seek(0)
        said = notes.read().splitlines()
    print("\n".join(f"   {line}" for line in said), flush=True)
    if first is None:
        raise DemoError("the job printed nothing")
    return code, first, "".join(lines)


async def issuance(url: str) -> dict[str, int]:
    """What was issued, what was burned, and what all accounts hold, in planck."""
    async with await Client.connect(url) as client:
        at = client.at((await client.finalized()).hash)
        total = 0
        async for _, account in at.entries(System.account):
            total += int(account.data.free) + int(account.data.reserved)
        issued, burned = await at.get(Balances.issued), await at.get(Balances.burned)
        return {"issued": int(issued), "burned": int(burned), "accounts": total}


def final_loss(output: str) -> float:
    last = next(line for line in reversed(output.splitlines()) if line.startswith("final loss"))
    return float(last.split()[2].rstrip(";"))


def story(facts: dict[str, Any]) -> str:
    def amount(name: str) -> str:
        return f"{int(facts[name]) / PLANCK:.6f} DBC"

    return f"""
A renter placed order {facts["order"]} on a machine she had never met. {amount("held")} were held.
Its job ran isolated by: {facts["isolation"]}. The first output came {facts["seconds_to_first_output"]:.2f} s
after she pressed Enter; the training ended with {facts["job_exit_code"]} and a loss of {facts["final_loss"]:.6f}.
The model came back: {facts["artifact"]}
The order settled by itself: {amount("paid")} to the provider, {amount("burned")} destroyed,
{amount("refunded")} back to her. Together that is {"exactly" if facts["settled_ok"] else "NOT"} what was held.
All accounts together hold {"exactly" if facts["issued_minus_burned_ok"] else "NOT"} what was ever issued, less what was burned."""


def main() -> int:
    engine = os.environ.get("ENGINE") or "solo"
    if engine not in ENGINES:
        print(f"demo: ENGINE is one of {', '.join(ENGINES)}, not {engine}", file=sys.stderr)
        return 2
    os.environ["DBC_HOME"] = str(PLACE / "home")
    if PLACE.exists():
        subprocess.run([DBC, "network", "down", "--dir", PLACE / "network"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        shutil.rmtree(PLACE)
    PLACE.mkdir(parents=True)
    try:
        say(f"A network: one chain (engine: {engine}), one provider, all on this machine")
        up = ("network", "up", "--detach", *ENGINES[engine], "--dir", str(PLACE / "network"))
        print(dbc(*up), end="")
        print(dbc("gpus"), end="")
        say("A renter trains a model on it")
        code, first, output = rent(ROOT / "examples" / "digits")
        orders = json.loads(dbc("ps", "--all", "--json"))
        bill = json.loads(dbc("bill", str(orders[-1]["order"]), "--json"))
        place = json.loads(dbc("network", "status", "--dir", str(PLACE / "network"), "--json"))
        money = asyncio.run(issuance(place["node"]))
    finally:
        say("The network goes down")
        dbc("network", "down", "--dir", str(PLACE / "network"))
    artifact = PLACE / "out" / str(bill["order"]) / "model.npz"
    if not artifact.is_file():
        raise DemoError("the model did not come back")
    held, paid = int(bill["held"]), int(bill["paid"])
    burned, refunded = int(bill["burned"]), int(bill["refunded"])
    facts = {
        "order": bill["order"],
        "isolation": bill["isolation"],
        "seconds_to_first_output": round(first, 3),
        "job_exit_code": code,
        "final_loss": final_loss(output),
        "held": held,
        "paid": paid,
        "burned": burned,
        "refunded": refunded,
        "issued_minus_burned_ok": money["issued"] - money["burned"] == money["accounts"],
        "settled_ok": held == paid + burned + refunded,
        "artifact": str(artifact.relative_to(ROOT)),
        "artifact_sha256": hashlib.sha256(artifact.read_bytes()).hexdigest(),
        "issuance": money,
    }
    (BUILD / "demo.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(story(facts))
    print("The facts are in build/demo.json.")
    sound = code == 0 and facts["settled_ok"] and facts["issued_minus_burned_ok"] and paid > 0
    return 0 if sound else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        raise SystemExit(1) from None
