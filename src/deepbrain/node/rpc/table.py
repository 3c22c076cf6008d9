"""The whole table: every method of the node."""

from deepbrain.node.chain import Chain
from deepbrain.node.pool import Pool
from deepbrain.node.rpc.archive import ArchiveRpc
from deepbrain.node.rpc.author import AuthorRpc
from deepbrain.node.rpc.chain import ChainRpc
from deepbrain.node.rpc.chainhead import ChainHeadRpc
from deepbrain.node.rpc.chainspec import ChainSpecRpc
from deepbrain.node.rpc.dispatch import Method, Table
from deepbrain.node.rpc.payment import PaymentRpc
from deepbrain.node.rpc.relays import RelaysRpc
from deepbrain.node.rpc.state import StateRpc
from deepbrain.node.rpc.system import ALONE, Company, SystemRpc
from deepbrain.node.rpc.transaction import TransactionRpc
from deepbrain.node.rpc.wallet import WalletRpc
from deepbrain.node.rpc.wire import Json


def rpc_table(
    chain: Chain,
    pool: Pool,
    version: str,
    relays: RelaysRpc | None = None,
    company: Company = ALONE,
) -> Table:
    """Wire names to functions. `version` is this software's."""
    table = Table()
    relays = relays or RelaysRpc(lambda: None, ())

    def methods() -> Json:
        return {"methods": list(table.names())}

    table.add((Method("rpc_methods", methods),))
    table.add(SystemRpc(chain, pool, version, company).methods())
    table.add(ChainRpc(chain).methods())
    table.add(StateRpc(chain).methods())
    table.add(AuthorRpc(pool).methods())
    table.add(ChainHeadRpc(chain).methods())
    table.add(ChainSpecRpc(chain).methods())
    table.add(TransactionRpc(chain, pool).methods())
    table.add(ArchiveRpc(chain).methods())
    table.add(WalletRpc(chain, pool).methods())
    table.add(PaymentRpc(chain).methods())
    table.add(relays.methods())
    return table
