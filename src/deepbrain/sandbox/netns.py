"""Network namespaces without a name: each is gone with the last process, socket or descriptor in it.

So nobody has to remove one, nor what was put into it, whoever was killed meanwhile.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self, TypeVar

from deepbrain.sandbox.sandbox import SandboxError

CLONE_NEWNET: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


class NetworkNamespace:
    """It lives at least as long as this object is not closed."""

    def __init__(self, fd: int | None = None) -> None:
        """A new one; or the one that `fd` is open on, which is ours from now on.

        Raises: SandboxError: the kernel refuses.
        """
        self._fd = _in_a_thread(_new) if fd is None else fd

    @classmethod
    def current(cls) -> Self:
        """The one that this thread is in."""
        return cls(_own())

    @property
    def path(self) -> str:
        """Its name for programs that are given `fds`."""
        return f"/proc/self/fd/{self._fd}"

    @property
    def fds(self) -> tuple[int, ...]:
        return (self._fd,)

    def run(self, work: Callable[[], T]) -> T:
        """Do `work` in it. What it starts and what sockets it makes stay in it."""

        def enter() -> T:
            _call(_libc.setns(self._fd, CLONE_NEWNET))
            return work()

        return _in_a_thread(enter)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _in_a_thread(work: Callable[[], T]) -> T:
    """A thread that was in another namespace must do nothing else: it ends with its work."""
    with ThreadPoolExecutor(1, "netns") as alone:
        return alone.submit(work).result()


def _new() -> int:
    _call(_libc.unshare(CLONE_NEWNET))
    return _own()


def _own() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _call(result: int) -> None:
    if result:
        raise SandboxError(f"no network namespace: {os.strerror(ctypes.get_errno())}")
