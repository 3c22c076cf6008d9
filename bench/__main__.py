"""Measure everything in one run; write `build/bench.json` and the table of `docs/benchmarks.md`.

    python -m bench [PART ...]      parts: chain, renting, far, relay, tools, validators, command

A part that is not named keeps its last figures, and the page says when each was measured.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from deepbrain.node.comet.program import VERSION

ROOT: Final = Path(__file__).resolve().parents[1]
RESULT: Final = ROOT / "build" / "bench.json"
PAGE: Final = ROOT / "docs" / "benchmarks.md"


class Figure(NamedTuple):
    """A figure of the page: where it is measured, what it says, and the goal it is held against."""

    part: str
    meaning: str
    goal: float | None = None
    at_most: bool = True

    def met(self, value: float) -> str:
        if self.goal is None:
            return ""
        met = value <= self.goal if self.at_most else value >= self.goal
        return "yes" if met else "**no**"


FIGURES: Final = {
    "transfers_per_s": Figure("chain", "signed transfers by RPC in batches of 100, durable"),
    "rent_orders_per_s": Figure("chain", "signed `rent.place` by RPC in batches of 100, durable"),
    "all_but_signature_ratio_200": Figure(
        "chain", "all but the signature / one sr25519 check, 200 transfers a block", 3.5
    ),
    "all_but_signature_ratio_2000": Figure("chain", "the same, 2,000 transfers a block", 2.0),
    "rent_vs_transfer_ratio": Figure("chain", "CPU of a rent order / of a transfer", 1.5),
    "first_output_ratio": Figure(
        "renting", "order → first output / (bare `runsc run` of the same image + one block)", 1.5
    ),
    "stream_mb_per_s": Figure("renting", "one stream over loopback, MB/s", 100, at_most=False),
    "keystroke_echo_ms": Figure("renting", "keystroke → echo in a shell, median, ms", 5),
    "ssh_first_s": Figure("tools", "the first `ssh dbc-N true`, which starts the gateway, seconds"),
    "ssh_true_s": Figure("tools", "`ssh dbc-N true` after that, median, seconds"),
    "ssh_echo_ms": Figure("tools", "keystroke → echo through `ssh`, median, ms"),
    "scp_up_mb_per_s": Figure("tools", "`scp` to an order, MB/s"),
    "scp_down_mb_per_s": Figure("tools", "`scp` from an order, MB/s"),
    "long_up_mb_per_s": Figure("far", "upload at 80 ms and 25 MB/s, several connections, MB/s"),
    "long_up_ratio": Figure("far", "the same / over one connection"),
    "long_down_mb_per_s": Figure("far", "results at 80 ms and 25 MB/s, several connections, MB/s"),
    "long_down_ratio": Figure("far", "the same / over one connection"),
    "lossy_up_mb_per_s": Figure("far", "upload there with 0.5 % of packets lost, MB/s"),
    "lossy_up_ratio": Figure("far", "the same / over one connection", 1.5, at_most=False),
    "lossy_down_mb_per_s": Figure("far", "results there with 0.5 % of packets lost, MB/s"),
    "lossy_down_ratio": Figure("far", "the same / over one connection", 1.5, at_most=False),
    "relay_idle_kb": Figure("relay", "a relay's memory for an idle client of 1,000, kB", 32),
    "relay_idle_cpu_percent": Figure(
        "relay", "a relay with 1,000 idle clients, per cent of a core", 2
    ),
    "relay_mb_per_s": Figure("relay", "frames of 48 KiB through a relay, clients in Python, MB/s"),
    "node_rss_mb_100k_accounts": Figure("chain", "resident memory at 100,000 accounts, MB", 150),
    "idle_cpu_percent": Figure("chain", "idle node, blocks of 1 s, per cent of a core", 2),
    "validators_1_tx_per_s": Figure(
        "validators", "transfers a second, one validator, blocks of 1 s"
    ),
    "validators_1_final_p50_s": Figure(
        "validators", "handed in → final at 300 a second, median, s"
    ),
    "validators_1_final_p95_s": Figure("validators", "the same, 95 of 100"),
    "validators_4_tx_per_s": Figure(
        "validators", "transfers a second, four validators on these cores", 1000, at_most=False
    ),
    "validators_4_final_p50_s": Figure(
        "validators", "handed in → final at 300 a second, median, s"
    ),
    "validators_4_final_p95_s": Figure("validators", "the same, 95 of 100", 1.5),
    "validators_4_node_us": Figure("validators", "CPU a transfer of four nodes together, µs"),
    "validators_4_cometbft_us": Figure(
        "validators", "CPU a transfer of four CometBFTs together, µs"
    ),
    "validators_7_tx_per_s": Figure("validators", "transfers a second, seven validators"),
    "validators_7_final_p50_s": Figure(
        "validators", "handed in → final at 300 a second, median, s"
    ),
    "validators_7_final_p95_s": Figure("validators", "the same, 95 of 100"),
    "help_s": Figure("command", "`dbc --help`, median, seconds", 0.3),
}


def parts() -> dict[str, Callable[[], dict[str, float]]]:
    """Each part imports what it needs only when it runs."""

    def chain() -> dict[str, float]:
        from bench.chain import measure

        return measure()

    def renting() -> dict[str, float]:
        from bench.renting import measure

        return measure()

    def far() -> dict[str, float]:
        from bench.far import measure

        return measure()

    def relay() -> dict[str, float]:
        from bench.relay import measure

        return measure()

    def tools() -> dict[str, float]:
        from bench.tools import measure

        return measure()

    def validators() -> dict[str, float]:
        from bench.validators import measure

        return measure()

    def command() -> dict[str, float]:
        from bench.command import measure

        return measure()

    return {
        "chain": chain,
        "renting": renting,
        "far": far,
        "relay": relay,
        "tools": tools,
        "validators": validators,
        "command": command,
    }


def machine() -> str:
    """One line: processor, cores, memory, kernel, Python."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{model or platform.machine()}, {os.cpu_count()} cores, {memory} GiB, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def machines_of(result: dict[str, object]) -> list[str]:
    """Which parts were measured where: parts keep their figures when others are measured again."""
    machines = result["machines"]
    if not isinstance(machines, dict):
        raise TypeError("the result names no machines")
    return [
        f"Machine of {', '.join(sorted(part for part in machines if machines[part] == name))}: {name}.  "
        for name in sorted(set(machines.values()))
    ]


