"""Tenants with networks, started and removed without end, until somebody kills it: `network_churn.py DIR IMAGE`."""

import sys
import time
from pathlib import Path

from deepbrain.sandbox.host import Host
from deepbrain.sandbox.modes import Programs, make_data_directory
from deepbrain.sandbox.runsc import RunscEngine
from deepbrain.sandbox.sandbox import Mode, ModeReport, Network, TenantSpec


def open_host(data: Path) -> Host:
    """As the helper opens it, without the canaries."""
    programs = Programs.find()
    assert programs.runsc is not None
    assert programs.tool is not None
    make_data_directory(data, (0, 0))
    engine = RunscEngine(
        programs.runsc, programs.tool, rootless=False, empty_rootfs=data / "empty", owner=(0, 0)
    )
    network, reason = engine.try_network()
    assert network is Network.INTERNET, reason
    host = Host(data, engine, ModeReport(Mode.GVISOR, network=network), (0, 0), programs.tool)
    host.sweep()
    return host


def spec(order: int, image: str) -> TenantSpec:
    return TenantSpec(
        order=order,
        image=image,
        argv=("sleep", "60"),
        workdir="/workspace",
        memory_bytes=64 << 20,
        disk_bytes=16 << 20,
        pids=16,
        network=Network.INTERNET,
        mode=Mode.GVISOR,
    )


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def main() -> None:
    data, image = Path(sys.argv[1]), sys.argv[2]
    say("opening")
    host = open_host(data)
    order = time.time_ns() // 1000
    while True:
        order += 1
        host.prepare(spec(order, image))
        say("starting")
        host.start(order)
        say("running")
        time.sleep(0.2)
        say("stopping")
        host.destroy(order)


if __name__ == "__main__":
    main()
