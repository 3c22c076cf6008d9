"""What is wrong with one node is said by that node, in one sentence, and the others go on."""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.validators import stories
from tests.validators.chain import stash
from tests.validators.faulty import BLOCK
from tests.validators.load import Load
from tests.validators.town import eventually, town

from deepbrain.cli.validate.place import Place
from deepbrain.state.lmdb.store import MIN_FREE

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
QUICK = {"interval_ms": 500}


async def ends(node, seconds=60):
    """What a node says at its end, which is an error."""

    async def ended():
        return not node.up

    await eventually(ended, seconds, "it does not end")
    assert node.process.returncode == 1
    return node.said().splitlines()[-1]


async def test_a_node_of_another_genesis_stays_alone_and_is_told_why():
    async with town(4, **QUICK) as four:
        stranger = four.newcomer(5)
        spec = json.loads(four.spec.read_text())
        spec["constants"]["Rent"]["min_term"] = 11
        stranger.spec = four.base / "another.json"
        stranger.spec.write_text(json.dumps(spec))
        stranger.start()

        async def told():
            return "this node's chain spec is not the one of the others" in stranger.said()

        await eventually(told)
        await four.grow(4, *four.validators)
        assert await stranger.height() == 0


async def test_a_second_node_with_the_same_key_stops_before_it_signs():
    async with town(4, **QUICK) as four, Load.of(four, 20) as load:
        twin = four.newcomer(5)
        key = "comet/config/priv_validator_key.json"
        shutil.copy(four[4].data / key, twin.data / key)
        twin.start()
        assert "another node runs with it" in await ends(twin)
        await four.grow(4, *four.validators)
        assert (await stories.punished(four[1], stash(4).public)).offences == 0
        assert await stories.sound(four, load) > 20


async def test_a_node_with_another_state_stops_and_comes_back_by_a_reset():
    async with town(4, started=False, **QUICK) as four:
        four[4].module = "tests.validators.faulty"
        await four.start()
        assert "the network has another state than this node" in await ends(four[4], 90)
        await four.grow(4, *four.validators[:3])
        assert await four[1].height() > BLOCK
        # Its operator gets a release without the bug, and has it sync again.
        four[4].module = four[1].module
        Place(four[4].data).forget_chain()
        four[4].start()
        await four.grow(4, *four.validators)
        await four.agree()


async def test_data_of_the_other_engine_is_refused(tmp_path):
    async with town(1, **QUICK) as one:
        node = one[1]
        node.stop()
        node.more = ("--engine", "solo")
        node.start()
        assert "belongs to the cometbft engine and this node runs solo" in await ends(node)


@contextmanager
def small_disk(size):
    """A disk of its own for one node."""
    place = Path(tempfile.mkdtemp(prefix="disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
        place.rmdir()


async def test_a_full_disk_stops_one_of_four_and_it_goes_on_when_there_is_room():
    with small_disk(MIN_FREE + (128 << 20)) as disk:
        async with town(4, started=False, **QUICK) as four, Load.of(four, 20) as load:
            node = four[4]
            shutil.move(node.data, disk / "data")
            node.data.symlink_to(disk / "data")
            await four.start()
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(shutil.disk_usage(disk).free - MIN_FREE // 2))
            assert "make room, at least 256 MiB" in await ends(node)
            await four.grow(4, *four.validators[:3])
            ballast.unlink()
            node.start()
            await four.grow(4, *four.validators)
            assert await stories.sound(four, load) > 20
