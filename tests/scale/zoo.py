"""Types of every shape the codec knows, and strategies that make their values."""

from typing import Annotated, Any

from hypothesis import strategies as st

from deepbrain.primitives.ids import AccountId, FixedBytes, Hash, OrderId
from deepbrain.primitives.units import U8, U16, U32, U64, U128, Balance, Nonce, Permill, Seconds
from deepbrain.scale import Compact, Enumeration, MaxLen, Struct, TaggedUnion


class Digest(FixedBytes, size=4):
    __slots__ = ()


class Color(Enumeration):
    """What a lamp shows."""

    RED = 0
    DEEP_BLUE = 7


class Funds(Struct):
    free: Balance
    held: Balance


class Account(Struct):
    """An account with a nested record and a mixed run of fixed fields."""

    nonce: Nonce
    active: bool
    id: AccountId
    funds: Funds
    share: Permill
    tag: Digest


class Note(Struct):
    from_: Annotated[bytes, MaxLen(8)]
    title: Annotated[str, MaxLen(12)]
    price: Compact[Balance]
    color: Color | None
    seen: tuple[U16, ...]


class Empty(Struct):
    """Nothing."""


class Shape(TaggedUnion):
    """A recursive union."""


class Dot(Shape, index=0):
    """A point."""


class Circle(Shape, index=4):
    radius: Compact[U32]


class Group(Shape, index=255):
    name: Annotated[str, MaxLen(4)] = ""
    members: "tuple[Shape, ...]" = ()
    frame: "Shape | None" = None


def unsigned(cls: Any) -> st.SearchStrategy[Any]:
    most = getattr(cls, "ONE", cls.MAX)
    edges = sorted({n for n in (0, 1, 63, 64, 16383, 16384, 2**30 - 1, 2**30, most) if n <= most})
    return (st.sampled_from(edges) | st.integers(0, most)).map(cls)


def fixed(cls: Any) -> st.SearchStrategy[Any]:
    return st.binary(min_size=cls.SIZE, max_size=cls.SIZE).map(cls)


funds = st.builds(Funds, free=unsigned(Balance), held=unsigned(Balance))
accounts = st.builds(
    Account,
    nonce=unsigned(Nonce),
    active=st.booleans(),
    id=fixed(AccountId),
    funds=funds,
    share=unsigned(Permill),
    tag=fixed(Digest),
)
notes = st.builds(
    Note,
    from_=st.binary(max_size=8),
    title=st.text(max_size=3),
    price=unsigned(Balance),
    color=st.none() | st.sampled_from(Color),
    seen=st.lists(unsigned(U16), max_size=5).map(tuple),
)
shapes = st.recursive(
    st.just(Dot()) | st.builds(Circle, radius=unsigned(U32)),
    lambda inner: st.builds(
        Group,
        name=st.text(max_size=1),
        members=st.lists(inner, max_size=3).map(tuple),
        frame=st.none() | inner,
    ),
    max_leaves=8,
)

ZOO: list[tuple[Any, st.SearchStrategy[Any]]] = [
    *((cls, unsigned(cls)) for cls in (U8, U16, U32, U64, U128, OrderId, Permill)),
    *((Compact[cls], unsigned(cls)) for cls in (U8, U16, U32, U64, U128, Permill)),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=80)),
    (str, st.text(max_size=80)),
    (Hash, fixed(Hash)),
    (Color, st.sampled_from(Color)),
    (tuple[()], st.just(())),
    (tuple[U8, bool, str], st.tuples(unsigned(U8), st.booleans(), st.text(max_size=3))),
    (U8 | None, st.none() | unsigned(U8)),
    (tuple[Hash, ...], st.lists(fixed(Hash), max_size=3).map(tuple)),
    (dict[U32, str], st.dictionaries(unsigned(U32), st.text(max_size=3), max_size=4)),
    (
        Annotated[dict[Digest, Seconds], MaxLen(4)],
        st.dictionaries(fixed(Digest), unsigned(Seconds), max_size=4),
    ),
    (Account, accounts),
    (Note, notes),
    (Empty, st.just(Empty())),
    (Shape, shapes),
    (Circle, st.builds(Circle, radius=unsigned(U32))),
]
