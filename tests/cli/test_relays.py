"""Which relays of a stranger's machine a renter's program talks to."""

from typing import Any

import pytest

from deepbrain.cli.provider.machine import address_record
from deepbrain.cli.renter.relays import ways_for_renters

DIRECT = "203.0.113.7:4001"


class Named:
    """Stands for a node that names these relays."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls

    async def relays(self) -> tuple[str, ...]:
        return self._urls


async def ways(relay: str, *named: str) -> tuple[str, ...]:
    client: Any = Named(*named)
    return await ways_for_renters(client, address_record([DIRECT], [relay]))


@pytest.mark.parametrize(
    "near",
    [
        "http://127.0.0.1:9946", "http://localhost:9946", "http://10.0.0.5", "http://192.168.1.1:80",
        "http://169.254.169.254", "http://[::1]:9946", "http://[fe80::1]:9946", "http://[fd00::1]",
        "http://[::ffff:10.0.0.5]:9946", "http://[64:ff9b::a00:5]:9946", "http://0.0.0.0:9946",
        "http://2130706433:9946", "http://no-such-host.invalid",
    ],
)  # fmt: skip
async def test_a_private_address_is_no_relay_unless_the_renters_node_names_it(near: str) -> None:
    assert await ways(near) == (DIRECT,)
    assert await ways(near, near) == (DIRECT, near)
    assert await ways(near, "http://203.0.113.5:9946") == (DIRECT,)


@pytest.mark.parametrize("far", ["http://203.0.113.5:9946", "https://[2606:4700::1111]"])
async def test_one_on_the_internet_is_whoever_names_it(far: str) -> None:
    assert await ways(far) == (DIRECT, far)
