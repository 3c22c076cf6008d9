"""Metadata, as an outside library reads it and as it was when last agreed upon."""

import json
from pathlib import Path

import pytest
from scalecodec.base import RuntimeConfigurationObject, ScaleBytes
from scalecodec.type_registry import load_type_registry_preset
from tests.runtime.local import ALICE, BOB, MACHINE, LocalChain, load_spec, place_call

from deepbrain.frame.docs import attribute_docs
from deepbrain.frame.metadata_format import MetadataV14, MetadataV15, MetadataV16
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.system import System
from deepbrain.primitives.units import PLANCK, Balance
from deepbrain.runtime.runtime import PALLETS, Runtime

GOLDEN = Path(__file__).parents[1] / "vectors" / "metadata-dev.json"


@pytest.fixture(scope="module")
def runtime():
    return Runtime(load_spec())


@pytest.fixture(scope="module")
def outside(runtime):
    """The metadata in the eyes of scalecodec, and its registry."""
    config = RuntimeConfigurationObject(ss58_format=42)
    config.update_type_registry(load_type_registry_preset(name="core"))
    metadata = config.create_scale_object(
        "MetadataVersioned", data=ScaleBytes(bytearray(runtime.metadata(14)))
    )
    metadata.decode()
    config.add_portable_registry(metadata)
    return config, metadata


def test_an_outside_library_reads_every_pallet(outside):
    _, metadata = outside
    pallets = {pallet.value["name"]: pallet.value for pallet in metadata.pallets}
    assert list(pallets) == [pallet.chain_name for pallet in PALLETS]
    for pallet in PALLETS:
        seen = pallets[pallet.chain_name]
        assert seen["index"] == pallet.index
        entries = seen["storage"]["entries"] if seen["storage"] else []
        stored = [item.name for item in pallet.storage.values() if item.well_known_key is None]
        assert [entry["name"] for entry in entries] == stored
        assert len(seen["constants"]) == len(pallet.constant_hints)


@pytest.mark.parametrize(
    ("version", "kind"), [(14, MetadataV14), (15, MetadataV15), (16, MetadataV16)]
)
def test_every_format_reads_back_and_names_its_parameters(runtime, version, kind):
    """Clients build `Option` and `Result` out of their parameters alone."""
    raw = runtime.metadata(version)
    assert raw[:5] == b"meta" + bytes((version,))
    metadata = kind.decode(raw[5:])
    assert metadata.encode() == raw[5:]
    wanted = {("Option",): 1, ("Result",): 2, ("BTreeMap",): 2}
    for entry in metadata.types:
        if entry.type.path in wanted:
            assert len(entry.type.params) == wanted[entry.type.path], entry
    assert [pallet.name for pallet in metadata.pallets] == [each.chain_name for each in PALLETS]


def test_what_clients_assume_by_name_is_there(outside):
    _, metadata = outside
    system = next(p for p in metadata.pallets if p.value["name"] == "System").value
    constants = {constant["name"] for constant in system["constants"]}
    assert {"SS58Prefix", "Version", "BlockHashCount", "BlockWeights", "BlockLength"} <= constants
    entries = {entry["name"]: entry for entry in system["storage"]["entries"]}
    assert {"Account", "Number", "BlockHash", "Events"} <= set(entries)
    assert entries["Account"]["modifier"] == "Default"
    identifiers = [
        e["identifier"] for e in metadata.value[1]["V14"]["extrinsic"]["signed_extensions"]
    ]
    assert identifiers == [
        "CheckNonZeroSender",
        "CheckSpecVersion",
        "CheckTxVersion",
        "CheckGenesis",
        "CheckMortality",
        "CheckNonce",
        "CheckWeight",
        "ChargeTransactionPayment",
        "CheckMetadataHash",
    ]


