"""Storage items: the annotation of a pallet's attribute says what is stored, and how it is keyed.

    now: Value[Moment]                                  always there; zero until written
    upgrade: Maybe[Upgrade]                             there or not
    next_id: Counter[OrderId]                           a number that is counted with
    orders: Map[OrderId, Order]                         one value a key
    orders_of: DoubleMap[AccountId, OrderId, Unit]      found by both keys, or listed by the first

On the class (`Rent.orders`) an item knows its keys and how to decode its values: that is what clients
use. On a pallet in a block (`self.orders`) it also reads and writes.

Keys are Substrate's: twox128(pallet) ‖ twox128(item) ‖ hashed keys. The hasher is Blake2_128Concat
unless the key's hint says otherwise: `Map[Annotated[OrderId, TWOX_64_CONCAT], Order]`. Keys that a
stranger cannot choose may use the cheaper Twox64Concat; keys that are hashes may be bare (Identity).
"""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated, Any, ClassVar, Final, Generic, Self, TypeVar, get_args, get_origin

from deepbrain.frame.errors import PalletError
from deepbrain.frame.journal import UNREAD, Journal
from deepbrain.primitives.hashing import blake2_128, twox_64, twox_128
from deepbrain.primitives.ids import FixedBytes
from deepbrain.primitives.units import Unsigned
from deepbrain.scale import Codec, codec_of

T = TypeVar("T")
N = TypeVar("N", bound=Unsigned)
K = TypeVar("K")
A = TypeVar("A")
B = TypeVar("B")
V = TypeVar("V")

Unit = tuple[()]
"""The value of an item of which only the keys matter; written `()`."""


class Hasher(Enum):
    """How a key enters its storage key; values are the wire indices of the metadata."""

    BLAKE2_128_CONCAT = 2
    TWOX_64_CONCAT = 5
    IDENTITY = 6

    @property
    def width(self) -> int:
        """Bytes of hash before the key itself."""
        return _WIDTH[self]

    def apply(self, encoded: bytes) -> bytes:
        """Hash and key."""
        match self:
            case Hasher.BLAKE2_128_CONCAT:
                return blake2_128(encoded) + encoded
            case Hasher.TWOX_64_CONCAT:
                return twox_64(encoded) + encoded
            case Hasher.IDENTITY:
                return encoded


_WIDTH: Final = {Hasher.BLAKE2_128_CONCAT: 16, Hasher.TWOX_64_CONCAT: 8, Hasher.IDENTITY: 0}

TWOX_64_CONCAT: Final = Hasher.TWOX_64_CONCAT
IDENTITY: Final = Hasher.IDENTITY


class StorageKey:
    """One key of a map: its hint, codec and hasher."""

    __slots__ = ("codec", "encode", "hasher", "hint")

    def __init__(self, hint: Any) -> None:
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        self.hint = get_args(hint)[0] if marks and isinstance(marks[0], Hasher) else hint
        self.hasher = marks[0] if marks and isinstance(marks[0], Hasher) else _DEFAULT_HASHER
        self.codec: Codec[Any] = codec_of(self.hint)
        is_id = isinstance(self.hint, type) and issubclass(self.hint, FixedBytes)
        is_hashed_id = is_id and self.hasher is Hasher.BLAKE2_128_CONCAT
        self.encode: Callable[[Any], bytes] = _hashed_bytes if is_hashed_id else self._encode
        """Hash and key, as they stand in a storage key."""

    def _encode(self, key: Any) -> bytes:
        return self.hasher.apply(self.codec.encode(key))

    def decode_at(self, storage_key: bytes, at: int) -> tuple[Any, int]:
        """The key at `at`, and the place behind it. Raises: DecodeError."""
        return self.codec.decode_at(storage_key, at + self.hasher.width)


def _hashed_bytes(key: bytes) -> bytes:
    """What most keys are: an id of fixed length, which is its own encoding."""
    return blake2_128(key) + key


_DEFAULT_HASHER: Final = Hasher.BLAKE2_128_CONCAT


