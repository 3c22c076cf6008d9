"""Runs in the venv of substrate-interface, which cannot share ours: drives a node, prints JSON.

python drive_substrate_interface.py ws://127.0.0.1:PORT MACHINE_HEX
"""

import json
import sys

from substrateinterface import Keypair, SubstrateInterface
from substrateinterface.exceptions import SubstrateRequestException

PLANCK = 10**15


def events_of(receipt):
    found = []
    for record in receipt.triggered_events:
        event = record.value["event"]
        attributes = event["attributes"]
        found.append([event["module_id"], event["event_id"], attributes])
    return found


def submit(chain, module, function, params, keypair, **kwargs):
    call = chain.compose_call(call_module=module, call_function=function, call_params=params)
    extrinsic = chain.create_signed_extrinsic(call=call, keypair=keypair, **kwargs)
    receipt = chain.submit_extrinsic(extrinsic, wait_for_inclusion=True)
    return {
        "success": receipt.is_success,
        "error": receipt.error_message,
        "fee": receipt.total_fee_amount,
        "events": events_of(receipt),
        "extrinsic": receipt.extrinsic_hash,
    }


def place_params(machine, offer_version):
    return {
        "machine": machine,
        "units": 1,
        "seconds": 600,
        "manifest_hash": "0x" + "11" * 32,
        "max_total": 1000 * PLANCK,
        "offer_version": offer_version,
        "start_within": 120,
    }


def main():
    url, machine = sys.argv[1:]
    chain = SubstrateInterface(url=url)
    alice = Keypair.create_from_uri("//Alice")
    bob = Keypair.create_from_uri("//Bob")
    edward = Keypair.create_from_seed("0x" + "5e" * 32, crypto_type=0)
    result = {
        "chain": chain.chain,
        "name": chain.name,
        "properties": chain.properties,
        "pallets": [pallet.name for pallet in chain.get_metadata().pallets],
        "rent_calls": [
            call.name for call in chain.get_metadata().get_metadata_pallet("Rent").calls
        ],
        "fee_constant": chain.get_constant("System", "BlockHashCount").value,
        "alice": chain.query("System", "Account", [alice.ss58_address]).value,
        "machine": chain.query("Machines", "Machines", [machine]).value,
        "machines": [key.value for key, _ in chain.query_map("Machines", "Machines")],
        "number": chain.get_block_number(chain.get_chain_finalised_head()),
        "edward": edward.ss58_address,
    }
    transfer = {"dest": edward.ss58_address, "value": 5 * PLANCK}
    call = chain.compose_call("Balances", "transfer_keep_alive", transfer)
    result["payment"] = chain.get_payment_info(call=call, keypair=alice)
    result["transfer"] = submit(chain, "Balances", "transfer_keep_alive", transfer, alice)
    result["mortal"] = submit(
        chain, "Balances", "transfer_keep_alive", transfer, alice, era={"period": 64}, tip=1000
    )
    result["received"] = chain.query("System", "Account", [edward.ss58_address]).value
    result["place"] = submit(chain, "Rent", "place", place_params(machine, 0), bob)
    result["refused"] = submit(chain, "Rent", "place", place_params(machine, 9), bob)
    head = chain.get_block()
    result["block"] = len(head["extrinsics"])
    seen = []

    def on_head(head, update, subscription):
        seen.append(head["header"]["number"])
        return True if len(seen) == 2 else None

    chain.subscribe_block_headers(on_head)
    result["heads"] = seen
    try:
        chain.submit_extrinsic(chain.create_signed_extrinsic(call=call, keypair=alice, nonce=0))
    except SubstrateRequestException as error:
        result["stale"] = str(error)
    sys.stdout.write(json.dumps(result, default=str))


if __name__ == "__main__":
    main()
