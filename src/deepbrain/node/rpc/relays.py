"""`deepbrain_`: which relays machines may be reached through."""

from collections.abc import Callable, Iterator

from deepbrain.node.rpc.dispatch import Method
from deepbrain.node.rpc.wire import Json


class RelaysRpc:
    def __init__(self, port: Callable[[], int | None], urls: tuple[str, ...]) -> None:
        self._port = port
        self._urls = urls

    def methods(self) -> Iterator[Method]:
        yield Method("deepbrain_relays", self.relays)

    def relays(self) -> Json:
        """The port of this node's own relay, at the host by which the node itself is reached, and the
        URLs of relays it was told to name.
        """
        return {"port": self._port(), "urls": list(self._urls)}
