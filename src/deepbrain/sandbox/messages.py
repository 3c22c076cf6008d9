"""What the agent may ask of the root helper: a closed list, in SCALE, one message a packet.

Descriptors travel beside `Exec` and `Collect` (SCM_RIGHTS), in the order of `SessionFds`. A message is
untrusted on arrival: the agent talks to strangers and may have been taken over.
"""

from typing import Annotated, Final

from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import U8, U32, U64
from deepbrain.sandbox import sandbox
from deepbrain.sandbox.sandbox import (
    ExitReason,
    ImageError,
    Mode,
    ModeReport,
    NoSuchTenant,
    Refusal,
    SandboxError,
    TenantSpec,
    User,
)
from deepbrain.scale import Enumeration, MaxLen, Struct, TaggedUnion, codec_of

MAX_PACKET: Final = 160 * 1024
"""Fits the socket buffer every Linux gives; a manifest is at most 64 KiB."""

Word = Annotated[str, MaxLen(128 * 1024)]
Words = Annotated[tuple[Word, ...], MaxLen(4096)]
Pairs = Annotated[tuple[tuple[Word, Word], ...], MaxLen(1024)]
Sentence = Annotated[str, MaxLen(2048)]


class Digest(FixedBytes, size=32):
    __slots__ = ()


class Network(Enumeration):
    NONE = 0
    INTERNET = 1


class UserSpec(Struct):
    """`User` on the wire."""

    uid: U32
    gid: U32
    groups: Annotated[tuple[U32, ...], MaxLen(128)]
    home: Sentence


class Spec(Struct):
    """`TenantSpec` on the wire; the mode is the helper's own."""

    order: U64
    image: Digest
    argv: Words
    env: Pairs
    workdir: Word
    user: UserSpec | None
    cpu_milli: U32
    memory_bytes: U64
    disk_bytes: U64
    pids: U32
    log_bytes: U64
    network: Network
    bandwidth_mbit: U32
    end_at: U64 | None
    devices: Annotated[tuple[Annotated[str, MaxLen(256)], ...], MaxLen(64)]


class Request(TaggedUnion):
    """What may be asked; nothing else is ever done as root."""


class AskReport(Request, index=0):
    pass


class InstallImage(Request, index=1):
    digest: Digest


class RemoveImage(Request, index=2):
    digest: Digest


class Prepare(Request, index=3):
    spec: Spec


class Start(Request, index=4):
    order: U64


class SetEnd(Request, index=5):
    order: U64
    end_at: U64
    stopped: bool
    """Asked for, rather than the end of the term."""


class Signal(Request, index=6):
    order: U64
    number: U8


class Exec(Request, index=7):
    order: U64
    argv: Words
    env: Pairs
    cwd: Word
    tty: bool


class Collect(Request, index=8):
    order: U64
    arguments: Words


class Destroy(Request, index=9):
    order: U64


class Release(Request, index=10):
    order: U64


class Kind(Enumeration):
    """Which error an answer stands for."""

    SANDBOX = 0
    NO_SUCH_TENANT = 1
    IMAGE = 2


class RefusedMode(Struct):
    mode: Sentence
    reason: Sentence


class Answer(TaggedUnion):
    pass


class Done(Answer, index=0):
    pass


class Failed(Answer, index=1):
    kind: Kind
    text: Sentence


class Report(Answer, index=2):
    mode: Sentence
    refused: Annotated[tuple[RefusedMode, ...], MaxLen(8)]
    kernel: Sentence
    network: Network
    no_network: Sentence


class RequestPacket(Struct):
    number: U32
    request: Request


class AnswerPacket(Struct):
    number: U32
    answer: Answer


REQUESTS: Final = codec_of(RequestPacket)
ANSWERS: Final = codec_of(AnswerPacket)


def spec_to_wire(spec: TenantSpec) -> Spec:
    return Spec(
        order=U64(spec.order),
        image=Digest.from_hex(spec.image),
        argv=spec.argv,
        env=spec.env,
        workdir=spec.workdir,
        user=None if spec.user is None else _user_to_wire(spec.user),
        cpu_milli=U32(spec.cpu_milli),
        memory_bytes=U64(spec.memory_bytes),
        disk_bytes=U64(spec.disk_bytes),
        pids=U32(spec.pids),
        log_bytes=U64(spec.log_bytes),
        network=Network[spec.network.name],
        bandwidth_mbit=U32(spec.bandwidth_mbit),
        end_at=None if spec.end_at is None else U64(max(spec.end_at, 0)),
        devices=spec.devices,
    )


def spec_from_wire(spec: Spec, mode: Mode) -> TenantSpec:
    return TenantSpec(
        order=int(spec.order),
        image=spec.image.hex(),
        argv=spec.argv,
        env=spec.env,
        workdir=spec.workdir,
        user=None if spec.user is None else _user_from_wire(spec.user),
        cpu_milli=int(spec.cpu_milli),
        memory_bytes=int(spec.memory_bytes),
        disk_bytes=int(spec.disk_bytes),
        pids=int(spec.pids),
        log_bytes=int(spec.log_bytes),
        network=sandbox.Network[spec.network.name],
        bandwidth_mbit=int(spec.bandwidth_mbit),
        end_at=None if spec.end_at is None else int(spec.end_at),
        devices=spec.devices,
        mode=mode,
    )


def _user_to_wire(user: User) -> UserSpec:
    groups = tuple(map(U32, user.groups))
    return UserSpec(uid=U32(user.uid), gid=U32(user.gid), groups=groups, home=user.home)


def _user_from_wire(user: UserSpec) -> User:
    return User(int(user.uid), int(user.gid), tuple(map(int, user.groups)), user.home)


def report_to_wire(report: ModeReport) -> Report:
    refused = tuple(
        RefusedMode(mode=refusal.mode.value, reason=refusal.reason[:500])
        for refusal in report.refused
    )
    return Report(
        mode=report.mode.value,
        refused=refused,
        kernel=report.kernel[:200],
        network=Network[report.network.name],
        no_network=report.no_network[:500],
    )


def report_from_wire(report: Report) -> ModeReport:
    refused = tuple(Refusal(Mode(refusal.mode), refusal.reason) for refusal in report.refused)
    network = sandbox.Network[report.network.name]
    return ModeReport(Mode(report.mode), refused, report.kernel, network, report.no_network)


def failure_to_wire(error: SandboxError) -> Failed:
    kind = Kind.SANDBOX
    if isinstance(error, NoSuchTenant):
        kind = Kind.NO_SUCH_TENANT
    elif isinstance(error, ImageError):
        kind = Kind.IMAGE
    return Failed(kind=kind, text=str(error)[:500])


def failure_from_wire(failed: Failed) -> SandboxError:
    classes = {Kind.NO_SUCH_TENANT: NoSuchTenant, Kind.IMAGE: ImageError}
    return classes.get(failed.kind, SandboxError)(failed.text)


def end_reason(request: SetEnd) -> ExitReason:
    return ExitReason.KILLED if request.stopped else ExitReason.TERM
