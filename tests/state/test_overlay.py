from tests.state.support import DictState

from deepbrain.state.overlay import Overlay, ReadCache, TracingOverlay


def test_a_change_during_a_walk_is_seen_when_the_walk_reaches_it():
    overlay = Overlay(DictState({b"a": b"1", b"b": b"2", b"c": b"3"}))
    met = []
    for key, value in overlay.iterate(b""):
        met.append((key, value))
        overlay.delete(b"b")
        overlay.put(b"c", b"new")
    assert met == [(b"a", b"1"), (b"c", b"new")]


def test_a_queue_may_be_emptied_while_it_is_walked():
    overlay = Overlay(DictState({bytes([n]): b"x" for n in range(5)}))
    for n in range(5, 10):
        overlay.put(bytes([n]), b"x")
    for key, _ in overlay.iterate(b""):
        overlay.delete(key)
    assert list(overlay.iterate(b"")) == []


def test_reads_and_writes_are_counted():
    overlay = Overlay(DictState({b"a": b"1", b"b": b"2"}))
    overlay.get(b"a")
    overlay.get_many([b"a", b"missing"])
    list(overlay.iterate(b""))
    overlay.put(b"a", b"")
    overlay.delete(b"a")
    assert (overlay.reads, overlay.writes) == (5, 2)


def test_tracing_names_each_key_once():
    overlay = TracingOverlay(DictState({b"a": b"1", b"b": b"2"}))
    overlay.get(b"b")
    overlay.get(b"b")
    overlay.put(b"c", b"3")
    assert list(overlay.iterate(b"a")) == [(b"a", b"1")]
    assert (list(overlay.read_keys), list(overlay.written_keys)) == ([b"b", b"a"], [b"c"])
    overlay.reset()
    assert not overlay.read_keys


def test_the_read_cache_asks_once():
    base = DictState({b"a": b"1"})
    cache = ReadCache(base)
    assert cache.get_many([b"a", b"b", b"a"]) == [b"1", None, b"1"]
    base.items.clear()
    assert cache.get(b"a") == b"1"
    assert cache.get(b"b") is None
