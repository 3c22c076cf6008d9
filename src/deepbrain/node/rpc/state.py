"""`state_`: storage at any block that is kept, proofs of it, metadata, and runtime calls."""

from collections.abc import Iterator
from typing import Final

from deepbrain.node.chain import Chain, Notice
from deepbrain.node.rpc.dispatch import Method, Starter, Stream
from deepbrain.node.rpc.errors import INVALID_COUNT, client_error, invalid_params
from deepbrain.node.rpc.reading import known
from deepbrain.node.rpc.subscriptions import Cancel, Sink
from deepbrain.node.rpc.wire import Json, RawJson, write
from deepbrain.pallets.system import RuntimeVersion
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import Hash
from deepbrain.state.trie import prove

MAX_PAGE: Final = 1000
"""Keys in one page, as in Substrate."""
MAX_PROVEN: Final = 256
"""Keys in one read proof."""
MAX_SCANNED: Final = 10_000
"""Entries that one unpaged listing may give."""


class StateRpc:
    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._metadata: dict[int, RawJson] = {}

    def methods(self) -> Iterator[Method | Stream]:
        yield Method("state_call", self.call, aliases=("state_callAt",))
        yield Method("state_getStorage", self.storage, aliases=("state_getStorageAt",))
        yield Method("state_getStorageHash", self.storage_hash, aliases=("state_getStorageHashAt",))
        yield Method("state_getStorageSize", self.storage_size, aliases=("state_getStorageSizeAt",))
        yield Method("state_getKeysPaged", self.keys_paged, aliases=("state_getKeysPagedAt",))
        yield Method("state_getKeys", self.keys, unsafe=True)
        yield Method("state_getPairs", self.pairs, unsafe=True)
        yield Method("state_queryStorageAt", self.query_at)
        yield Method("state_getReadProof", self.read_proof)
        yield Method("state_getMetadata", self.metadata)
        yield Method("state_getRuntimeVersion", self.version, aliases=("chain_getRuntimeVersion",))
        yield Stream(
            "state_subscribeStorage", "state_unsubscribeStorage", "state_storage", self.follow
        )
        yield Stream(
            "state_subscribeRuntimeVersion",
            "state_unsubscribeRuntimeVersion",
            "state_runtimeVersion",
            self.versions,
            aliases=("chain_subscribeRuntimeVersion",),
            unsubscribe_aliases=("chain_unsubscribeRuntimeVersion",),
        )

    def call(self, method: str, data: bytes, at: Hash | None = None) -> Json:
        """A runtime API by its name, with SCALE arguments."""
        with known():
            return _hex(self._chain.call(method, data, at))

    def storage(self, key: bytes, at: Hash | None = None) -> Json:
        with known(), self._chain.snapshot(at) as state:
            return _optional_hex(state.get(key))

    def storage_hash(self, key: bytes, at: Hash | None = None) -> Json:
        with known(), self._chain.snapshot(at) as state:
            value = state.get(key)
        return None if value is None else str(blake2_256(value))

    def storage_size(self, key: bytes, at: Hash | None = None) -> Json:
        with known(), self._chain.snapshot(at) as state:
            value = state.get(key)
        return None if value is None else len(value)

    def keys_paged(
        self,
        prefix: bytes | None,
        count: int,
        start_key: bytes | None = None,
        at: Hash | None = None,
    ) -> Json:
        """At most `count` keys after `start_key`, itself left out."""
        if count > MAX_PAGE:
            raise client_error(
                f"count exceeds maximum value. value: {count}, max: {MAX_PAGE}", INVALID_COUNT
            )
        with known(), self._chain.snapshot(at) as state:
            entries = state.iterate(prefix or b"", start_key)
            return [_hex(key) for (key, _), _ in zip(entries, range(count), strict=False)]

    def keys(self, prefix: bytes, at: Hash | None = None) -> Json:
        return [_hex(key) for key, _ in self._scan(prefix, at)]

    def pairs(self, prefix: bytes, at: Hash | None = None) -> Json:
        return [[_hex(key), _hex(value)] for key, value in self._scan(prefix, at)]

    def query_at(self, keys: list[bytes], at: Hash | None = None) -> Json:
        """One entry, of the block asked for, with the value of each key."""
        block = self._chain.head.hash if at is None else at
        with known(), self._chain.snapshot(at) as state:
            return [_changes(block, keys, state.get_many(keys))]

    def read_proof(self, keys: list[bytes], at: Hash | None = None) -> Json:
        """The nodes of the state trie that prove the keys' values, or that they are absent."""
        if len(keys) > MAX_PROVEN:
            raise invalid_params(f"at most {MAX_PROVEN} keys in one proof")
        block = self._chain.head.hash if at is None else at
        with known(), self._chain.snapshot(at) as state:
            return {"at": str(block), "proof": [_hex(node) for node in prove(state, keys)]}

    def metadata(self, at: Hash | None = None) -> Json:
        """The metadata (V14) of the runtime that made the block."""
        with known():
            spec_version = self._chain.spec_version(at)
            text = self._metadata.get(spec_version)
            if text is None:
                text = RawJson(
                    write(_hex(self._chain.executive(spec_version).runtime.metadata(14)))
                )
                self._metadata[spec_version] = text
            return text

    def version(self, at: Hash | None = None) -> Json:
        """The version of the runtime that made the block."""
        with known():
            return version_json(self._chain.executive(self._chain.spec_version(at)).runtime.version)

    def follow(self, keys: list[bytes] | None = None) -> Starter:
        """The values of some keys, now and whenever a block changes one."""
        if not keys:
            raise invalid_params("name the keys to follow; following every key is not offered")
        wanted = list(dict.fromkeys(keys))

        def start(sink: Sink) -> Cancel:
            head = self._chain.head.hash
            with self._chain.snapshot(head) as state:
                last = dict(zip(wanted, state.get_many(wanted), strict=True))

            def on_block(notice: Notice) -> None:
                written = {key: notice.changes[key] for key in wanted if key in notice.changes}
                changed = {key: value for key, value in written.items() if value != last[key]}
                if changed:
                    last.update(changed)
                    sink.send(_changes(notice.head.hash, list(changed), list(changed.values())))

            sink.send(_changes(head, list(last), list(last.values())))
            return self._chain.subscribe(on_block)

        return start

    def versions(self) -> Starter:
        """The runtime's version, now and at every upgrade."""

        def start(sink: Sink) -> Cancel:
            def on_block(notice: Notice) -> None:
                if notice.upgraded:
                    sink.send(self.version())

            sink.send(self.version())
            return self._chain.subscribe(on_block)

        return start

    def _scan(self, prefix: bytes, at: Hash | None) -> list[tuple[bytes, bytes]]:
        with known(), self._chain.snapshot(at) as state:
            found = [
                entry
                for entry, _ in zip(state.iterate(prefix), range(MAX_SCANNED + 1), strict=False)
            ]
        if len(found) > MAX_SCANNED:
            raise client_error(f"more than {MAX_SCANNED} entries; use state_getKeysPaged")
        return found


def version_json(version: RuntimeVersion) -> Json:
    """A runtime's version as Substrate writes it in JSON."""
    return {
        "specName": version.spec_name,
        "implName": version.impl_name,
        "authoringVersion": version.authoring_version,
        "specVersion": version.spec_version,
        "implVersion": version.impl_version,
        "apis": [[_hex(api), number] for api, number in version.apis],
        "transactionVersion": version.transaction_version,
        "systemVersion": version.system_version,
        "stateVersion": min(version.system_version, 1),
    }


def _changes(block: Hash, keys: list[bytes], values: list[bytes | None]) -> Json:
    changes: list[Json] = [
        [_hex(key), _optional_hex(value)] for key, value in zip(keys, values, strict=True)
    ]
    return {"block": str(block), "changes": changes}


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _optional_hex(data: bytes | None) -> str | None:
    return None if data is None else "0x" + data.hex()
