"""What `dbc provider` does on a host, and where the stash's key is, step after step."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from deepbrain import __version__
from deepbrain.cli import quantity
from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.output import say
from deepbrain.cli.provider.bonding import BondRequest, make_request, read_request
from deepbrain.cli.provider.host import UNIT_NAME, UNITS, Host, has_systemd
from deepbrain.cli.provider.install import (
    carry_out,
    prepare_steps,
    service_steps,
    settings_step,
    write_request,
)
from deepbrain.cli.provider.machine import (
    Listing,
    Place,
    address_record,
    disk_mib,
    hardware_of,
    make_ready,
    wait_served,
)
from deepbrain.pallets.machines import Hardware, Machines
from deepbrain.primitives import ss58
from deepbrain.primitives.ids import AccountId, MachineId
from deepbrain.primitives.keys import Keypair
from deepbrain.primitives.units import PLANCK, Balance, MicroUsd
from deepbrain.provider.gpus import SeenGpu
from deepbrain.provider.identity import (
    AgentConfig,
    AgentError,
    Capacity,
    controller_account,
    load_config,
    load_or_make_key,
)
from deepbrain.provider.inventory import take_inventory
from deepbrain.provider.record import Records

if TYPE_CHECKING:
    from deepbrain.client import Client

SERVED_SECONDS: Final = 60.0
ACCEPT_SECONDS: Final = 120.0
LEAST_BALANCE: Final = PLANCK
"""A controller with less is given some."""


def service_command() -> tuple[str, ...]:
    """What the service starts: a command of this installation, whatever a release makes of it."""
    return (sys.executable, "-m", "deepbrain.cli.main", "provider", "run")


# -- on the host


async def install(
    choices: Choices, host: Host, wanted: AgentConfig, image: Path | None, *, dry_run: bool
) -> None:
    """Raises: UserError; OSError."""
    carry_out(prepare_steps(host), dry_run=dry_run)
    if dry_run:
        say("would try which isolation works, and unpack the base image")
        carry_out(iter([settings_step(host, wanted)]), dry_run=True)
        carry_out(service_steps(host, command=service_command()), dry_run=True)
        return
    place = host.place()
    async with choices.client() as client, _service_stopped():
        say("trying which isolation works, and unpacking the base image")
        ready = await make_ready(place, host.mode, image)
        for sentence in ready.sentences():
            say(sentence)
        own = frozenset({_stash(wanted), controller_account(wanted)})
        capacity = with_gpus(wanted.capacity, ready.gpus)
        config = replace(wanted, genesis=client.genesis_hash, own=own, capacity=capacity)
        hardware = hardware_of(take_inventory(place.sandbox), capacity, ready.gpus)
        config, hardware = await _while_rented(client, place, config, hardware)
        listing = Listing(
            load_or_make_key(place.agent),
            hardware,
            ready.isolation,
            ready.network,
            MicroUsd(0),
            address_record(config.addresses),
        )
        carry_out(iter([settings_step(host, config)]), dry_run=False)
        await _write_request(client, host, listing, config)
        carry_out(service_steps(host, command=service_command()), dry_run=False)
        await _say_what_is_next(client, host, listing.id)


@dataclass(frozen=True, slots=True)
class Changes:
    """What `dbc provider set` is told; None and no addresses: as it is."""

    disk: int | None = None
    bandwidth_mbit: int | None = None
    addresses: tuple[str, ...] = ()
    metrics: str | None = None
    image_cache_bytes: int | None = None
    private_registries: bool | None = None

    def of(self, config: AgentConfig) -> AgentConfig:
        """Raises: UserError: too little disk."""
        capacity = with_disk(config.capacity, self.disk)
        if self.bandwidth_mbit is not None:
            capacity = replace(capacity, bandwidth_mbit=self.bandwidth_mbit)
        metrics = config.metrics if self.metrics is None else self.metrics
        addresses = self.addresses or config.addresses
        cache, private = self.image_cache_bytes, self.private_registries
        return replace(
            config, capacity=capacity, addresses=addresses, metrics=metrics,
            image_cache_bytes=config.image_cache_bytes if cache is None else cache,
            private_registries=config.private_registries if private is None else private,
        )  # fmt: skip


async def change(choices: Choices, host: Host, changes: Changes) -> None:
    """`dbc provider set`. Raises: UserError."""
    place = host.place()
    before = place.load()
    config = changes.of(before)
    async with Choices(choices.node or config.chain, choices.key).client() as client:
        request = read_request(host.bond)
        if config.capacity.disk_bytes != before.capacity.disk_bytes:
            await _ensure_idle(client, request.machine)
        hardware = request.hardware.but(disk_mib=disk_mib(config.capacity))
        listing = Listing(
            load_or_make_key(place.agent), hardware, request.isolation, request.network,
            MicroUsd(0), address_record(config.addresses),
        )  # fmt: skip
        carry_out(iter([settings_step(host, config)]), dry_run=False)
        await _write_request(client, host, listing, config)
        await _declare(client, host, listing)
    _restart_service()


async def upgrade(choices: Choices, host: Host) -> None:
    """Have this release serve in place of the one that runs. Raises: UserError."""
    place = host.place()
    config = place.load()
    Records(place.agent).ensure_known()
    jobs = running_jobs(place)
    async with Choices(choices.node or config.chain, choices.key).client() as client:
        machine = place.machine_id
        before = await served_version(place, config)
        if not has_systemd():
            raise UserError(
                f"release {__version__} is installed and {before or 'none'} serves: have your "
                "supervisor restart `dbc provider run`; jobs go on"
            )
        carry_out(service_steps(host, command=service_command()), dry_run=False)
        await wait_served(client, machine, SERVED_SECONDS)
    after = running_jobs(place)
    say(
        f"release {__version__} serves (before: {before or 'none'}); "
        f"{len(jobs & after)} of {len(jobs)} jobs went on"
    )


def running_jobs(place: Place) -> set[int]:
    """Orders whose keepers live."""
    from deepbrain.sandbox.directory import tenant_directories

    tenants = place.sandbox / "tenants"
    if not tenants.exists():
        return set()
    return {tenant.order for tenant in tenant_directories(tenants) if tenant.keeper() is not None}


async def served_version(place: Place, config: AgentConfig) -> str:
    """The release that answers at the machine's port; empty when none does."""
    from deepbrain.cli.renter.reach import fresh_endpoint
    from deepbrain.net.errors import NetError
    from deepbrain.net.session import greet

    machine = place.machine_id
    here = f"127.0.0.1:{config.port}"
    with contextlib.suppress(NetError):
        async with fresh_endpoint() as endpoint:
            return (await greet(endpoint, machine, [here, *config.addresses], timeout=3.0)).version
    return ""


