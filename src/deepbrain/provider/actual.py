"""What is on the machine: records of orders, and the sandbox's tenants."""

from collections.abc import Mapping
from dataclasses import dataclass

from deepbrain.net.messages import Manifest
from deepbrain.provider.record import OrderFiles, OrderRecord, Records
from deepbrain.sandbox.sandbox import Phase, Sandbox, TenantState


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
    """Tenants in the sandbox without any record: what an interrupted removal leaves."""


async def read_actual(records: Records, sandbox: Sandbox) -> Actual:
    """Look at the disk and ask the sandbox. Raises: RecordDamaged; SandboxError."""
    states = {state.order: state for state in await sandbox.list()}
    images = frozenset(image.digest for image in await sandbox.images())
    tenants = {}
    for files in records.all():
        record = files.record()
        tenants[record.order] = _tenant(files, record, images, states.get(record.order))
    strays = tuple(sorted(states.keys() - tenants.keys()))
    return Actual(tenants, strays)


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
