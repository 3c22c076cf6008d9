"""The root helper of a provider: `python -m deepbrain.provider.helper --data DIR --uid N -- agent ...`.

The only code of a provider that runs as root. It runs the canaries, starts the agent as an unprivileged
user with one end of a socket, answers that agent's closed list of requests (`sandbox.messages`), and
starts it again when it dies. Tenants belong to their keepers and outlive both. Whoever supervises the
helper (systemd, `dbc network up`) starts it again when it dies; the agent ends when the socket closes.
"""

import argparse
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from deepbrain.primitives.errors import DecodeError
from deepbrain.primitives.units import U32
from deepbrain.provider import release
from deepbrain.provider.confine import confined, program_trees, share
from deepbrain.provider.logs import FORMATS, LOG_FORMAT, set_up
from deepbrain.sandbox import messages
from deepbrain.sandbox.host import Host, SessionFds
from deepbrain.sandbox.messages import (
    ANSWERS,
    MAX_PACKET,
    REQUESTS,
    Answer,
    AnswerPacket,
    Done,
    Request,
)
from deepbrain.sandbox.network import Changes
from deepbrain.sandbox.open import open_host
from deepbrain.sandbox.remote import HELPER_FD
from deepbrain.sandbox.sandbox import Mode, SandboxError
from deepbrain.sandbox.volumes import mounts_below, unmount_below

log = logging.getLogger("deepbrain.helper")

PASSPHRASE_FILE: Final = "DBC_PASSPHRASE_FILE"  # noqa: S105 - the variable's name
MAX_SECRET: Final = 4096
SESSION_FDS: Final = 5
WORKERS: Final = 16
RESTART_SECONDS: Final = (0.1, 30.0)
SETTLED_SECONDS: Final = 10.0
"""An agent that lived this long is started again at once."""
STOP_SECONDS: Final = 10.0
SETTLE_SECONDS: Final = 0.05
SETTLE_AGAIN_SECONDS: Final = 5.0


_UNNOTED: Final = (messages.AskReport, messages.Exec, messages.Collect)