async def ensure_left(choices: Choices, place: Place) -> None:
    """Raises: UserError: the machine is still bonded, or the chain cannot be asked."""
    try:
        chain = place.load().chain
    except AgentError:
        return  # it was never set up to the end
    if not place.has_key:
        return
    machine = place.machine_id
    async with Choices(choices.node or chain, choices.key).client() as client:
        if await client.at().get(Machines.machines, machine) is not None:
            raise UserError(
                "the machine is still bonded: `dbc drain`, then with the stash's key "
                f"`dbc leave --machine {machine.hex()[:12]}`"
            )


def with_gpus(capacity: Capacity, seen: Sequence[SeenGpu]) -> Capacity:
    """Each GPU that a sandbox has seen is a unit; without any it stays each core."""
    if not seen:
        return capacity
    return replace(capacity, units=len(seen), devices=tuple(gpu.device for gpu in seen))


def with_disk(capacity: Capacity, disk: int | None) -> Capacity:
    """Raises: UserError: a unit would have less than a gigabyte."""
    if disk is None:
        return capacity
    if disk < capacity.units << 30:
        raise UserError(f"{capacity.units} units need 1 GiB of disk each; write a larger --disk")
    return replace(capacity, disk_bytes=disk)


async def _while_rented(
    client: "Client", place: Place, config: AgentConfig, hardware: Hardware
) -> tuple[AgentConfig, Hardware]:
    """While units are rented, their shares stay what they were, and with them what was declared."""
    at, machine = client.at(), place.machine_id
    found = await at.get(Machines.machines, machine)
    if found is None or not await at.get(Machines.rented, machine):
        return config, hardware
    with contextlib.suppress(AgentError):
        before = load_config(place.settings or place.agent).capacity
        shares = replace(before, bandwidth_mbit=config.capacity.bandwidth_mbit)
        config = replace(config, capacity=shares)
    return config, found.hardware


async def _ensure_idle(client: "Client", machine: MachineId) -> None:
    if await client.at().get(Machines.rented, machine):
        raise UserError("units are rented, and their share of the disk is fixed: `dbc drain` first")


async def _write_request(
    client: "Client", host: Host, listing: Listing, config: AgentConfig
) -> None:
    account = controller_account(config)
    stash = _stash(config)
    request = await make_request(client, listing, stash, account, config.addresses)
    write_request(host, request.to_json())


async def _declare(client: "Client", host: Host, listing: Listing) -> None:
    """Have the controller tell the chain what it may; say what takes the stash's key."""
    from deepbrain.cli.provider.host import unlock_controller
    from deepbrain.cli.provider.machine import Owners, edits_by_controller

    found = await client.at().get(Machines.machines, listing.id)
    if found is None:
        return
    wanted = replace(listing, price=found.price)
    controller = unlock_controller(host)
    owners = Owners(controller, found.stash, None)
    for call in edits_by_controller(found.but(paused=False), wanted, owners):
        await client.submit(call, controller)
    if not wanted.hardware.is_within(found.hardware):
        say(f"to offer more, run `dbc provider bond` with the new {host.bond} and the stash's key")


async def _say_what_is_next(client: "Client", host: Host, machine: MachineId) -> None:
    say(f"machine {machine.hex()}")
    if await client.at().get(Machines.machines, machine) is None:
        say(
            f"now bond it where the stash's key is: copy {host.bond} there and run "
            "`dbc --wallet NAME provider bond bond.json --price 0.02`"
        )
    if not has_systemd():
        say(
            "this host has no systemd: have what supervises your services run, as root, "
            f"{' '.join(service_command())}"
        )