def page(result: dict[str, object]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Made by `make bench`; compare ratios, not machines. Each ratio is taken within one run.",
        "",
        "| figure | value | goal | met | measured | what |",
        "| --- | ---: | ---: | --- | --- | --- |",
    ]
    measured = result["measured"]
    for name, figure in FIGURES.items():
        value = result.get(name)
        if not isinstance(value, int | float) or not isinstance(measured, dict):
            continue
        sign = "≤" if figure.at_most else "≥"
        goal = f"{sign} {figure.goal:g}" if figure.goal is not None else ""
        lines.append(
            f"| `{name}` | {value:,g} | {goal} | {figure.met(value)} "
            f"| {measured[figure.part]} | {figure.meaning} |"
        )
    lines += ["", *machines_of(result), ""]
    notes = ROOT / "docs" / "benchmarks-notes.md"
    if notes.exists():
        lines += [notes.read_text().strip(), ""]
    return "\n".join(lines)


def main() -> int:
    available = parts()
    wanted = sys.argv[1:] or list(available)
    unknown = [name for name in wanted if name not in available]
    if unknown:
        print(f"bench: there is no part {unknown[0]}; parts are {', '.join(available)}")
        return 2
    figures = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    measured = figures.pop("measured", {})
    machines = figures.pop("machines", {})
    for name in wanted:
        print(f"bench: {name} …", flush=True)
        figures.update(available[name]())
        machines[name] = machine() + (f", CometBFT {VERSION}" if name == "validators" else "")
        measured[name] = time.strftime("%Y-%m-%d")
    result = {name: figures[name] for name in FIGURES if name in figures}
    result |= {name: value for name, value in figures.items() if name not in FIGURES}
    result |= {"measured": measured, "machines": machines}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))
    for name in FIGURES:
        if name in result:
            print(f"{name:32} {result[name]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
