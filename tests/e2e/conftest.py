"""Networks that the tests share, one a variant; a test that breaks its network makes its own."""

from collections.abc import Generator, Iterator

import pytest
from tests.e2e.network import (
    AS_PROCESS,
    AS_ROOT,
    AS_USER,
    RUNNING,
    Network,
    Variant,
    network,
    require,
)
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling


def _serving(variant: Variant, providers: int) -> Iterator[Network]:
    with network(variant, providers) as net:
        offered = {offer["isolation"] for offer in net.offers()}
        assert len(offered) == 1, f"providers of one machine isolate alike, not by {offered}"
        require(variant, offered.pop(), net.refusals())
        net.make_small()
        yield net


@pytest.fixture(scope="session")
def as_root() -> Iterator[Network]:
    """Two providers with root helpers, in mode `gvisor`."""
    yield from _serving(AS_ROOT, 2)


@pytest.fixture(scope="session")
def as_user() -> Iterator[Network]:
    """An ordinary user's network, in mode `gvisor-own`."""
    yield from _serving(AS_USER, 2)


@pytest.fixture(scope="session")
def as_process() -> Iterator[Network]:
    """Where no gVisor can run: plain processes."""
    yield from _serving(AS_PROCESS, 1)


SHARED = {"as_root", "as_user", "as_process"}


@pytest.fixture(params=["as_root", "as_user", "as_process"])
def net(request: pytest.FixtureRequest) -> Network:
    """Each variant in turn."""
    found: Network = request.getfixturevalue(request.param)
    return found


SHARING = {
    f"tests/e2e/test_{name}.py": group
    for group, names in {
        "all variants": ("images", "main_job", "orders", "ssh"),
        "as root alone": ("bad_input", "guide", "join"),
    }.items()
    for name in names
}
"""Files whose tests run on the shared networks. A group's tests run in one worker, and start its networks
once; in one group all of them would take longer than everything else."""

LONGEST_FIRST = ("all variants", "as root alone", "tests/e2e/test_chaos.py")


class SharingNetworks(LoadFileScheduling):
    """A file's tests in one worker, and in one those of a group that shares networks."""

    def _split_scope(self, nodeid: str) -> str:
        return scope_of(super()._split_scope(nodeid))


def scope_of(file: str) -> str:
    return SHARING.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharingNetworks:
    return SharingNetworks(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        scope = scope_of(item.nodeid.partition("::")[0])
        return LONGEST_FIRST.index(scope) if scope in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=turn)
    for item in items:
        if item.path.parent.name != "e2e":
            continue
        item.add_marker(pytest.mark.e2e)
        if SHARED & set(getattr(item, "fixturenames", ())):
            assert item.nodeid.partition("::")[0] in SHARING, "name its file in `SHARING`"
        if not any(item.iter_markers("timeout")):
            item.add_marker(pytest.mark.timeout(120))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failed test, what the networks said: where CI failed, nobody can look later."""
    report = yield
    if report.failed and item.path.parent.name == "e2e":
        for net in RUNNING:
            report.sections.append((f"logs of the network {net.variant.name}", net.logs()))
    return report
