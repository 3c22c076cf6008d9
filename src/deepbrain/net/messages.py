"""What a renter and a machine say to each other.

One stream carries one request and its answer, each in a frame: `u32` little-endian length, then the
SCALE encoding of a `Request` or a `Reply`. Bulk bytes follow raw where the message says so; a stream
that *finishes* is complete, one that is *reset* failed on the way.

    Hello                  → Greeting                              (before any proof)
    Access(proof)          → Granted                               (on the same first stream)
    PutManifest(manifest)  → Wanted(blobs)
    PutBlob(sha256, size)  → Have(offset), ← raw from offset, → Done
    PutCredentials(…)      → Done                                  (before the manifest, if at all)
    Status(follow)         → State, State, …
    Logs(offset, follow)   → LogsFrom(offset), raw log records
    Exec(argv, …)          → Done, then records both ways (`records.py`)
    CopyOut(paths)         → Done, a raw tar
    CopyIn(dest)           → Done, ← a raw tar, → Done
    Stop                   → Done
    Begin(name)            a request that outlives this connection follows, in records (`lasting.py`)
    Again(name, received)  → Resumed(received), and its records go on
    Stripe(name)           → Done; a request for bulk follows, in pieces (`striped.py`)
    Lane(name)             → Done; pieces of the same over one connection more

Instead of any reply there may be `Refused`. Indices are append-only.
"""

from enum import Enum
from typing import Annotated, Final

from deepbrain.net.errors import RefusalCode
from deepbrain.net.transport import TransportKey
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import FixedBytes, Hash, MachineId, OrderId
from deepbrain.primitives.units import U8, U16, U32, U64, BlockNumber
from deepbrain.scale import MaxLen, Struct, TaggedUnion

MAX_FRAME: Final = 1 << 16
"""Bytes of one frame's body once the connection is authenticated."""

MAX_FRAME_UNPROVEN: Final = 1 << 12
"""Bytes that somebody without a proof may send, in all."""

MAX_MANIFEST: Final = 48 << 10
"""Bytes of an encoded manifest."""

PROTOCOL_VERSION: Final = 2

Text = Annotated[str, MaxLen(4096)]
Sentence = Annotated[str, MaxLen(1024)]
Name = Annotated[str, MaxLen(128)]
Secret = Annotated[str, MaxLen(16 << 10)]
Argv = Annotated[tuple[Text, ...], MaxLen(256)]
Env = Annotated[tuple[tuple[Text, Text], ...], MaxLen(256)]
Paths = Annotated[tuple[Text, ...], MaxLen(64)]


class Digest(FixedBytes, size=32):
    """A SHA-256 digest: of an image's tar or manifest, or of a workspace's tar."""

    __slots__ = ()


class Salt(FixedBytes, size=32):
    """Random bytes that keep a public manifest hash from being guessed."""

    __slots__ = ()


class StreamName(FixedBytes, size=16):
    """Random bytes that only both ends of a lasting or a striped stream know."""

    __slots__ = ()


class Workspace(Struct):
    """The tar of the renter's files, to be unpacked into `/workspace` before the start."""

    sha256: Digest
    size: U64
    files: U32


class Network(Enum):
    """What a job can reach, by wire index. Append only."""

    NONE = 0
    INTERNET = 1
    """Public addresses; no neighbour, no machine of the provider's."""


class Manifest(Struct):
    """What to run. Its hash is on the chain; itself it goes to the machine alone."""

    version: U8
    salt: Salt
    image: Digest
    """Of the tar that the renter sends; with `pull`, of the image's manifest or index."""
    argv: Argv
    env: Env
    workdir: Text
    pull: Text
    """`registry/repository` the machine fetches the image from; empty: it has it, or is sent it."""
    workspace: Workspace | None
    out: Paths
    """Patterns of the files that are results; none: every file that is new or changed."""
    tty: bool
    network: Network

    def hash(self) -> Hash:
        """What `rent.place` is given."""
        return blake2_256(self.encode())


class Scope(Enum):
    """What an access proof allows, as bits of `AccessProof.scopes`."""

    OBSERVE = 1
    """Status and logs."""
    DEPLOY = 2
    """Manifest, blobs and stop."""
    SHELL = 4
    """Exec."""
    FILES = 8
    """Copy in and out."""
    LANE = 16
    """Nothing but to carry pieces of a stream that was begun with one of the above."""


ALL_SCOPES: Final = U8(15)


class AccessProof(Struct):
    """The renter's word that whoever holds `session` may use `order`, until `last_block`."""

    genesis: Hash
    machine: MachineId
    order: OrderId
    session: TransportKey
    scopes: U8
    last_block: BlockNumber