class Item(Generic[T]):
    """What every storage item is. `T` is the type of its values."""

    KEYS: ClassVar[int] = 0
    """How many of the arguments of the annotation are keys."""
    OPTIONAL: ClassVar[bool] = False
    """Whether a value may be absent, so that reading gives None."""

    def __init__(self, *, default: T | None = None, key: bytes | None = None) -> None:
        """`key` is a well-known key in place of the usual one; such an item is not in the metadata."""
        self.default = default
        self.well_known_key = key
        self.values: dict[Any, Any] = {}

    def define(self, pallet: str, name: str, hints: tuple[Any, ...]) -> None:
        """Take the place given by the pallet's annotation; called once, at class creation."""
        self.pallet, self.name = pallet, name
        self.keys_of = tuple(StorageKey(hint) for hint in hints[: self.KEYS])
        self.hint = hints[self.KEYS]
        self.codec: Codec[T] = codec_of(self.hint)
        usual = twox_128(pallet.encode()) + twox_128(name.encode())
        self.prefix = usual if self.well_known_key is None else self.well_known_key
        """The first 32 bytes of every storage key of the item."""
        if self.default is None and not self.OPTIONAL:
            self.default = zero_of(self.hint)

    def bind(self, journal: Journal) -> Self:
        """The item in a block."""
        bound = object.__new__(type(self))
        bound.__dict__ = self.__dict__ | {
            "values": {},
            "storage_keys": {},
            "written": {},
            "journal": journal,
        }
        journal.items.append(bound)
        return bound

    # What clients use, on the class.

    def decode(self, data: bytes | None) -> T | None:
        """What a stored value means; an absent one is the default, or None. Raises: DecodeError."""
        return self.default if data is None else self.codec.decode(data)

    def key_of(self, *keys: Any) -> bytes:
        """The storage key. With fewer keys than the item has: the prefix of those below it."""
        return self.prefix + b"".join(
            part.encode(key) for part, key in zip(self.keys_of, keys, strict=False)
        )

    def keys_in(self, storage_key: bytes) -> tuple[Any, ...]:
        """The keys in a storage key of this item. Raises: DecodeError."""
        at, keys = len(self.prefix), []
        for part in self.keys_of:
            key, at = part.decode_at(storage_key, at)
            keys.append(key)
        return tuple(keys)

    # What pallets use, in a block.

    journal: Journal
    storage_keys: dict[Any, bytes]
    written: dict[Any, None]

    def _storage_key(self, key: Any) -> bytes:
        known = self.storage_keys.get(key)
        if known is None:
            known = self.storage_keys[key] = self.key_of(*self._parts(key))
        return known

    def _parts(self, key: Any) -> tuple[Any, ...]:
        """The keys as `key_of` takes them."""
        return (key,)

    def _read(self, key: Any) -> T | None:
        try:
            return self.values[key]  # type: ignore[no-any-return]
        except KeyError:
            data = self.journal.reader.get(self._storage_key(key))
            value = self.values[key] = None if data is None else self.codec.decode(data)
            return value

    def _write(self, key: Any, value: T | None) -> None:
        values = self.values
        self.journal.displaced.append((self, key, values.get(key, UNREAD)))
        values[key] = value
        self.written[key] = None

    def forget(self) -> None:
        """Let go of every value; the item must not be used again."""
        self.values, self.storage_keys, self.written = {}, {}, {}

    def write_changes(self, out: dict[bytes, bytes | None]) -> None:
        """Add every written key with its encoded value; None deletes."""
        encode = _nothing if self.codec.max_encoded_len == 0 else self.codec.encode
        for key in self.written:
            value = self.values.get(key, UNREAD)
            if value is not UNREAD:
                out[self._storage_key(key)] = None if value is None else encode(value)


class Value(Item[T]):
    """A single value that is always there: its default until it is written."""

    def get(self) -> T:
        """The value."""
        value = self._read(())
        return self.default if value is None else value  # type: ignore[return-value]

    def put(self, value: T) -> None:
        """Replace the value."""
        self._write((), value)

    def reset(self) -> None:
        """Go back to the default."""
        self._write((), None)

    def _parts(self, key: Any) -> tuple[Any, ...]:
        return ()


class Maybe(Item[T]):
    """A single value that is there or not."""

    OPTIONAL = True

    def get(self) -> T | None:
        """The value, or None."""
        return self._read(())

    def expect(self, error: type[PalletError]) -> T:
        """The value. Raises: `error`: there is none."""
        value = self._read(())
        if value is None:
            raise error
        return value

    def put(self, value: T) -> None:
        """Replace the value."""
        self._write((), value)

    def clear(self) -> None:
        """Take the value away."""
        self._write((), None)

    def _parts(self, key: Any) -> tuple[Any, ...]:
        return ()


