"""Free what is done with on a thread of its own: a correction of the iroh wheel's Python bindings.

An object of the wheel frees its Rust half when Python collects it, on whatever thread that happens, and
freeing a stream takes its connection's lock. Where Python collects one inside the callback of a waiting
call, that callback holds the lock of the table of calls; another thread holds the connection's lock and
wants the table for its own callback: both wait for ever, and the process hangs. Whoever opened and
dropped many streams could bring a machine to that.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from iroh import iroh_ffi

_HOLDING: Final[tuple[Any, ...]] = (
    iroh_ffi.SendStream,
    iroh_ffi.RecvStream,
    iroh_ffi.BiStream,
    iroh_ffi.Connection,
    iroh_ffi.Connecting,
    iroh_ffi.Accepting,
    iroh_ffi.Incoming,
    iroh_ffi.Endpoint,
)
"""Classes whose Rust half takes a lock when it is freed."""

_call: Any = iroh_ffi._uniffi_rust_call

_Free = Callable[[Any], None]

_done_with: "queue.SimpleQueue[tuple[_Free, Any]]" = queue.SimpleQueue()
"""Its `put` may be called from a finaliser, even within another `put`."""


def _free_all() -> None:
    while True:
        free, handle = _done_with.get()
        _call(free, handle)


def _later(free: _Free) -> Callable[[Any], None]:
    put = _done_with.put

    def finalise(self: Any) -> None:
        handle = getattr(self, "_handle", None)
        if handle is not None:
            put((free, handle))

    return finalise


def apply() -> None:
    """Correct the wheel's classes, once a process."""
    if any(thread.name == "iroh-free" for thread in threading.enumerate()):
        return
    threading.Thread(target=_free_all, name="iroh-free", daemon=True).start()
    for cls in _HOLDING:
        name = f"uniffi_iroh_ffi_fn_free_{cls.__name__.lower()}"
        cls.__del__ = _later(getattr(iroh_ffi._UniffiLib, name))
