"""Values as plain JSON, and back."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.scale.test_every_type import EVENTS, HINTS, is_calls, struct_of, values

from deepbrain.frame.events import EventRecords
from deepbrain.primitives.ids import AccountId
from deepbrain.primitives.units import U8, U64
from deepbrain.scale.plain import NotPlain, from_plain, to_plain

PLAIN = {w: hint for w, hint in HINTS.items() if not is_calls(hint) and hint is not EventRecords}


@pytest.mark.parametrize("where", PLAIN)
@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data(), texts=st.booleans())
def test_what_is_plain_comes_back(where, data, texts):
    hint = PLAIN[where]
    value = data.draw(values(hint))
    through = json.loads(json.dumps(to_plain(value, texts=texts)))
    assert from_plain(hint, through, where, texts=texts) == value


@pytest.mark.parametrize("event", [event for _, event in EVENTS], ids=lambda e: e.__qualname__)
@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_every_event_can_be_told(event, data):
    assert json.dumps(to_plain(data.draw(struct_of(event, 0)), texts=True))


@pytest.mark.parametrize(
    ("hint", "value", "told"),
    [
        (U8, 256, "out of range"),
        (U8, -1, "out of range"),
        (U8, True, "not a U8"),
        (U8, 1.0, "not a U8"),
        (U8, "5", "not a U8"),
        (U64, None, "not a U64"),
        (bool, 1, "not a bool"),
        (str, 1, "not a str"),
        (bytes, "0x0", "number"),
        (AccountId, "nobody", "is"),
        (tuple[U8, bool], [1], "2 entries"),
        (tuple[U8, ...], "12", "not a"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_place(hint, value, told):
    with pytest.raises(NotPlain, match="here") as caught:
        from_plain(hint, value, "here")
    assert told in str(caught.value)
