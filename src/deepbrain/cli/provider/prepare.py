"""A provider's directory, while no agent works in it: `python -m deepbrain.cli.provider.prepare ACTION DIR [IMAGE]`.

    ready   run the canaries, unpack the base image; print as JSON `{"mode", "refused", "image",
            "network", "no_network", "gpus", "no_gpus"}`
    clear   end every tenant and remove what is kept of it

One sentence on standard error and exit code 1 where that fails. A process of its own, because whoever
opens a sandbox holds its directory for as long as it lives.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.provider.gpus import SeenGpu, see_gpus
from deepbrain.sandbox import baseimage
from deepbrain.sandbox.cdi import CdiError, read_registry
from deepbrain.sandbox.devices import GPU
from deepbrain.sandbox.network import offered
from deepbrain.sandbox.open import open_sandbox
from deepbrain.sandbox.sandbox import Sandbox

BASE_IMAGE: Final = baseimage.NAME


async def prepare(directory: Path, archive: Path) -> dict[str, Any]:
    """Raises: SandboxError: nothing can run here; ImageError; OSError."""
    sandbox = await open_sandbox(directory)
    try:
        digest = await asyncio.to_thread(_digest_of, archive)
        image = await sandbox.import_image(archive, digest, BASE_IMAGE)
        network, no_network = await asyncio.to_thread(offered, sandbox.report)
        gpus, no_gpus = await look_for_gpus(sandbox, image.digest)
    finally:
        await sandbox.close()
    return {
        "mode": sandbox.report.mode.value,
        "refused": [[refusal.mode.value, refusal.reason] for refusal in sandbox.report.refused],
        "image": image.digest,
        "network": network.value,
        "no_network": no_network,
        "gpus": [asdict(gpu) for gpu in gpus],
        "no_gpus": no_gpus,
    }


async def look_for_gpus(
    sandbox: Sandbox, image: str
) -> tuple[tuple[SeenGpu, ...], tuple[str, ...]]:
    """The GPUs that a sandbox sees, and why others are not offered. Raises: SandboxError."""
    try:
        registry = await asyncio.to_thread(read_registry)
    except CdiError as error:
        return (), (str(error),)
    devices = registry.names(GPU)
    if devices and not sandbox.report.mode.serves_strangers:
        return (), ("GPUs are offered only where gVisor runs as root",)
    return await see_gpus(sandbox, image, devices)


async def clear(directory: Path) -> None:
    """Raises: SandboxError: an agent works there, or a tenant cannot be removed."""
    sandbox = await open_sandbox(directory)
    try:
        for tenant in await sandbox.list():
            await sandbox.destroy(tenant.order)
    finally:
        await sandbox.close()
    if os.geteuid() == 0:
        await asyncio.to_thread(_unshare, directory / "tenants")


def _unshare(directory: Path) -> None:
    """Undo the root helper's mount for its agents: a directory that is mounted cannot be removed.

    It is a bind mount on the same file system, which nothing but trying tells apart.
    """
    subprocess.run(["umount", str(directory)], check=False, stderr=subprocess.DEVNULL)


def base_image() -> Path:
    """The base image's archive: one that a checkout has built, or one built here and kept."""
    for parent in Path(__file__).resolve().parents:
        path = parent / ".cache" / "images" / f"{BASE_IMAGE}.tar"
        if path.is_file():
            return path
    return kept_image(Path.home() / ".cache" / "deepbrain" / "images")


def kept_image(place: Path) -> Path:
    """The base image as this release makes it, in `place`; what others made there goes."""
    builder = hashlib.sha256(Path(baseimage.__file__).read_bytes()).hexdigest()
    kept = place / f"{BASE_IMAGE}-{builder[:16]}.tar"
    if not kept.is_file():
        place.mkdir(parents=True, exist_ok=True)
        baseimage.build(kept)
        for path in place.glob(f"{BASE_IMAGE}*.tar"):
            if path != kept:
                path.unlink(missing_ok=True)
    return kept


def _digest_of(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    action, directory = sys.argv[1], Path(sys.argv[2]).absolute()
    try:
        if action == "clear":
            asyncio.run(clear(directory))
            return 0
        archive = Path(sys.argv[3]) if len(sys.argv) > 3 else base_image()
        sys.stdout.write(json.dumps(asyncio.run(prepare(directory, archive))))
    except (DeepBrainError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
