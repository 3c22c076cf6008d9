"""`system_`: what this node and its chain are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from deepbrain.node.chain import Chain
from deepbrain.node.pool import Pool
from deepbrain.node.rpc.dispatch import Method
from deepbrain.node.rpc.errors import invalid_params
from deepbrain.node.rpc.wire import Json
from deepbrain.primitives import ss58
from deepbrain.primitives.errors import DecodeError, InvalidKey
from deepbrain.primitives.ids import AccountId

DECIMALS: Final = 15
SYMBOL: Final = "DBC"


@dataclass(frozen=True, slots=True)
class Company:
    """This node among others; by default there are none."""

    has_peers: bool = False
    """Whether it should have some."""
    peers: Callable[[], int] = lambda: 0
    """How many it has, as far as that is counted."""
    live: Callable[[], bool] = lambda: True
    """Whether it has caught up with them."""


ALONE: Final = Company()


class SystemRpc:
    def __init__(self, chain: Chain, pool: Pool, version: str, company: Company = ALONE) -> None:
        self._company = company
        self._started_at = chain.head.number
        self._chain = chain
        self._pool = pool
        self._version = version

    def methods(self) -> Iterator[Method]:
        yield Method("system_name", self.name)
        yield Method("system_version", self.version)
        yield Method("system_chain", self.chain)
        yield Method("system_chainType", self.chain_type)
        yield Method("system_properties", properties_of)
        yield Method("system_health", self.health)
        yield Method("system_peers", self.peers, unsafe=True)
        yield Method("system_nodeRoles", self.roles)
        yield Method("system_syncState", self.sync_state)
        yield Method("system_accountNextIndex", self.next_nonce, aliases=("account_nextIndex",))

    def name(self) -> Json:
        return "DeepBrain"

    def version(self) -> Json:
        return self._version

    def chain(self) -> Json:
        return self._chain.spec.name

    def chain_type(self) -> Json:
        return self._chain.spec.type.value

    def health(self) -> Json:
        company = self._company
        return {
            "peers": company.peers(),
            "isSyncing": not company.live(),
            "shouldHavePeers": company.has_peers,
        }

    def peers(self) -> Json:
        return []

    def roles(self) -> Json:
        return ["Authority"]

    def sync_state(self) -> Json:
        """Where this node began, and how far it is: of higher blocks it knows nothing before it has
        them. `isSyncing` of `system_health` tells whether there are any.
        """
        number = self._chain.head.number
        return {
            "startingBlock": self._started_at,
            "currentBlock": number,
            "highestBlock": number,
        }

    def next_nonce(self, account: str) -> Json:
        """The nonce for the account's next extrinsic, those in the pool counted."""
        return self._pool.next_nonce(account_of(account))


def properties_of() -> Json:
    """How amounts and addresses of this chain are written."""
    return {"ss58Format": ss58.PREFIX, "tokenDecimals": DECIMALS, "tokenSymbol": SYMBOL}


def account_of(text: str) -> AccountId:
    """An account by its address, or by its public key in hex. Raises: RpcFault."""
    try:
        return AccountId.from_hex(text) if text.startswith("0x") else ss58.decode(text)
    except (InvalidKey, DecodeError) as error:
        raise invalid_params(str(error)) from None
