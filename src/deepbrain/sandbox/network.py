"""Tenants' networks: a namespace and a link each, one table of rules for all, nothing while there is none.

Nothing here holds truth in memory: the table is made of what `ip` shows, again and again (`settle`), by
whoever has a reason to, so that a restarted helper, a second one on the host, and one that was killed
half-way end at the same. A link is up only while the table that names it is loaded.
"""

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, TypeVar

from deepbrain.sandbox import egress, firewalls, links
from deepbrain.sandbox.egress import Loaded, Wishes
from deepbrain.sandbox.links import Facts
from deepbrain.sandbox.netns import NetworkNamespace
from deepbrain.sandbox.probe import Reached, ask_resolvers
from deepbrain.sandbox.sandbox import ModeReport, Network, SandboxError

RESOLVERS: Final = tuple(IPv4Address(text) for text in ("1.1.1.1", "8.8.8.8", "9.9.9.9"))
"""Where tenants' names are looked up, unless the provider names others."""

RESOLVERS_VARIABLE: Final = "DBC_RESOLVERS"
"""Environment: addresses by comma, in place of those."""

CLOSED_VARIABLE: Final = "DBC_CLOSED"
"""Environment: networks by comma that tenants must not reach either. The address by which the machine is
found belongs here: where it is its router's, the router may show its own pages to whoever comes from inside.
"""

LOCK: Final = Path("/run/deepbrain-network.lock")
TRIAL_LOCK: Final = Path("/run/deepbrain-trial.lock")

TRIAL_SECONDS: Final = 2.5
TRIES: Final = 5
BEYOND: Final = (str(links.PROBE_BEYOND), 53)

T = TypeVar("T")


class TenantNetwork:
    """Everything about it on this host; any number of these objects, in any process, may be used."""

    def __init__(self, resolvers: Sequence[IPv4Address] = ()) -> None:
        self.resolvers = tuple(resolvers) or named_resolvers()
        self._closed = named_networks()
        self._admits = False
        self._opened: set[str] = set()
        """Interfaces that forward because of us: who flushes the rules flushes the note in them."""

    def try_out(self) -> None:
        """Send something from a tenant's place to a listener beyond, through the real rules.

        Where another firewall drops it, ask that one to admit tenants, and try again. About 100 ms;
        more where something drops. Raises: SandboxError: it does not arrive, and why, in one line.
        """
        egress.find_nft()
        with self.listening():
            self._admits = firewalls.admits()
            if self._arrives():
                return
            self._admits = True
            if not self._arrives():
                raise SandboxError(
                    f"a firewall of this machine ({firewalls.who_drops()}) drops what tenants "
                    f"send; let it forward from and to the interfaces {links.PREFIX}*"
                )

    @contextmanager
    def listening(self) -> Iterator[str]:
        """A listener of ours beyond the host's rules, which answers by TCP and UDP at what is yielded.

        One trial at a time on a host. Raises: SandboxError: it cannot be made.
        """
        with _locked(TRIAL_LOCK), NetworkNamespace() as beyond:
            try:
                with _locked():
                    links.remove_link(links.PROBE)
                    network = IPv4Network((int(links.PROBE_HOST) & ~3, 30))
                    links.make_pair(beyond, links.PROBE, network, links.LEAST_MTU)
                    links.set_link(links.PROBE, up=True)
                with _answering(beyond):
                    yield f"{BEYOND[0]}:{BEYOND[1]}"
            finally:
                with _locked():
                    links.remove_link(links.PROBE)
                    self._settle()

    def _arrives(self) -> bool:
        """Whether TCP and UDP reach the listener, and its answers come back."""
        alias = f"deepbrain-trial-{os.getpid()}"
        try:
            with self.attach(alias, NetworkNamespace.current) as tenant:
                return tenant.run(_call)
        finally:
            self.detach(alias)

    def attach(self, alias: str, start: Callable[[], T], mbit: int = 0) -> T:
        """Call `start` in a new network of a tenant; what it starts keeps it alive. `mbit`: see `Link`.

        Raises: SandboxError: it cannot be made; and whatever `start` raises.
        """
        with NetworkNamespace() as namespace:
            with _locked():
                name = links.join_tenant(namespace, alias, links.read_facts(), mbit)
                try:
                    self._settle()
                except SandboxError:
                    links.remove_link(name)
                    raise
            try:
                return namespace.run(start)
            except BaseException:
                self.detach(alias)
                raise

    def detach(self, alias: str) -> None:
        """Remove a tenant's link, if it is still there; the kernel removes it with its last process."""
        with _locked():
            for name in links.links_called(alias):
                links.remove_link(name)
            self._settle()

    def settle(self) -> None:
        """Bring the rules in line with the host as it is now. Idempotent.

        Raises: SandboxError: they cannot be; then no tenant's link is up.
        """
        with _locked():
            self._settle()

    def _settle(self) -> None:
        facts = links.read_facts()
        try:
            if facts.links:
                self._put_in_force(facts)
            else:
                self._opened.clear()
                _clear()
        except SandboxError:
            for link in facts.links:
                links.set_link(link.name, up=False)
            raise
        for link in facts.links:
            if not link.up:
                links.set_link(link.name, up=True)

    def _put_in_force(self, facts: Facts) -> None:
        self._opened |= {name for name in facts.uplinks if not links.forwards(name)} - {links.PROBE}
        resolvers, opened = frozenset(self.resolvers), frozenset(self._opened)
        egress.put_in_force(facts, Wishes(resolvers, frozenset(self._closed), opened))
        for name in facts.uplinks:
            if not links.forwards(name):
                links.set_forwarding(name, on=True)
        if self._admits:
            firewalls.admit()

    def outside(self) -> Reached:
        """What a tenant reaches of the resolvers, by TCP and by DNS, now. At most two seconds."""
        alias = f"deepbrain-trial-{os.getpid()}"
        try:
            return self.attach(alias, lambda: ask_resolvers(self.resolvers))
        finally:
            self.detach(alias)


