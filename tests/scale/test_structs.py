import copy
import pickle
from typing import ClassVar

import pytest
from tests.scale.zoo import Account, Circle, Dot, Empty, Funds, Group, Note, Shape

from deepbrain.primitives.units import U8, U32, Balance
from deepbrain.scale import Enumeration, Struct, TaggedUnion, codec_of, fields_of

FUNDS = Funds(free=Balance(5), held=Balance(2))


def test_a_record_is_its_fields_in_order():
    assert FUNDS.encode() == b"\x05" + bytes(15) + b"\x02" + bytes(15)
    assert Funds.decode(FUNDS.encode()) == FUNDS
    assert Empty().encode() == b""


def test_arguments_are_keywords_and_complete():
    with pytest.raises(TypeError):
        Funds(Balance(1), Balance(2))
    with pytest.raises(TypeError):
        Funds(free=Balance(1))
    with pytest.raises(TypeError):
        Funds(free=Balance(1), held=Balance(1), lent=Balance(1))


def test_a_record_is_frozen_and_has_no_other_attributes():
    for change in (lambda: setattr(FUNDS, "free", 1), lambda: delattr(FUNDS, "free")):
        with pytest.raises(AttributeError, match="frozen"):
            change()
    with pytest.raises(AttributeError):
        FUNDS.other = 1
    assert not hasattr(FUNDS, "__dict__")


def test_but_changes_a_copy():
    changed = FUNDS.but(held=Balance(9))
    assert (changed.free, changed.held, FUNDS.held) == (5, 9, 2)
    with pytest.raises(TypeError, match="lent"):
        FUNDS.but(lent=Balance(1))


def test_equality_needs_the_same_class():
    class Other(Struct):
        free: Balance
        held: Balance

    assert Other(free=Balance(5), held=Balance(2)) != FUNDS
    assert Funds(free=Balance(5), held=Balance(2)) == FUNDS
    assert hash(FUNDS) == hash(Funds(free=Balance(5), held=Balance(2)))
    assert FUNDS != (5, 2)


def test_a_record_shows_its_fields():
    assert repr(FUNDS) == "Funds(free=5, held=2)"
    assert repr(Empty()) == "Empty()"


@pytest.mark.parametrize("value", [FUNDS, Empty(), Group(name="x", members=(Dot(),))])
def test_records_survive_copying_and_pickling(value):
    assert pickle.loads(pickle.dumps(value)) == value
    assert copy.deepcopy(value) == value
    assert copy.copy(value) == value


def test_fields_know_their_name_on_the_wire():
    assert [(f.name, f.wire_name) for f in fields_of(Note)][:2] == [
        ("from_", "from"),
        ("title", "title"),
    ]
    with pytest.raises(TypeError):
        fields_of(int)


def test_defaults_class_variables_methods_and_inheritance():
    class Parent(Struct):
        limit: ClassVar[int] = 3
        a: U8
        b: U8 = U8(2)

    class Child(Parent):
        c: U8 = U8(7)

        def total(self) -> int:
            return self.a + self.b + self.c

    child = Child(a=U8(1))
    assert (child.encode(), child.total(), child.limit) == (b"\x01\x02\x07", 10, 3)
    assert Child.decode(b"\x01\x02\x03") == Child(a=U8(1), c=U8(3))


def test_a_field_may_be_called_like_anything_in_the_written_methods():
    class Odd(Struct):
        a: U8
        set_a: U8
        default_a: U8
        rebuild: U8 = U8(4)
        other: U8 = U8(5)
        cls_name: U8 = U8(6)
        value: U8 = U8(7)
        data: U8 = U8(8)
        at: U8 = U8(9)
        index: U8 = U8(10)

    odd = Odd(a=U8(1), set_a=U8(2), default_a=U8(3))
    assert odd.encode() == bytes(range(1, 11))
    assert Odd.decode(odd.encode()) == odd == copy.copy(odd)


def test_a_class_may_bring_its_own_repr():
    class Quiet(Struct):
        a: U8

        def __repr__(self) -> str:
            return "quiet"

    assert repr(Quiet(a=U8(1))) == "quiet"


@pytest.mark.parametrize("name", ["encode", "decode", "but"])
def test_a_field_may_not_hide_a_method(name):
    with pytest.raises(TypeError, match=name):
        type(Struct)("Bad", (Struct,), {"__annotations__": {name: U8}})


def test_a_record_may_hold_itself():
    class Tree(Struct):
        value: U8
        branches: "tuple[Tree, ...]" = ()

    tree = Tree(value=U8(1), branches=(Tree(value=U8(2)), Tree(value=U8(3))))
    assert Tree.decode(tree.encode()) == tree
    assert codec_of(Tree).max_encoded_len is None


def test_records_may_hold_one_another():
    assert Account.__field_names__ == ("nonce", "active", "id", "funds", "share", "tag")


def test_a_variant_is_its_index_and_then_its_fields():
    codec = codec_of(Shape)
    assert codec.encode(Circle(radius=U32(1))) == b"\x04\x04"
    assert codec.decode(b"\x00") == Dot()
    assert Circle(radius=U32(1)).encode() == b"\x04"


def test_match_tells_variants_apart():
    def size(shape: Shape) -> int:
        match shape:
            case Dot():
                return 0
            case Circle(radius=radius):
                return radius
            case Group(members=members):
                return sum(size(member) for member in members)
        raise AssertionError

    assert size(Group(members=(Dot(), Circle(radius=U32(3)), Circle(radius=U32(4))))) == 7


def test_a_union_is_not_a_value_itself():
    with pytest.raises(TypeError, match="variants"):
        Shape()


def test_indices_are_explicit_and_unique():
    class Choice(TaggedUnion):
        pass

    class First(Choice, index=1):
        pass

    with pytest.raises(TypeError, match="needs `index=`"):

        class Unnumbered(Choice):
            pass

    with pytest.raises(TypeError, match="taken by First"):

        class Same(Choice, index=1):
            pass

    with pytest.raises(TypeError, match="0 and 255"):

        class Large(Choice, index=256):
            pass

    assert First.__wire_index__ == 1


def test_a_union_in_use_takes_no_more_variants():
    class Choice(TaggedUnion):
        pass

    class First(Choice, index=0):
        pass

    codec_of(Choice)
    with pytest.raises(TypeError, match="too late"):

        class Second(Choice, index=1):
            pass

    assert codec_of(Choice).decode(b"\0") == First()


def test_a_union_has_variants_and_no_fields():
    class Nothing(TaggedUnion):
        pass

    with pytest.raises(TypeError, match="no variants"):
        codec_of(Nothing)
    with pytest.raises(TypeError, match="belong to the variants"):

        class Fields(TaggedUnion):
            a: U8


def test_enumerations_must_be_indices():
    class Wrong(Enumeration):
        A = 256

    with pytest.raises(TypeError, match="wire index"):
        codec_of(Wrong)
