"""Signatures in worker processes: the same answers, in order, and no process outlives its node."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepbrain.node.signatures import (
    Check,
    InlineSignatures,
    ProcessSignatures,
    signatures_for,
)
from deepbrain.primitives.keys import Keypair, Scheme

pytestmark = pytest.mark.timeout(120)


def checks(count):
    """Every seventh is bad; both schemes."""
    made = []
    for index in range(count):
        scheme = Scheme.SR25519 if index % 2 else Scheme.ED25519
        key, message = Keypair.from_uri("//Alice", scheme), b"message %d" % index
        signature = bytes(key.sign(message))
        if index % 7 == 0:
            message += b"!"
        made.append(Check(scheme.value, bytes(key.public), signature, message))
    return made


@pytest.mark.parametrize("count", [0, 1, 15, 200])
async def test_workers_answer_as_the_node_itself_would(count):
    wanted = [index % 7 != 0 for index in range(count)]
    assert await InlineSignatures().verify(checks(count)) == wanted
    workers = ProcessSignatures(1)
    try:
        assert await workers.verify(checks(count)) == wanted
    finally:
        workers.close()


async def test_a_worker_that_dies_is_replaced():
    workers = ProcessSignatures(1)
    try:
        await workers.verify(checks(64))
        (victim,) = workers._pool._processes
        os.kill(victim, signal.SIGKILL)
        for _ in range(2):
            assert await workers.verify(checks(64)) == [index % 7 != 0 for index in range(64)]
    finally:
        workers.close()


def test_a_single_core_checks_in_place():
    assert isinstance(signatures_for(1), InlineSignatures)
    assert isinstance(signatures_for(2), ProcessSignatures)


PARENT = """
import asyncio
from deepbrain.node.signatures import ProcessSignatures
from tests.node.test_signatures import checks

async def main():
    await ProcessSignatures(1).verify(checks(64))
    print("started", flush=True)
    await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_workers_end_with_a_killed_node(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    root = Path(__file__).resolve().parents[2]
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        assert parent.stdout.readline() == "started\n"
        children = children_of(parent.pid)
        assert children
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rsplit(") ", 1)[1][0] != "Z"