def _stash(config: AgentConfig) -> AccountId:
    if config.stash is None:
        raise UserError("no stash is named; run `dbc provider install --stash ADDRESS` again")
    return config.stash


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)


@contextlib.asynccontextmanager
async def _service_stopped() -> AsyncIterator[None]:
    """The canaries need the directory for themselves for a moment; jobs go on.

    Where something fails meanwhile, the service of before serves on.
    """
    runs = has_systemd() and (UNITS / UNIT_NAME).exists()
    if runs:
        _systemctl("stop", UNIT_NAME)
    try:
        yield
    except BaseException:
        if runs and (started := _systemctl("start", UNIT_NAME)).returncode:
            say(f"the service does not start again; see `dbc provider logs`: {started.stderr}")
        raise


def _restart_service() -> None:
    if has_systemd():
        done = _systemctl("restart", UNIT_NAME)
        if done.returncode:
            raise UserError(f"the service does not restart; see `dbc provider logs`: {done.stderr}")
        say("the service is restarted; jobs go on")
    else:
        say("have your supervisor restart `dbc provider run`; jobs go on")


# -- where the stash's key is


async def bond(
    choices: Choices,
    request: BondRequest,
    unlock: Callable[[], Keypair],
    price: MicroUsd,
    fund: Balance,
    *,
    replace_controller: bool,
    yes: bool,
) -> None:
    """Fund and name the controller, wait for its consent, bond the machine or change its offer.

    Every step may be repeated. Raises: UserError; CallFailed.
    """
    async with choices.client() as client:
        if request.genesis != client.genesis_hash:
            raise UserError("the host follows another chain than this node; name its with --node")
        found = await client.at().get(Machines.machines, request.machine)
        if found is not None and found.stash != request.stash:
            raise UserError("this machine is bonded by another stash")
        await _ensure_controller_free(client, request, anyway=replace_controller)
        await _tell(client, request, price, is_bonded=found is not None)
        if not yes:
            click.confirm("dbc: do this with the stash's key?", abort=True, err=True)
        pair = unlock()
        await _fund(client, request.controller, fund, pair)
        await _name_controller(client, request, pair)
        if found is None:
            await client.submit(request.bond_call(price), pair)
            say(f"machine {request.machine.hex()} is bonded")
            return
        edits = request.edits(found, price)
        for call in edits:
            await client.submit(call, pair)
        what = "its offer is up to date" if edits else "its offer was up to date already"
        say(f"machine {request.machine.hex()[:12]}: {what}")


async def _ensure_controller_free(client: "Client", request: BondRequest, *, anyway: bool) -> None:
    acting = await client.at().get(Machines.controller_of, request.stash)
    if acting is None or acting == request.controller or anyway:
        return
    raise UserError(
        f"{ss58.encode(acting)} acts for this stash already: use a stash of its own for this host, "
        "or let this host take its place with --replace-controller"
    )


async def _tell(
    client: "Client", request: BondRequest, price: MicroUsd, *, is_bonded: bool
) -> None:
    hardware = request.hardware
    units = int(hardware.units())
    say(
        f"{units} units at {quantity.usd(price)} per hour: {hardware.memory_mib >> 10} GiB of memory, "
        f"{hardware.disk_mib >> 10} GiB of disk, isolation "
        f"{request.isolation.name.lower().replace('_', '-')}, network {request.network.name.lower()}, "
        f"at {', '.join(request.addresses)}"
    )
    say(f"its controller is {ss58.encode(request.controller)}")
    if not is_bonded:
        each = await client.constant(Machines, "gpu_stake" if hardware.gpus else "core_stake")
        fee = await client.constant(Machines, "bond_fee")
        say(f"holds {quantity.dbc(each * units)} as bond, fee {quantity.dbc(fee)}")


async def _fund(client: "Client", controller: AccountId, amount: Balance, pair: Keypair) -> None:
    from deepbrain.pallets.balances import Balances
    from deepbrain.pallets.system import System

    account = await client.at().get(System.account, controller)
    if account is not None and account.data.free >= LEAST_BALANCE:
        return
    await client.submit(Balances.transfer_keep_alive.make(dest=controller, value=amount), pair)
    say(f"sent {quantity.dbc(amount)} to the controller for its fees")


async def _name_controller(client: "Client", request: BondRequest, pair: Keypair) -> None:
    """Ask, and wait until the agent on the host agrees. Raises: UserError: it does not."""
    at = client.at()
    if await at.get(Machines.controller_of, request.stash) == request.controller:
        return
    if await at.get(Machines.proposed, request.stash) != request.controller:
        call = Machines.propose_controller.make(controller=request.controller)
        await client.submit(call, pair)
    say("waiting for the host to agree")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ACCEPT_SECONDS):
            async for _ in client.heads():
                acting = await client.at().get(Machines.controller_of, request.stash)
                if acting == request.controller:
                    return
    raise UserError(
        "the host does not agree: see that its service runs (`dbc provider status` there), "
        "then run this again"
    )
