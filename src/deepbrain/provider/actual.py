"""What is on the machine: records of orders, and the sandbox's tenants."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from deepbrain.net.messages import Manifest
from deepbrain.provider.record import OrderFiles, OrderRecord, RecordDamaged, Records
from deepbrain.sandbox.sandbox import Phase, Sandbox, TenantState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One order's traces on this machine."""

    record: OrderRecord
    has_manifest: bool = False
    has_image: bool = False
    """The image is unpacked here, or its whole tar is."""
    has_workspace: bool = False
    """The workspace's whole tar is here, or it is unpacked, or none is wanted."""
    state: TenantState | None = None
    """What the sandbox has; None before it was prepared and after it was destroyed."""

    @property
    def phase(self) -> Phase | None:
        return None if self.state is None else self.state.phase


@dataclass(frozen=True, slots=True)
class Actual:
    tenants: Mapping[int, Tenant]
    strays: tuple[int, ...] = ()
    """Tenants in the sandbox without any record."""


async def read_actual(records: Records, sandbox: Sandbox) -> Actual:
    """Look at the disk and ask the sandbox. An order whose files are damaged is left out, and alone.

    Raises: SandboxError.
    """
    states = {state.order: state for state in await sandbox.list()}
    images = frozenset(image.digest for image in await sandbox.images())
    tenants, seen = {}, set()
    for files in records.all():
        seen.add(files.order)
        try:
            record = files.record()
            tenants[files.order] = _tenant(files, record, images, states.get(files.order))
        except RecordDamaged as error:
            log.error("order %s: %s", files.order, error)
    return Actual(tenants, tuple(sorted(states.keys() - seen)))


def _tenant(
    files: OrderFiles, record: OrderRecord, images: frozenset[str], state: TenantState | None
) -> Tenant:
    manifest = files.manifest()
    if manifest is None:
        return Tenant(record=record, state=state)
    return Tenant(
        record=record,
        has_manifest=True,
        has_image=has_image(files, manifest, images),
        has_workspace=has_workspace(files, manifest, record),
        state=state,
    )


def has_image(files: OrderFiles, manifest: Manifest, images: frozenset[str]) -> bool:
    return manifest.image.hex() in images or files.blob(manifest.image).exists()


def has_workspace(files: OrderFiles, manifest: Manifest, record: OrderRecord) -> bool:
    workspace = manifest.workspace
    return record.unpacked or workspace is None or files.blob(workspace.sha256).exists()