def offered(report: ModeReport) -> tuple[Network, str]:
    """What a machine may offer now: whether tenants would really get out; and why they would not."""
    if report.network is Network.NONE:
        return Network.NONE, report.no_network
    try:
        reached = TenantNetwork().outside()
    except (SandboxError, OSError) as error:
        return Network.NONE, str(error)
    if not reached.all:
        return Network.NONE, f"from a tenant's place to the internet, {reached}"
    return Network.INTERNET, ""


def _clear() -> None:
    """No tenant has a network: nothing of ours stays on the host."""
    loaded = Loaded.read()
    if loaded is not None:
        firewalls.withdraw()
        egress.remove()
        for name in loaded.wishes.opened:
            with suppress(SandboxError):  # the interface has gone
                links.set_forwarding(name, on=False)


def _call() -> bool:
    """Ask the listener of a trial from here, by UDP and by TCP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(TRIAL_SECONDS / TRIES)
        asking.connect(BEYOND)
        if not any(_answered(asking) for _ in range(TRIES)):
            return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as calling:
        calling.settimeout(TRIAL_SECONDS)  # a lost first packet is sent again after a second
        return calling.connect_ex(BEYOND) == 0


def _answered(asking: socket.socket) -> bool:
    try:
        asking.send(b"?")
        return asking.recv(16) == b"?"
    except OSError:
        return False


@contextmanager
def _answering(beyond: NetworkNamespace) -> Iterator[None]:
    """Say back what comes by UDP, and take what comes by TCP."""

    def listen() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(BEYOND)
        return socket.create_server(BEYOND), datagrams

    def echo() -> None:
        while not done.is_set():
            with suppress(OSError):
                data, sender = datagrams.recvfrom(16)
                datagrams.sendto(data, sender)

    done = threading.Event()
    stream, datagrams = beyond.run(listen)
    datagrams.settimeout(0.1)
    with stream, datagrams, ThreadPoolExecutor(1, "trial") as alone:
        alone.submit(echo)
        try:
            yield
        finally:
            done.set()


@contextmanager
def _locked(path: Path = LOCK) -> Iterator[None]:
    """One change of the host's network at a time, whichever process makes it. Not to be nested."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def named_resolvers() -> tuple[IPv4Address, ...]:
    """Those that the provider names, else public ones. Raises: SandboxError: a name is no address."""
    told = os.environ.get(RESOLVERS_VARIABLE, "")
    try:
        found = tuple(IPv4Address(word.strip()) for word in told.split(",") if word.strip())
    except ValueError as error:
        raise SandboxError(f"{error}; name resolvers by IPv4 address, such as 1.1.1.1") from error
    return found[:3] or RESOLVERS


def named_networks() -> tuple[IPv4Network, ...]:
    """What is closed besides. Raises: SandboxError: one is no network."""
    told = os.environ.get(CLOSED_VARIABLE, "")
    try:
        return tuple(IPv4Network(word.strip()) for word in told.split(",") if word.strip())
    except ValueError as error:
        raise SandboxError(f"{error}; name networks such as 203.0.113.0/24") from error


class Changes:
    """Tells that the host's addresses, routes, interfaces or firewall rules have changed."""

    _GROUPS: Final = ((socket.NETLINK_ROUTE, 0x1 | 0x10 | 0x40), (12, 1 << 6))
    """Protocol and groups: links, IPv4 addresses and routes; of netfilter, nf_tables."""

    def __init__(self) -> None:
        """Raises: OSError: the kernel lacks one of them."""
        self.sockets: list[socket.socket] = []
        for protocol, groups in self._GROUPS:
            found = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol
            )
            self.sockets.append(found)
            found.bind((0, groups))

    def drain(self) -> None:
        """Forget what has come; whoever calls looks at the host itself."""
        for each in self.sockets:
            while True:
                try:
                    each.recv(1 << 16)
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # more has come than could be kept
                        raise

    def close(self) -> None:
        for each in self.sockets:
            each.close()
