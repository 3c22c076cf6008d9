"""Make a provider's directory ready: `python -m deepbrain.cli.prepare DIR IMAGE`.

Runs the canaries and unpacks the base image; prints `{"mode", "refused", "image"}` as JSON, or one
sentence on standard error with exit code 1. A process of its own, because whoever opens a sandbox holds
its directory for as long as it lives.
"""

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from deepbrain.primitives.errors import DeepBrainError
from deepbrain.sandbox import baseimage
from deepbrain.sandbox.open import open_sandbox

BASE_IMAGE: Final = baseimage.NAME


async def prepare(directory: Path, archive: Path) -> dict[str, Any]:
    """Raises: SandboxError: nothing can run here; ImageError; OSError."""
    sandbox = await open_sandbox(directory)
    try:
        digest = await asyncio.to_thread(_digest_of, archive)
        image = await sandbox.import_image(archive, digest, BASE_IMAGE)
    finally:
        await sandbox.close()
    return {
        "mode": sandbox.report.mode.value,
        "refused": [[refusal.mode.value, refusal.reason] for refusal in sandbox.report.refused],
        "image": image.digest,
    }


def base_image() -> Path:
    """The base image's archive: one that a checkout has built, or one built here and kept."""
    name = f"{BASE_IMAGE}.tar"
    kept = Path.home() / ".cache" / "deepbrain" / "images" / name
    here = Path(__file__).resolve()
    known = [parent / ".cache" / "images" / name for parent in here.parents]
    for path in (*known, kept):
        if path.is_file():
            return path
    kept.parent.mkdir(parents=True, exist_ok=True)
    baseimage.build(kept)
    return kept


def _digest_of(archive: Path) -> str:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    directory = Path(sys.argv[1]).absolute()
    try:
        archive = Path(sys.argv[2]) if len(sys.argv) > 2 else base_image()
        sys.stdout.write(json.dumps(asyncio.run(prepare(directory, archive))))
    except (DeepBrainError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