class Service:
    """Answers one agent's requests until its socket closes."""

    def __init__(
        self, host: Host, connection: socket.socket, changes: Changes | None = None
    ) -> None:
        self._host = host
        self._connection = connection
        self._changes = changes
        self._sending = threading.Lock()
        self._settling = threading.Lock()
        self._closed = threading.Event()

    def serve(self) -> None:
        with ThreadPoolExecutor(WORKERS, "request") as workers:
            self._answer_all(workers)
            self._closed.set()

    def _answer_all(self, workers: ThreadPoolExecutor) -> None:
        while True:
            try:
                self._await_packet(workers)
                data, fds, flags, _ = socket.recv_fds(self._connection, MAX_PACKET, SESSION_FDS)
            except OSError:
                return
            if not data:
                return
            for fd in fds:
                os.set_inheritable(fd, False)
            whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
            job = workers.submit(self._answer, data if whole else b"", list(fds))
            job.add_done_callback(self._report_bug)

    def _await_packet(self, workers: ThreadPoolExecutor) -> None:
        """Meanwhile, keep the rules of tenants' networks in line with the host."""
        watched = [] if self._changes is None else self._changes.sockets
        while True:
            ready, _, _ = select.select([self._connection, *watched], [], [])
            if self._changes is not None and len(ready) > (self._connection in ready):
                self._changes.drain()
                if self._settling.acquire(blocking=False):  # else one is about to look anyway
                    workers.submit(self._settle).add_done_callback(self._report_bug)
            if self._connection in ready:
                return

    def _settle(self) -> None:
        time.sleep(SETTLE_SECONDS)  # changes come in bursts
        self._settling.release()
        while not settle(self._host) and not self._closed.wait(SETTLE_AGAIN_SECONDS):
            continue

    def _answer(self, data: bytes, fds: list[int]) -> None:
        number = int.from_bytes(data[:4], "little")
        try:
            answer = self._outcome(REQUESTS.decode(data).request, fds)
        except DecodeError:
            answer = messages.failure_to_wire(SandboxError("the request is malformed"))
        finally:
            for fd in fds:
                os.close(fd)
        packed = ANSWERS.encode(AnswerPacket(number=U32(number), answer=answer))
        with self._sending, suppress(OSError):  # the agent may have gone
            self._connection.send(packed)

    def _outcome(self, request: Request, fds: Sequence[int]) -> Answer:
        try:
            answer = self.carry_out(request, fds)
        except SandboxError as error:
            refusal = error
        except OSError as error:
            refusal = SandboxError(f"the machine refused: {error.strerror}")
        else:
            _note(request, "done")
            return answer
        _note(request, str(refusal), logging.WARNING)
        return messages.failure_to_wire(refusal)

    def _report_bug(self, job: "Future[None]") -> None:
        """An error that nobody foresaw: say it, and drop the agent rather than leave it waiting."""
        if (error := job.exception()) is not None:
            log.error("a request ended by a fault", exc_info=error, extra={"event": "fault"})
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def carry_out(self, request: Request, fds: Sequence[int]) -> Answer:
        """Raises: SandboxError."""
        host = self._host
        match request:
            case messages.AskReport():
                return messages.report_to_wire(host.report)
            case messages.InstallImage(digest=digest):
                host.install_image(digest.hex())
            case messages.RemoveImage(digest=digest):
                host.remove_image(digest.hex())
            case messages.Prepare(spec=spec):
                host.prepare(messages.spec_from_wire(spec, host.report.mode))
            case messages.Start(order=order):
                host.start(int(order))
            case messages.SetEnd(order=order, end_at=end_at):
                host.set_end(int(order), int(end_at), messages.end_reason(request))
            case messages.Signal(order=order, number=number):
                host.signal(int(order), int(number))
            case messages.Exec(order=order, argv=argv, env=env, cwd=cwd, tty=tty):
                host.exec(int(order), argv, env, cwd, tty, _session_fds(fds))
            case messages.Collect(order=order, arguments=arguments):
                host.collect(int(order), arguments, _session_fds(fds))
            case messages.Release(order=order):
                host.release(int(order))
            case messages.Destroy(order=order):
                host.destroy(int(order))
            case _:
                raise SandboxError("the request is unknown")
        return Done()


def settle(host: Host) -> bool:
    """Whether the rules of tenants' networks are as they must be; where not, their links are down."""
    try:
        host.settle_network()
    except (SandboxError, OSError) as error:
        log.warning("tenants are cut off the network: %s", error, extra={"event": "network-lost"})
        return False
    return True


def _note(request: Request, outcome: str, level: int = logging.INFO) -> None:
    """A line for what was done to an order or an image; for what is asked all the time, none."""
    if level == logging.INFO and isinstance(request, _UNNOTED):
        return
    order = request.spec.order if isinstance(request, messages.Prepare) else None
    order = getattr(request, "order", order)
    about = "" if order is None else f"order {int(order)}: "
    log.log(level, "%s%s", about, outcome, extra={"event": type(request).__name__})


def _session_fds(fds: Sequence[int]) -> SessionFds:
    if len(fds) != SESSION_FDS:
        raise SandboxError(f"a session needs {SESSION_FDS} descriptors")
    return SessionFds(*fds)


