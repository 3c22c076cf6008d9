"""A machine that is far away: a workspace goes there and results come back over several connections."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.nat import Town, distant
from tests.net.distance import NEAR
from tests.net.distance import Path as Distance

from deepbrain.net.lanes import LANES

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="there are no TUN devices here"),
]

SIZE = 24 << 20
JOB = "sha256sum data && cat data data > double"


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with distant(Distance(rtt=0.08, loss=0.001, rate=25e6)) as made:
        yield made


def connections(town: Town) -> int:
    """How often the renter has come in, by the agent's own log."""
    return (town.base / "machine" / "agent.log").read_text().count(f'text="from {NEAR}:')


def test_workspace_and_results_travel_in_lanes(town: Town) -> None:
    workspace = town.base / "work"
    workspace.mkdir()
    data = os.urandom(SIZE)
    (workspace / "data").write_bytes(data)
    out = town.base / "got"
    ran = town.done(
        *("run", "-y", "--for", "5m", "--workspace", str(workspace), "--into", str(out)),
        *("--", "sh", "-c", JOB),
        timeout=120,
    )
    assert ran.code == 0, f"{ran.err}\n{town.logs()}"
    assert ran.out.split()[0] == hashlib.sha256(data).hexdigest()
    doubles = [path.read_bytes() for path in out.rglob("double")]
    assert doubles == [data * 2]
    # One for the command, and the others of both transfers.
    assert connections(town) >= 1 + 2 * (LANES - 1), town.logs()


def test_what_is_small_goes_over_one_connection(town: Town) -> None:
    before = connections(town)
    ran = town.done("run", "-y", "--for", "60s", "--no-workspace", "--", "echo", "here I am")
    assert ran.out == "here I am\n", ran.err
    assert connections(town) == before + 1