class Stage(Enum):
    """Where an order is on its machine, by wire index. Append only."""

    AWAITING_MANIFEST = 0
    UPLOADING = 1
    """The manifest is here; the image or the workspace is not."""
    PULLING = 2
    """Image and workspace are being unpacked."""
    STARTING = 3
    RUNNING = 4
    EXITED = 5
    """The job ended; log and files are kept for a while."""
    FAILED = 6
    """It never ran; `detail` says why."""
    DESTROYED = 7


class Ending(Enum):
    """Why a job ended, by wire index. Append only."""

    EXITED = 0
    MEMORY = 1
    KILLED = 2
    TERM = 3
    ERROR = 4
    LOST = 5
    """The machine lost the job: its fault."""


class JobExit(Struct):
    code: U8
    """The job's exit code; 128 + signal where one killed it."""
    ending: Ending
    started_ms: U64
    ended_ms: U64


class OrderStatus(Struct):
    order: OrderId
    stage: Stage
    detail: Sentence
    """One sentence where there is something to say, else empty."""
    done: U64
    total: U64
    """Bytes of the upload or unpacking under way; 0 of 0 when there is none."""
    exit: JobExit | None
    log_start: U64
    log_end: U64
    """Logical offsets of the oldest log byte kept, and behind the newest."""
    mode: Name
    """Isolation the job runs in, such as `gvisor`."""
    kept_seconds: U64 | None
    """How much longer log and files are kept; known once the order ended."""


class ImageOffer(Struct):
    """An image that is on the machine already."""

    name: Name
    digest: Digest
    size: U64


class Request(TaggedUnion):
    """What a renter may ask."""


class Hello(Request, index=0):
    """Who are you? Needs no proof."""


class Access(Request, index=1):
    """Make this connection the order's. Only on the first stream."""

    proof: AccessProof
    scheme: U8
    """As Substrate's `MultiSignature` counts: 0 ed25519, 1 sr25519, 2 ecdsa."""
    signature: Annotated[bytes, MaxLen(65)]


class PutManifest(Request, index=2):
    manifest: Annotated[bytes, MaxLen(MAX_MANIFEST)]


class PutBlob(Request, index=3):
    """The image's tar or the workspace's, named by what the manifest says of it."""

    sha256: Digest
    size: U64


class Status(Request, index=4):
    follow: bool
    """Whether to send each change until the order is gone."""


class Logs(Request, index=5):
    offset: U64
    follow: bool
    """Whether to wait for more until the job has ended."""


class Exec(Request, index=6):
    argv: Argv
    env: Env
    cwd: Text
    tty: bool
    cols: U16
    rows: U16


class CopyOut(Request, index=7):
    paths: Paths
    """Relative to `/workspace`; none: the results the manifest names."""
    changed_only: bool
    """Whether to leave out what was there at the start."""


class CopyIn(Request, index=8):
    dest: Text


class Stop(Request, index=9):
    """SIGTERM to the job, SIGKILL 30 s later."""


class PutCredentials(Request, index=10):
    """Who pulls the image. The machine forgets them with the pull, and keeps them in memory only."""

    username: Name
    secret: Secret

    def __repr__(self) -> str:
        return "PutCredentials(…)"


class Begin(Request, index=16):
    """What follows on this stream outlives its connection; as what it is asked for again."""

    name: StreamName


class Again(Request, index=17):
    """Go on with a stream whose connection broke."""

    name: StreamName
    received: U64
    """Bytes (and the end) of it that have come here: what need not be sent again."""


class Stripe(Request, index=18):
    """What follows on this stream may travel over several connections; this one is its first lane."""

    name: StreamName


class Lane(Request, index=19):
    """This stream is one lane more of the stream of that name."""

    name: StreamName


class Reply(TaggedUnion):
    """What a machine answers."""


class Refusal(Reply, index=0):
    code: RefusalCode
    reason: Sentence


class Greeting(Reply, index=1):
    version: Name
    """Of the agent's software."""
    genesis: Hash
    machine: MachineId
    block: BlockNumber
    """The newest final block the machine knows; 0 when it knows none."""
    mode: Name
    network: Name
    """What jobs can reach here: `none` or `internet`."""
    images: Annotated[tuple[ImageOffer, ...], MaxLen(64)]


class Granted(Reply, index=2):
    scopes: U8
    last_block: BlockNumber


class Wanted(Reply, index=3):
    """The manifest is right; these blobs are still needed."""

    image: bool
    workspace: bool


class Have(Reply, index=4):
    """Send from here: so much of it has arrived before."""

    offset: U64


class Done(Reply, index=5):
    """It is done; or, where bulk follows, it begins."""


class State(Reply, index=6):
    status: OrderStatus


class LogsFrom(Reply, index=7):
    """Log bytes follow from here; above the offset asked for where older ones were dropped."""

    offset: U64


class Resumed(Reply, index=16):
    """As `Again`, from the machine."""

    received: U64
