"""`dbc ssh-proxy`, which `ssh` starts for each of its connections.

Apart from `dbc ssh`: it is waited for every time, and orders and pallets take long to import.
"""

from typing import TYPE_CHECKING

import click

from deepbrain.cli.chain import Choices
from deepbrain.cli.failure import UserError
from deepbrain.cli.ssh.gateway import Place, carry, reach_gateway
from deepbrain.cli.ssh.keys import PREFIX, ssh_files
from deepbrain.primitives.ids import OrderId

if TYPE_CHECKING:
    from deepbrain.cli.ssh.gateway import Open


@click.command("ssh-proxy", hidden=True)
@click.argument("host")
def ssh_proxy(host: str) -> None:
    """Carry SSH between standard streams and an order, as a ProxyCommand."""
    number = host.lower().removeprefix(PREFIX)
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise UserError(f"{host!r} is no order; write {PREFIX} and its number, such as {PREFIX}7")
    order = OrderId(int(number))
    choices = Choices.current()
    chosen = choices.chosen()

    def prepare() -> "Open":
        from deepbrain.cli.ssh.gateway import order_session

        pair = chosen.unlock()
        return lambda: order_session(choices, pair, order)

    place = Place.of(ssh_files(), choices.url, chosen.account, order)
    carry(reach_gateway(place, prepare))