class Supervisor:
    """Keeps one agent running, and serves it."""

    def __init__(
        self,
        host: Host,
        uid: int,
        gid: int,
        argv: Sequence[str],
        reach: Sequence[Path],
        password: Path | None = None,
    ) -> None:
        self._host = host
        self._password = password
        needed = (*program_trees(), host.data, *reach)
        self._enter: Callable[[], None] = confined(uid, gid, needed)
        self._argv = list(argv)
        self._agent: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._changes = _changes(host)

    def run(self, *, once: bool = False) -> int:
        """Until a signal stops it, or, with `once`, until the agent ends; returns its code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        pause = RESTART_SECONDS[0]
        while True:
            started = time.monotonic()
            code = self._run_agent()
            if self._stopping or once:
                return code
            if time.monotonic() - started > SETTLED_SECONDS:
                pause = RESTART_SECONDS[0]
            why = "the agent ended with code %s; starting it again"
            log.warning(why, code, extra={"event": "agent-ended"})
            self._pause(pause)
            if code == release.OTHER:
                _begin_anew()
            pause = min(pause * 2, RESTART_SECONDS[1])

    def _run_agent(self) -> int:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs, secret(self._password) as handed:
                env = dict(os.environ) | {HELPER_FD: str(theirs.fileno())} | release.announced()
                if handed is not None:
                    env |= {PASSPHRASE_FILE: f"/proc/self/fd/{handed}"}
                # No other thread runs now, which is what the function between fork and exec needs.
                self._agent = subprocess.Popen(
                    self._argv,
                    pass_fds=(theirs.fileno(), *(() if handed is None else (handed,))),
                    env=env,
                    preexec_fn=self._enter,  # noqa: PLW1509
                )
            Service(self._host, ours, self._changes).serve()
        return self._end_agent(self._agent)

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        watched = [] if self._changes is None else self._changes.sockets
        while (left := deadline - time.monotonic()) > 0:
            if select.select(watched, [], [], left)[0] and self._changes is not None:
                self._changes.drain()
                settle(self._host)

    def _end_agent(self, agent: "subprocess.Popen[bytes]") -> int:
        """It closed its socket: wait for its end, or make it."""
        try:
            return agent.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            agent.kill()
            return agent.wait()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        if self._agent is not None:
            self._agent.terminate()


def _changes(host: Host) -> Changes | None:
    if host.report.mode is not Mode.GVISOR:
        return None
    try:
        return Changes()
    except OSError:  # no nftables in this kernel: tenants have no network
        return None


def _begin_anew() -> None:
    """Become the helper of the release that is installed now; nothing of this one is left."""
    log.info("another release is installed: beginning anew", extra={"event": "release"})
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


@contextmanager
def secret(path: Path | None) -> Iterator[int | None]:
    """A descriptor of a copy in memory of what root alone may read; None where there is no file.

    The agent opens it by its number. It is on no disk, in no environment, and on no command line.
    Raises: SandboxError: it cannot be read, or others can.
    """
    if path is None:
        yield None
        return
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise SandboxError(f"{path} can be read by others; run `chmod 600` on it")
            content = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise SandboxError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_SECRET:
        raise SandboxError(f"{path} is too long for a password")
    descriptor = os.memfd_create("password", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        yield descriptor
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    set_up("helper", form=os.environ.get(LOG_FORMAT, FORMATS[0]))
    parser = argparse.ArgumentParser(prog="deepbrain.provider.helper", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="directory of images and tenants")
    parser.add_argument("--uid", type=int, required=True, help="the agent's user")
    parser.add_argument("--gid", type=int, help="its group (default: the same number)")
    parser.add_argument(
        "--reach",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a directory of the agent that lies below one its user may not enter",
    )
    parser.add_argument(
        "--password", type=Path, help="a file of root's, whose content the agent gets in memory"
    )
    parser.add_argument("--once", action="store_true", help="end with the agent")
    parser.add_argument("agent", nargs="+", help="the agent's command line")
    options = parser.parse_args(arguments)
    gid = options.uid if options.gid is None else options.gid
    try:
        if os.geteuid() != 0 or options.uid == 0:
            raise SandboxError("the helper runs as root, and its agent as another user")
        host = open_host(options.data, (options.uid, gid))
        share(options.data / "tenants")
        supervisor = Supervisor(
            host, options.uid, gid, options.agent, options.reach, options.password
        )
        log.info("isolation %s", host.report.mode.value, extra={"event": "started"})
        code = supervisor.run(once=options.once)
        if list(mounts_below(options.data)) == [options.data / "tenants"]:
            unmount_below(options.data)  # no tenant's volume is below it
        return code
    except (SandboxError, OSError) as error:
        log.error("%s", error, extra={"event": "ended"})
        return 1


if __name__ == "__main__":
    sys.exit(main())
