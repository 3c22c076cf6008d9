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
    f"tests/e2e/test_{name}.py"
    for name in ("bad_input", "guide", "images", "join", "main_job", "orders", "ssh")
}
"""Files whose tests run on the shared networks."""


class SharingNetworks(LoadFileScheduling):
    """A file's tests in one worker, and in one all that share networks: each is started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "shared networks" if file in SHARING else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SharingNetworks:
    return SharingNetworks(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
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
