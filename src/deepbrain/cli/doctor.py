"""`dbc doctor`: what this machine can do, found by trying."""

import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices, block_on
from deepbrain.cli.output import emit, table
from deepbrain.primitives.errors import DeepBrainError

if TYPE_CHECKING:
    from deepbrain.sandbox.checks import Finding

_LEAST_MEMORY: Final = 2 << 30


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> int:
    """Check what this machine can do.

    Every isolation is tried by really running something in it; nothing is changed. Ends with 1 when
    something is missing that providing needs.
    """
    findings = [*_machine(), *_sandbox(), _node(Choices.current())]
    if as_json:
        emit([asdict(finding) for finding in findings])
    else:
        rows = [
            (
                "ok" if finding.ok else "--",
                finding.name,
                finding.detail,
                "" if finding.ok else finding.hint,
            )
            for finding in findings
        ]
        table("", ("", "what", "found", "what to do"), rows, "")
    return 0 if all(finding.ok for finding in findings) else 1


def _machine() -> "list[Finding]":
    from deepbrain.cli.home import home
    from deepbrain.provider.inventory import local_ips, take_inventory
    from deepbrain.sandbox.checks import Finding

    inventory = take_inventory(home())
    version = ".".join(map(str, sys.version_info[:3]))
    models = ", ".join(gpu.model for gpu in inventory.gpus) or "none; cores are offered"
    addresses = local_ips()
    return [
        Finding("Python", ok=True, detail=version),
        Finding("cores", ok=True, detail=f"{inventory.cpus} × {inventory.cpu_model}"),
        Finding(
            "memory",
            inventory.memory_bytes >= _LEAST_MEMORY,
            quantity.size(inventory.memory_bytes),
            "2 GiB are the least",
        ),
        Finding("GPUs", ok=True, detail=models),
        Finding(
            "addresses",
            bool(addresses),
            ", ".join(addresses) or "only the loopback",
            "connect this machine to a network",
        ),
    ]


def _sandbox() -> "list[Finding]":
    from deepbrain.cli.home import home
    from deepbrain.sandbox.checks import Finding, checks
    from deepbrain.sandbox.modes import choose_mode
    from deepbrain.sandbox.sandbox import SandboxError

    # Beside our own things: a /tmp may be mounted without what a sandbox needs.
    scratch = Path(tempfile.mkdtemp(prefix="doctor-", dir=home()))
    scratch.chmod(0o711)
    try:
        report, _ = choose_mode(scratch)
    except (SandboxError, OSError) as error:
        hint = "run `make sandbox` in a checkout"
        return [*checks(home()), Finding("isolation", ok=False, detail=str(error), hint=hint)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return checks(home(), report)


def _node(choices: Choices) -> "Finding":
    from deepbrain.sandbox.checks import Finding

    try:
        return Finding("node", ok=True, detail=block_on(_chain_of(choices)))
    except DeepBrainError as error:
        return Finding("node", ok=False, detail=f"{choices.url}: not reached", hint=str(error))


async def _chain_of(choices: Choices) -> str:
    async with choices.client() as client:
        head = await client.head()
    return f"{choices.url}: {client.chain_name} at block {head.number}"
