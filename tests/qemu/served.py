"""A provider's root side as a service: `python -m tests.qemu.served DATA ORDER`.

Opens the host as the helper does, starts one tenant, says so, and waits to be stopped.
"""

import os
import sys
import time
from pathlib import Path

from deepbrain.sandbox.canary import IMAGE
from deepbrain.sandbox.host import make_empty_rootfs
from deepbrain.sandbox.open import open_host
from deepbrain.sandbox.sandbox import TOOL, TenantSpec


def main() -> None:
    data, order = Path(sys.argv[1]), int(sys.argv[2])
    while (data / "tenants" / str(order)).exists():
        order += 1
    host = open_host(data, None)
    make_empty_rootfs(data / "images" / IMAGE / "rootfs")
    host.prepare(
        TenantSpec(order=order, image=IMAGE, argv=(TOOL, "canary", "spin", "600000"),
                   cpu_milli=100, disk_bytes=16 << 20, log_bytes=1 << 20)
    )  # fmt: skip
    host.start(order)
    (data / f"serving-{order}").write_text(f"{host.report.mode.value} {os.getpid()}")
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
