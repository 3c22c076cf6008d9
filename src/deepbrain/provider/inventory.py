"""What a machine has, and where it can be dialled: what `dbc join` declares and checks.

GPUs that the driver names are found, and not yet offered: a machine lists none until its canary has seen
them inside the sandbox (`gpus.py`). Without any its units are its cores.
"""

import fcntl
import ipaddress
import os
import shutil
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.net.errors import Unreachable
from deepbrain.net.transport import TransportKey
from deepbrain.provider.gpus import Gpu, GpuDriver, GpuError, Nvml, SeenGpu
from deepbrain.provider.identity import Capacity

MIB: Final = 1 << 20
HOST_MEMORY: Final = 1 << 30
"""Bytes of memory kept back for the host, the node and the agent; at most a quarter."""
DISK_SHARE: Final = 80
"""Percent of the free disk that tenants get."""
MAX_ADDRESSES: Final = 4
_SIOCGIFADDR: Final = 0x8915
_IPV6_GLOBAL: Final = "00"
_IPV6_UNUSABLE: Final = 0x20 | 0x40 | 0x08  # deprecated, tentative, failed


@dataclass(frozen=True, slots=True)
class Inventory:
    cpu_model: str
    cpus: int
    memory_bytes: int
    """Of the whole machine."""
    disk_free_bytes: int
    """Free in the data directory's file system."""
    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    """Version of the GPUs' driver."""
    gpu_problem: str = ""
    """Why GPUs could not be looked for."""

    def capacity(self, seen: Sequence[SeenGpu] = ()) -> Capacity:
        """What tenants get of it: each GPU that a sandbox has seen is a unit, or each core."""
        kept = min(HOST_MEMORY, self.memory_bytes // 4)
        return Capacity(
            units=len(seen) or self.cpus,
            devices=tuple(gpu.device for gpu in seen),
            cpu_milli=self.cpus * 1000,
            memory_bytes=(self.memory_bytes - kept) // MIB * MIB,
            disk_bytes=self.disk_free_bytes * DISK_SHARE // 100 // MIB * MIB,
        )


def take_inventory(data: Path, driver: GpuDriver | None = None) -> Inventory:
    """Look at this machine. `data` is the agent's data directory, or where it will be."""
    gpus, version, problem = _gpus(driver)
    existing = next(path for path in (data, *data.absolute().parents) if path.exists())
    return Inventory(
        cpu_model=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk_free_bytes=shutil.disk_usage(existing).free,
        gpus=gpus,
        driver=version,
        gpu_problem=problem,
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()[:64]
    return os.uname().machine


def _gpus(driver: GpuDriver | None) -> tuple[tuple[Gpu, ...], str, str]:
    try:
        asked = driver or Nvml()
        return asked.gpus(), asked.version(), ""
    except GpuError as error:
        return (), "", str(error)


def local_ips() -> tuple[str, ...]:
    """Addresses of this machine that others may be able to dial: no loopback, nothing link-local.

    Public ones first.
    """
    found = [ipaddress.ip_address(text) for text in (*_ipv4(), *_ipv6())]
    usable = [ip for ip in found if not (ip.is_loopback or ip.is_link_local)]
    return tuple(str(ip) for ip in sorted(usable, key=lambda ip: (not ip.is_global, ip.version)))


def dial_addresses(port: int, given: Sequence[str] = ()) -> tuple[str, ...]:
    """`ip:port` of at most four addresses: those given (`--address`), else what this machine has,
    else the loopback, which serves a network on one machine.

    Raises: ValueError: one that is given is not `ip` or `ip:port`.
    """
    if given:
        return tuple(_with_port(text, port) for text in given)[:MAX_ADDRESSES]
    ips = local_ips() or ("127.0.0.1",)
    return tuple(_with_port(ip, port) for ip in ips)[:MAX_ADDRESSES]


@dataclass(frozen=True, slots=True)
class Reach:
    """Whether the machine answers at one of its addresses, and who can be expected to dial it."""

    address: str
    answers: bool
    is_public: bool

    @property
    def sentence(self) -> str:
        if not self.answers:
            return f"{self.address} does not answer: open this UDP port, or name another --address"
        if not self.is_public:
            return (
                f"{self.address} is a private address: only hosts of the same network can dial it; "
                "forward the UDP port at your router and name the public one with --address"
            )
        return f"{self.address} answers"


async def check_reach(
    key: TransportKey, addresses: Sequence[str], timeout: float = 3.0
) -> tuple[Reach, ...]:
    """Dial a machine that listens, by its key, at each of its addresses, from a second endpoint.

    From this host that shows what is bound, and what an address that is not this host's leads back
    to. Each address gets an endpoint of its own: one that reached the machine once would go on using
    the path that worked. Raises: NetError: no second endpoint could be bound.
    """
    return tuple([await _reach(key, address, timeout) for address in addresses])


async def _reach(key: TransportKey, address: str, timeout: float) -> Reach:
    is_public = ipaddress.ip_address(_ip_of(address)).is_global
    dialler = await IrohEndpoint.bind(os.urandom(32))
    try:
        connection = await dialler.dial(key, [address], timeout)
        connection.close()
    except Unreachable:
        return Reach(address, answers=False, is_public=is_public)
    finally:
        await dialler.close()
    return Reach(address, answers=True, is_public=is_public)


def _ipv4() -> Iterable[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, request)
            except OSError:
                continue  # it has no IPv4 address
            yield socket.inet_ntoa(answer[20:24])


def _ipv6() -> Iterable[str]:
    try:
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        packed, _, _, scope, flags, _ = line.split()
        if scope == _IPV6_GLOBAL and not int(flags, 16) & _IPV6_UNUSABLE:
            yield str(ipaddress.IPv6Address(bytes.fromhex(packed)))


def _with_port(text: str, port: int) -> str:
    try:
        ip = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        ip = ipaddress.ip_address(_ip_of(text))
        port = int(text.rpartition(":")[2])
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def _ip_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
