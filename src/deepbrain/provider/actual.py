"""What is on the machine: records of orders, and the sandbox's tenants."""

import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from deepbrain.net.messages import Manifest
from deepbrain.provider.record import OrderFiles, OrderRecord, RecordDamaged, Records
from deepbrain.sandbox.sandbox import ImageInfo, Phase, Sandbox, TenantState

log = logging.getLogger(__name__)

Images = Mapping[str, ImageInfo]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One order's traces on this machine."""

    record: OrderRecord
    has_manifest: bool = False
    has_image: bool = False
    """The image is unpacked here, or its whole tar is."""
    wants_pull: bool = False
    """The image is to be fetched from its registry, and can be."""
    awaits_credentials: bool = False
    """It can be once the renter says again who pulls it: we were started anew."""
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


async def read_actual(
    records: Records, sandbox: Sandbox, pullers: Container[int] = frozenset()
) -> Actual:
    """Look at the disk and ask the sandbox. An order whose files are damaged is left out, and alone.
    `pullers` are the orders whose credentials are known.

    Raises: SandboxError.
    """
    states = {state.order: state for state in await sandbox.list()}
    images = await images_of(sandbox)
    tenants, seen = {}, set()
    for files in records.all():
        seen.add(files.order)
        try:
            record = files.record()
            tenant = _tenant(files, record, images, states.get(files.order))
            tenants[files.order] = _with_pull(tenant, files.order in pullers)
        except RecordDamaged as error:
            log.error("order %s: %s", files.order, error)
    return Actual(tenants, tuple(sorted(states.keys() - seen)))


def _tenant(
    files: OrderFiles, record: OrderRecord, images: Images, state: TenantState | None
) -> Tenant:
    manifest = files.manifest()
    if manifest is None:
        return Tenant(record=record, state=state)
    here = has_image(files, manifest, record, images)
    return Tenant(
        record=record,
        has_manifest=True,
        has_image=here,
        wants_pull=bool(manifest.pull) and not here,
        has_workspace=has_workspace(files, manifest, record),
        state=state,
    )


def _with_pull(tenant: Tenant, has_credentials: bool) -> Tenant:
    if tenant.wants_pull and tenant.record.needs_credentials and not has_credentials:
        return replace(tenant, wants_pull=False, awaits_credentials=True)
    return tenant


async def images_of(sandbox: Sandbox) -> Images:
    """What is unpacked here, by digest."""
    return {image.digest: image for image in await sandbox.images()}


def has_image(files: OrderFiles, manifest: Manifest, record: OrderRecord, images: Images) -> bool:
    image = images.get(manifest.image.hex())
    if manifest.pull:
        return record.pulled and image is not None
    return (image is not None and not image.private) or files.blob(manifest.image).exists()


def has_workspace(files: OrderFiles, manifest: Manifest, record: OrderRecord) -> bool:
    workspace = manifest.workspace
    return record.unpacked or workspace is None or files.blob(workspace.sha256).exists()
