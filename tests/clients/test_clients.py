"""Every outside client, unmodified, does all it is made for against our node."""

import os

import pytest
from tests.clients.matrix import CLIENTS, CannotRun, drive, judge

pytestmark = [pytest.mark.clients, pytest.mark.timeout(400)]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
async def test_an_unmodified_client_reads_pays_and_rents(client):
    try:
        seen, world = await drive(client)
    except CannotRun as lack:
        if os.environ.get("REQUIRE_GVISOR") == "1":  # where nothing may be skipped
            raise
        pytest.skip(str(lack))
    verdicts = judge(client, seen, world)
    assert {step: v for step, v in verdicts.items() if v != "pass"} == {}