@pytest.mark.parametrize(
    ("call", "module", "function"),
    [
        (
            Balances.transfer_keep_alive.make(dest=BOB.public, value=Balance(5 * PLANCK)),
            "Balances",
            "transfer_keep_alive",
        ),
        (place_call(), "Rent", "place"),
    ],
)
def test_an_outside_library_reads_our_extrinsics(outside, call, module, function):
    config, metadata = outside
    raw = LocalChain().signed(ALICE, call, tip=7)
    extrinsic = config.create_scale_object(
        "Extrinsic", data=ScaleBytes(bytearray(raw)), metadata=metadata
    )
    value = extrinsic.decode()
    assert value["address"] == ALICE.address()
    assert (value["nonce"], value["tip"]) == (0, 7)
    assert value["call"]["call_module"] == module
    assert value["call"]["call_function"] == function
    seen = {arg["name"]: arg["value"] for arg in value["call"]["call_args"]}
    assert set(seen) == {name for name, _ in call.named()}
    if function == "place":
        assert seen["machine"] == str(MACHINE)


def test_an_outside_library_reads_our_events_and_storage(outside):
    config, metadata = outside
    chain = LocalChain()
    chain.bond()
    order = chain.place()
    events = config.create_scale_object("Vec<frame_system::EventRecord>", metadata=metadata)
    entry = next(
        e
        for p in metadata.pallets
        if p.value["name"] == "System"
        for e in p.storage
        if e.value["name"] == "Events"
    )
    events = config.create_scale_object(
        entry.get_value_type_string(),
        data=ScaleBytes(bytearray(chain.state.get(System.events.key_of()))),
        metadata=metadata,
    )
    names = [f"{e['module_id']}.{e['event_id']}" for e in events.decode()]
    assert names == [
        "System.ExtrinsicSuccess",
        "Balances.Held",
        "Rent.OrderPlaced",
        "TransactionPayment.TransactionFeePaid",
        "System.ExtrinsicSuccess",
    ]
    orders = next(
        e
        for p in metadata.pallets
        if p.value["name"] == "Rent"
        for e in p.storage
        if e.value["name"] == "Orders"
    )
    seen = config.create_scale_object(
        orders.get_value_type_string(),
        data=ScaleBytes(bytearray(chain.state.get(Rent.orders.key_of(order)))),
        metadata=metadata,
    ).decode()
    assert seen["units"] == 1
    assert list(seen["status"]) == ["Placed"]


def test_failures_are_read_outside(outside):
    config, metadata = outside
    chain = LocalChain()
    receipt = chain.receipt(ALICE, place_call())
    entry = next(
        e
        for p in metadata.pallets
        if p.value["name"] == "System"
        for e in p.storage
        if e.value["name"] == "Events"
    )
    events = config.create_scale_object(
        entry.get_value_type_string(),
        data=ScaleBytes(bytearray(chain.state.get(System.events.key_of()))),
        metadata=metadata,
    ).decode()
    assert not receipt.success
    error = events[-1]["attributes"]["dispatch_error"]
    assert error == {"Module": {"index": 20, "error": "0x00000000"}}
    assert metadata.get_module_error(20, 0).name == "NoSuchMachine"


@pytest.mark.parametrize("pallet", PALLETS)
def test_everything_a_wallet_shows_is_documented(pallet):
    docs = attribute_docs(pallet)
    for attribute in (*pallet.storage, *pallet.constant_hints):
        assert docs.get(attribute), f"{pallet.__name__}.{attribute} has no docstring"
    for definition in pallet.call_definitions.values():
        assert definition.doc, definition.name
        assert "Cost:" in definition.doc or pallet.__name__ == "Timestamp", definition.name
    for kind in (*pallet.event_types.values(), *pallet.error_types.values()):
        assert vars(kind).get("__doc__"), kind.__name__


def test_metadata_is_as_agreed(runtime):
    """A change here is a change for every wallet: run `python tools/spec.py` and say so."""
    golden = json.loads(GOLDEN.read_text())
    assert {v: "0x" + runtime.metadata(int(v)).hex() for v in golden} == golden