class Counter(Value[N]):
    """A number, zero at first."""

    def add(self, amount: int) -> N:
        """Count up; gives the new number. Raises: ArithmeticFailure."""
        number = self.get() + amount
        self.put(number)
        return number

    def sub(self, amount: int) -> N:
        """Count down; gives the new number. Raises: ArithmeticFailure."""
        number = self.get() - amount
        self.put(number)
        return number

    def take(self) -> N:
        """The number as it stands, then one more. Raises: ArithmeticFailure."""
        number = self.get()
        self.put(number + 1)
        return number


class Map(Item[V], Generic[K, V]):
    """One value a key, or none. A map with a `default=` has one for every key: see `at`."""

    KEYS = 1
    OPTIONAL = True

    def get(self, key: K) -> V | None:
        """The value, or None."""
        return self._read(key)

    def _storage_key(self, key: Any) -> bytes:
        known = self.storage_keys.get(key)
        if known is None:
            known = self.storage_keys[key] = self.prefix + self.keys_of[0].encode(key)
        return known

    def at(self, key: K) -> V:
        """The value, or the map's default."""
        value = self.values.get(key, UNREAD)
        if value is UNREAD:
            value = self._read(key)
        return self.default if value is None else value  # type: ignore[return-value]

    def expect(self, key: K, error: type[PalletError]) -> V:
        """The value. Raises: `error`: there is none."""
        value = self._read(key)
        if value is None:
            raise error
        return value

    def __contains__(self, key: K) -> bool:
        return self._read(key) is not None

    def __setitem__(self, key: K, value: V) -> None:
        self._write(key, value)

    def __delitem__(self, key: K) -> None:
        self._write(key, None)

    def mutate(self, key: K, change: Callable[[V], V], absent: type[PalletError]) -> V:
        """Replace a value by what `change` makes of it. Raises: `absent`: there is none."""
        value = change(self.expect(key, absent))
        self._write(key, value)
        return value

    def items(self) -> Iterator[tuple[K, V]]:
        """Every entry in key order. Cost: the whole item; for invariants, never for calls."""
        return self._walk(self.prefix)

    def keys(self) -> Iterator[K]:
        """Every key in key order. Cost: as `items`."""
        return (key for key, _ in self.items())

    def _walk(self, prefix: bytes) -> Iterator[tuple[K, V]]:
        found: dict[bytes, tuple[Any, Any]] = {}
        for storage_key, data in self.journal.reader.iterate(prefix):
            found[storage_key] = (self._key_in(storage_key), self.codec.decode(data))
        for key in self.written:
            storage_key = self._storage_key(key)
            value = self.values.get(key, UNREAD)
            if value is UNREAD or not storage_key.startswith(prefix):
                continue
            if value is None:
                found.pop(storage_key, None)
            else:
                found[storage_key] = (key, value)
        for storage_key in sorted(found):
            yield found[storage_key]

    def _key_in(self, storage_key: bytes) -> Any:
        return self.keys_in(storage_key)[0]


class DoubleMap(Map[tuple[A, B], V], Generic[A, B, V]):
    """One value a pair of keys: `self.orders_of[account, order]`."""

    KEYS = 2

    def under(self, first: A) -> Iterator[tuple[B, V]]:
        """The entries with this first key, in key order. Cost: their number."""
        return ((key[1], value) for key, value in self._walk(self.key_of(first)))

    def _parts(self, key: Any) -> tuple[Any, ...]:
        return tuple(key)

    def bind(self, journal: Journal) -> Self:
        """The item in a block."""
        bound = super().bind(journal)
        bound.stems = {}
        return bound

    stems: dict[Any, bytes]
    """Storage keys up to the second key: many pairs share their first."""

    def _storage_key(self, key: Any) -> bytes:
        known = self.storage_keys.get(key)
        if known is None:
            first, second = key
            stem = self.stems.get(first)
            if stem is None:
                stem = self.stems[first] = self.key_of(first)
            known = self.storage_keys[key] = stem + self.keys_of[1].encode(second)
        return known

    def _key_in(self, storage_key: bytes) -> Any:
        return self.keys_in(storage_key)


def _nothing(value: Any) -> bytes:
    """The encoding of what only its key says."""
    return b""


def zero_of(hint: Any) -> Any:
    """What a value of this type is before anything is written.

    Raises: TypeError: the type has no natural zero: the item needs `default=`.
    """
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if isinstance(bare, type):
        if issubclass(bare, Unsigned) or bare in (bytes, str, bool):
            return bare()
        if issubclass(bare, FixedBytes):
            return bare(bytes(bare.SIZE))
    if get_origin(bare) is tuple and get_args(bare)[1:] == (...,):
        return ()
    raise TypeError(f"{hint!r} has no natural zero: give the storage item a default")
