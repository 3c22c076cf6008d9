"""`chainSpec_v1_`: what never changes while a client is connected."""

from collections.abc import Iterator

from deepbrain.node.chain import Chain
from deepbrain.node.rpc.dispatch import Method
from deepbrain.node.rpc.system import properties_of
from deepbrain.node.rpc.wire import Json


class ChainSpecRpc:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain

    def methods(self) -> Iterator[Method]:
        yield Method("chainSpec_v1_chainName", self.name)
        yield Method("chainSpec_v1_genesisHash", self.genesis)
        yield Method("chainSpec_v1_properties", properties_of)

    def name(self) -> Json:
        return self._chain.spec.name

    def genesis(self) -> Json:
        return str(self._chain.genesis_hash)
