"""`make clients`: the whole matrix, step by step, on either engine, into `build/clients.json`.

python -m tests.clients [NAME…]
"""

import asyncio
import json
import platform
import sys
import time
from typing import Any

from tests.clients.matrix import CLIENTS, ENGINES, drive, judge
from tests.installed import ROOT, CannotRun

REPORT = ROOT / "build" / "clients.json"


async def main(names: list[str]) -> int:
    clients = [client for client in CLIENTS if not names or client.name in names]
    if not clients:
        sys.stderr.write(
            f"there is no such client; there are {', '.join(c.name for c in CLIENTS)}\n"
        )
        return 2
    report: dict[str, Any] = {"machine": platform.platform(), "date": time.strftime("%Y-%m-%d")}
    found: list[dict[str, Any]] = []
    runs = [(client, engine) for engine in ENGINES for client in clients]
    for number, (client, engine) in enumerate(runs, 1):
        sys.stdout.write(f"[{number}/{len(runs)}] {engine}: {client.name} …")
        sys.stdout.flush()
        started = time.monotonic()
        try:
            seen, world = await drive(client, engine)
            steps = judge(client, seen, world)
            version = seen.get("connect", {}).get("version")
        except (AssertionError, CannotRun, TimeoutError, OSError) as error:
            steps, version = {"start": f"fail: {error!r}"[:1000]}, None
        failed = [step for step, verdict in steps.items() if verdict != "pass"]
        found.append({"client": client.name, "engine": engine, "version": version, "steps": steps})
        result = f"{len(steps) - len(failed)} of {len(steps)} steps"
        sys.stdout.write(f" {version}: {result} in {time.monotonic() - started:.0f} s\n")
        for step in failed:
            sys.stdout.write(f"    {step}: {steps[step]}\n")
    report["clients"] = found
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(f"written to {REPORT.relative_to(ROOT)}\n")
    return int(any(v != "pass" for one in found for v in one["steps"].values()))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
