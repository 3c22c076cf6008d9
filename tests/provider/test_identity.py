"""Keys, locks, records and figures of a machine."""

import json
import os
from dataclasses import replace

import pytest

from deepbrain.net.endpoint import IrohEndpoint
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.provider import agent as agent_module
from deepbrain.provider import record as record_module
from deepbrain.provider.identity import (
    AgentConfig,
    AgentError,
    Capacity,
    DataLock,
    load_config,
    load_or_make_key,
    read_seed,
    save_config,
)
from deepbrain.provider.inventory import (
    check_reach,
    dial_addresses,
    local_ips,
    take_inventory,
)
from deepbrain.provider.record import (
    OrderRecord,
    RecordDamaged,
    RecordNewer,
    Records,
    monotonic_ms,
)
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.sandbox import Network, SandboxError

CAPACITY = Capacity(units=2, cpu_milli=2000, memory_bytes=1 << 30, disk_bytes=1 << 30)
CONFIG = AgentConfig(
    chain="ws://127.0.0.1:9944",
    controller="//Bob",
    port=7000,
    capacity=CAPACITY,
    genesis=Hash(b"\x01" * 32),
    own=frozenset({AccountId(b"\x02" * 32)}),
    addresses=("1.2.3.4:7000",),
)


async def test_the_machine_key_is_its_transport_key_and_private(tmp_path):
    key = load_or_make_key(tmp_path)
    path = tmp_path / "machine.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_make_key(tmp_path).public == key.public
    endpoint = await IrohEndpoint.bind(read_seed(path), hosts=("127.0.0.1",))
    assert bytes(endpoint.key) == bytes(key.public)
    await endpoint.close()
    path.chmod(0o640)
    with pytest.raises(AgentError, match="read by others"):
        load_or_make_key(tmp_path)
    path.chmod(0o600)
    path.write_text("nonsense")
    with pytest.raises(AgentError, match="not a machine key"):
        load_or_make_key(tmp_path)


def test_a_data_directory_has_one_agent(tmp_path):
    held = DataLock(tmp_path / "new")
    with pytest.raises(AgentError, match="another agent runs"):
        DataLock(tmp_path / "new")
    held.release()
    DataLock(tmp_path / "new").release()


def test_the_configuration_comes_back_or_says_what_to_do(tmp_path):
    with pytest.raises(AgentError, match="dbc join"):
        load_config(tmp_path)
    save_config(tmp_path, CONFIG)
    assert load_config(tmp_path) == CONFIG
    save_config(tmp_path, replace(CONFIG, genesis=None, own=frozenset()))
    assert load_config(tmp_path).genesis is None
    for broken in (b"{", b"[]", b'{"chain": 1}', b"\xff"):
        (tmp_path / "agent.json").write_bytes(broken)
        with pytest.raises(AgentError, match="damaged"):
            load_config(tmp_path)


def test_the_agent_refuses_in_one_sentence(tmp_path, caplog):
    assert agent_module.main(["--data", str(tmp_path)]) == 1
    assert "run `dbc join` first" in caplog.text


RECORD = OrderRecord(
    order=7,
    genesis=Hash(b"\x01" * 32),
    seen_block=9,
    seen_hash=Hash(bytes(32)),
    renter=AccountId(b"\x02" * 32),
    manifest_hash=Hash(b"\x03" * 32),
    units=1,
    seconds=60,
    latest_end=5_000_000,
    kept_until=6_000_000,
)


def test_a_record_survives_and_a_reboot_moves_its_ends_later(tmp_path, monkeypatch):
    files = Records(tmp_path).files(7)
    files.create()
    files.save(RECORD)
    assert files.record() == RECORD
    written = json.loads((files.path / "order.json").read_text())["written"]
    monkeypatch.setattr(record_module, "_boot_id", lambda: "another boot")
    monkeypatch.setattr(record_module, "monotonic_ms", lambda: 1000)
    moved = files.record()
    assert moved.latest_end == RECORD.latest_end + 1000 - written
    assert moved.kept_until - 1000 == RECORD.kept_until - written


def test_damaged_records_are_left_alone_and_half_made_ones_removed(tmp_path):
    records = Records(tmp_path)
    records.files(8).create()
    assert list(records.all()) == []
    assert not records.files(8).path.exists()
    files = records.files(7)
    files.create()
    for broken in (b"", b"{}", b"null", b'{"boot": 1, "written": 2}'):
        (files.path / "order.json").write_bytes(broken)
        with pytest.raises(RecordDamaged):
            files.record()
        assert (files.path / "order.json").exists()
    files.remove()
    assert not files.path.exists()


