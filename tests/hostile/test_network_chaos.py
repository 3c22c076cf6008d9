"""Killed at any moment, whoever makes tenants' networks leaves no link, no namespace and no rule."""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.hostile.network_churn import open_host
from tests.hostile.test_tenant_network import require_nft
from tests.hostile.world import World, world

from deepbrain.sandbox import egress, links
from deepbrain.sandbox.baseimage import build
from deepbrain.sandbox.directory import tenant_directories
from deepbrain.sandbox.host import LocalHost
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.open import UNPACK_UID
from deepbrain.sandbox.sandbox import Mode, ModeReport
from deepbrain.sandbox.tenants import LocalSandbox

KILLS = 24
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Churn:
    """A data directory, and the process that makes and removes tenants there."""

    place: World
    data: Path
    image: str
    log: list[str]

    def killed_after(self, word: str, seconds: float) -> None:
        """Start it, and kill it so long after it says `word`."""
        process = self.place.host.start(
            [sys.executable, "-m", "tests.hostile.network_churn", str(self.data), self.image],
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == word:
                break
        else:
            raise AssertionError(f"it ended by itself with {process.wait()}")
        time.sleep(seconds)
        process.kill()
        process.communicate()

    def unowned(self) -> list[str]:
        """Links of which no running tenant is."""
        living = {
            f"deepbrain-{tenant.container}"
            for tenant in tenant_directories(self.data / "tenants")
            if tenant.keeper() is not None
        }
        wanted = self.place.host.run(
            lambda: {name for alias in living for name in links.links_called(alias)}
        )
        there = {link.name for link in self.place.host.run(links.read_facts).links}
        return sorted(there - wanted)

    def clear(self) -> None:
        """What the next start of the helper does, and then its agent."""

        def work() -> None:
            host = open_host(self.data)
            for tenant in list(tenant_directories(self.data / "tenants")):
                host.destroy(tenant.order)

        self.place.host.run(work)


@pytest.fixture
def churn(tmp_path: Path) -> Iterator[Churn]:
    require_nft()
    if Programs.find().runsc is None:
        if os.environ.get("REQUIRE_GVISOR") == "1":
            pytest.fail("scripts/get-gvisor was not run")
        pytest.skip("scripts/get-gvisor was not run")
    for path in (tmp_path, *list(tmp_path.parents)[:3]):
        path.chmod(0o711)
    archive = tmp_path / "shell.tar"
    digest = build(archive, python=False)
    with world() as place:
        data = tmp_path / "data"
        data.mkdir(mode=0o711)

        def unpack() -> None:
            sandbox = LocalSandbox(
                data, LocalHost(open_host(data)), ModeReport(Mode.GVISOR), UNPACK_UID
            )
            asyncio.run(sandbox.import_image(archive, digest, "shell"))

        place.host.run(unpack)
        made = Churn(place, data, digest, [])
        yield made
        made.clear()


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.timeout(300)
def test_killed_at_any_moment_nothing_of_a_network_stays(churn: Churn) -> None:
    chance, lived_on = random.Random(4), 0
    for number in range(KILLS):
        moments = (("opening", 0.5), ("starting", 0.6), ("running", 0.2), ("stopping", 0.3))
        word, most = moments[number % len(moments)]
        churn.killed_after(word, chance.random() * most)
        # Without anybody's help: what lives on is only what a keeper holds.
        assert eventually(lambda: not churn.unowned(), 5), (number, word, churn.unowned())
        lived_on += bool(churn.place.host.run(links.read_facts).links)
    assert lived_on, "no kill met a running tenant"
    churn.clear()
    assert eventually(lambda: churn.place.host.run(links.read_facts).links == (), 5)
    assert churn.place.host.run(lambda: egress.run_nft("list", "ruleset")) == ""
    assert not churn.place.host.run(lambda: links.forwards("wan0"))
    assert links.PROBE not in churn.place.host.run(links.read_facts).uplinks
    assert processes_of(churn.data) == []


def processes_of(data: Path) -> list[str]:
    """Of tenants; a namespace without a process is gone."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                words = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(data / "tenants") in words:
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found
