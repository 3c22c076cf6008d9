"""Where Prometheus asks: an HTTP server of its own thread, for whatever collector it is given."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


def registry(collector: "Collector") -> "CollectorRegistry":
    """A registry of this collector alone."""
    from prometheus_client import CollectorRegistry

    made = CollectorRegistry(auto_describe=False)
    made.register(collector)
    return made


@contextmanager
def served(address: str, collector: "Collector", *, extra: str) -> Iterator[None]:
    """Answer at `host:port` meanwhile; nowhere when it is empty.

    Whoever has metrics works without them rather than not at all: what is in the way is logged. `extra`:
    with which of our extras prometheus-client comes.
    """
    if not address:
        yield
        return
    try:
        from prometheus_client import start_http_server

        host, _, port = address.rpartition(":")
        server, thread = start_http_server(int(port), host.strip("[]"), registry(collector))
    except ImportError:
        log.warning("metrics are off: install deepbrain[%s], which brings prometheus-client", extra)
        yield
        return
    except (OSError, ValueError, OverflowError) as error:
        log.warning("metrics are off: %s cannot be listened at (%s)", address, error)
        yield
        return
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