def test_inventory_is_what_the_machine_has(tmp_path):
    found = take_inventory(tmp_path / "not" / "there")
    assert found.cpus == len(os.sched_getaffinity(0))
    capacity = found.capacity()
    assert capacity.units == found.cpus
    assert 0 < capacity.memory_bytes < found.memory_bytes
    assert 0 < capacity.disk_bytes < found.disk_free_bytes


def test_addresses_are_at_most_four_and_never_loopback_when_there_are_others():
    assert all(not ip.startswith("127.") for ip in local_ips())
    assert dial_addresses(7, ["1.2.3.4", "5.6.7.8:9", "::1", "[::2]:3", "9.9.9.9"]) == (
        "1.2.3.4:7",
        "5.6.7.8:9",
        "[::1]:7",
        "[::2]:3",
    )
    with pytest.raises(ValueError, match="does not appear"):
        dial_addresses(7, ["example.org:9"])


async def test_an_address_that_does_not_answer_is_named():
    endpoint = await IrohEndpoint.bind(os.urandom(32), hosts=("127.0.0.1",))
    import asyncio

    async def answer():
        while (incoming := await endpoint.accept()) is not None:
            await incoming.complete(3)

    answering = asyncio.create_task(answer())
    good, bad = endpoint.addresses[0], "127.0.0.1:9"
    first, second = await check_reach(endpoint.key, [good, bad], timeout=0.5)
    assert first.answers and not first.is_public
    assert "private address" in first.sentence
    assert not second.answers
    assert "does not answer: open this UDP port" in second.sentence
    await endpoint.close()
    await answering
    assert monotonic_ms() > 0


def test_what_a_newer_release_wrote_is_left_alone_and_what_an_older_wrote_is_read(tmp_path):
    records = Records(tmp_path)
    files = records.files(7)
    files.create()
    record = OrderRecord(
        order=7, genesis=Hash(bytes(32)), seen_block=1, seen_hash=Hash(bytes(32)),
        renter=AccountId(bytes(32)), manifest_hash=Hash(bytes(32)), units=1, seconds=60,
        latest_end=monotonic_ms(),
    )  # fmt: skip
    files.save(record)
    path = files.path / "order.json"
    written = json.loads(path.read_bytes())
    older = {name: value for name, value in written.items() if name != "version"}
    path.write_text(json.dumps(older))
    assert files.record() == record, "records had no version once"
    for newer in ({**written, "version": 2}, {**written, "colour": "blue"}):
        path.write_text(json.dumps(newer))
        with pytest.raises(RecordNewer, match="newer deepbrain"):
            records.ensure_known()
        assert json.loads(path.read_bytes()) == newer, "and nothing was changed"


def test_settings_of_a_newer_release_say_so(tmp_path, caplog):
    save_config(tmp_path, replace(CONFIG, stash=AccountId(b"\x05" * 32), metrics="127.0.0.1:1"))
    assert load_config(tmp_path).stash == AccountId(b"\x05" * 32)
    path = tmp_path / "agent.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"colour": "blue"}))
    assert agent_module.main(["--data", str(tmp_path)]) == 1
    assert "newer deepbrain" in caplog.text and "colour" in caplog.text


def test_records_of_the_first_release_are_read(tmp_path):
    """As they lie on disk where a machine served before."""
    order = tmp_path / "orders" / "3"
    order.mkdir(parents=True)
    (order / "order.json").write_text(
        json.dumps(
            {
                "order": 3, "genesis": "07" * 32, "seen_block": 9, "seen_hash": "01" * 32,
                "renter": "02" * 32, "manifest_hash": "03" * 32, "units": 1, "seconds": 60,
                "latest_end": 5_000, "ends_at": 1_060, "kept_until": None, "unpacked": True,
                "failure": "", "boot": "another boot", "written": 4_000,
            }
        )
    )  # fmt: skip
    read = Records(tmp_path).files(3).record()
    assert (read.order, read.units, read.ends_at) == (3, 1, 1_060)
    assert 0 <= read.latest_end - monotonic_ms() <= 1_000, "what was left of it, in this boot"
    tenant = TenantDirectory(tmp_path / "7")
    tenant.path.mkdir()
    (tenant.path / "tenant.json").write_text(
        json.dumps(
            {
                "order": 7, "image": "ab" * 32, "argv": ["true"], "env": [["A", "b"]],
                "workdir": "", "cpu_milli": 1000, "memory_bytes": 1 << 30, "disk_bytes": 1 << 30,
                "pids": 256, "log_bytes": 1 << 24, "end_at": 77, "mode": "gvisor",
            }
        )
    )  # fmt: skip
    assert tenant.spec().end_at == 77
    assert tenant.spec().network is Network.NONE
    newer = json.loads((tenant.path / "tenant.json").read_bytes()) | {"colour": "blue"}
    (tenant.path / "tenant.json").write_text(json.dumps(newer))
    with pytest.raises(SandboxError, match="newer deepbrain"):
        tenant.spec()
