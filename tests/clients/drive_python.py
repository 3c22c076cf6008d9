"""Drives a node with one of the Python clients, in its own environment; see `js/steps.mjs` for its twin.

python drive_python.py substrate-interface|async-substrate-interface '{"url": …, "signer": …}'
"""

import asyncio
import importlib.metadata
import json
import os
import sys
import traceback
from dataclasses import dataclass

CLIENT, CONFIG = sys.argv[1], json.loads(sys.argv[2])
IS_ASYNC = CLIENT == "async-substrate-interface"
PLANCK = 10**15
seen = {}

if IS_ASYNC:
    import sr25519
    from async_substrate_interface import AsyncSubstrateInterface, SubstrateInterface
    from async_substrate_interface.errors import SubstrateRequestException

    @dataclass(frozen=True)
    class Keypair:
        """What the client asks of one; it ships none."""

        pair: tuple
        ss58_address: str
        crypto_type: int = 1
        ss58_format: int = 42

        @property
        def public_key(self):
            return self.pair[0]

        def sign(self, data):
            return sr25519.sign(self.pair, bytes(data))

    seed = bytes.fromhex(CONFIG["signer"][2:])
    SIGNER = Keypair(sr25519.pair_from_seed(seed), CONFIG["signer_address"])
else:
    from substrateinterface import Keypair, SubstrateInterface
    from substrateinterface.exceptions import SubstrateRequestException

    SIGNER = Keypair.create_from_seed(CONFIG["signer"])

chain = SubstrateInterface(url=CONFIG["url"])


def step(work):
    try:
        seen[work.__name__] = work()
    except Exception:  # noqa: BLE001 - whatever it is, it goes into the report
        seen[work.__name__] = {"error": traceback.format_exc()[-1500:]}


def plain(value):
    """A value as Python has it, whichever class is around it."""
    return getattr(value, "value", value)


def call_of(module, function, params):
    return chain.compose_call(call_module=module, call_function=function, call_params=params)


def submit(call, signer=SIGNER, **options):
    """The estimate is of an extrinsic with neither tip nor era, whatever the options."""
    estimated = chain.get_payment_info(call=call, keypair=signer)[
        "partial_fee" if IS_ASYNC else "partialFee"
    ]
    extrinsic = chain.create_signed_extrinsic(call=call, keypair=signer, **options)
    receipt = chain.submit_extrinsic(extrinsic, wait_for_finalization=True)
    records = [plain(record)["event"] for record in receipt.triggered_events]
    error = receipt.error_message
    return {
        "success": receipt.is_success,
        "error": error
        and {
            "name": error["docs"] if error["name"] == "Token" else error["name"],
            "docs": " ".join(error["docs"] or ()),
        },
        "events": [f"{each['module_id']}.{each['event_id']}" for each in records],
        "data": {each["event_id"]: each["attributes"] for each in records},
        "estimated": int(estimated),
        "paid": receipt.total_fee_amount - options.get("tip", 0),
        "block": receipt.block_hash,
    }


def transfer_call(planck):
    return call_of("Balances", "transfer_keep_alive", {"dest": CONFIG["dest"], "value": planck})


def place_call(version):
    return call_of(
        "Rent",
        "place",
        {
            "machine": CONFIG["machine"],
            "units": 1,
            "seconds": 600,
            "manifest_hash": "0x" + "11" * 32,
            "max_total": 1000 * PLANCK,
            "offer_version": version,
            "start_within": 120,
        },
    )


def free_of(address, at=None):
    account = plain(chain.query("System", "Account", [address], block_hash=at))
    return str(account["data"]["free"])


@step
def connect():
    chain.init_runtime()
    return {
        "version": importlib.metadata.version(CLIENT),
        "chain": chain.chain,
        "genesis": chain.get_block_hash(0),
        "spec_version": chain.get_block_runtime_info(chain.get_block_hash(None))["specVersion"]
        if IS_ASYNC
        else chain.runtime_version,
        "properties": chain.properties,
    }


@step
def constants():
    return {
        "ss58": plain(chain.get_constant("System", "SS58Prefix")),
        "block_hash_count": plain(chain.get_constant("System", "BlockHashCount")),
    }


@step
def value():
    return {"number": plain(chain.query("System", "Number"))}


@step
def map():  # noqa: A001 - the step's name
    return {"free": free_of(SIGNER.ss58_address)}


@step
def keys():
    found = [plain(key) for key, _ in chain.query_map("System", "Account", page_size=3)]
    return {"count": len(found), "unique": len({str(key) for key in found})}


@step
def subscriptions():
    heads, stored = [], []

    def on_head(head, *_):
        heads.append(head["header"]["number"])
        return True if len(heads) == 3 else None

    chain.subscribe_block_headers(on_head)

    def on_value(key, value, *_):
        stored.append(plain(value))
        return {"stored": stored} if len(stored) == 3 else None

    try:
        chain.subscribe_storage([chain.create_storage_key("Timestamp", "Now")], on_value)
    except TypeError:  # one of the clients stumbles over the answer to its own unsubscribing
        assert len(stored) == 3
    return {"heads": heads, "finalized": heads, "storage": stored}


before = chain.get_chain_finalised_head()


@step
def transfer():
    return submit(transfer_call(3 * PLANCK))


@step
def historic():
    return {
        "before": free_of(CONFIG["dest"], before),
        "after": free_of(CONFIG["dest"], chain.get_chain_finalised_head()),
    }


@step
def immortal():
    return submit(transfer_call(PLANCK), tip=12345)


@step
def mortal():
    return submit(transfer_call(PLANCK), era={"period": 64})


@step
def long_payload():
    remark = call_of("System", "remark_with_event", {"remark": "0x" + "ab" * 300})
    return submit(remark)


if not IS_ASYNC:

    @step
    def ed25519():
        other = Keypair.create_from_seed(CONFIG["signer"], crypto_type=0, ss58_format=42)
        to_other = {"dest": other.ss58_address, "value": 5 * PLANCK}
        submit(call_of("Balances", "transfer_keep_alive", to_other))
        return submit(transfer_call(PLANCK), signer=other)


@step
def place():
    return submit(place_call(0))


@step
def double_map():
    found = chain.query_map("Rent", "OrdersOf", [SIGNER.ss58_address])
    return {"orders": [str(plain(key)) for key, _ in found]}


@step
def module_error():
    return submit(place_call(9))


if IS_ASYNC:  # the other one's error_message is None for what is no pallet's

    @step
    def token_error():
        return submit(transfer_call(10**30))


@step
def batch():
    calls = [transfer_call(PLANCK), call_of("System", "remark_with_event", {"remark": "0x0102"})]
    if not IS_ASYNC:
        calls = [each.value for each in calls]
    return submit(call_of("Utility", "batch_all", {"calls": calls}))


@step
def stale():
    extrinsic = chain.create_signed_extrinsic(call=transfer_call(1), keypair=SIGNER, nonce=0)
    try:
        chain.submit_extrinsic(extrinsic)
    except SubstrateRequestException as error:
        return {"refused": str(error)}


if IS_ASYNC:

    @step
    def runtime_api():
        async def ask():
            async with AsyncSubstrateInterface(CONFIG["url"]) as other:
                nonce = await other.runtime_call(
                    "AccountNonceApi", "account_nonce", [SIGNER.ss58_address]
                )
                account = await other.query("System", "Account", [SIGNER.ss58_address])
                return {"nonce": plain(nonce), "same": plain(account)["nonce"] == plain(nonce)}

        return asyncio.run(ask())


def shown(value):
    return value.hex() if isinstance(value, bytes) else str(value)


sys.stdout.write(json.dumps(seen, default=shown))
sys.stdout.flush()
os._exit(0)  # one of the clients leaves a subscription open, and then waits 10 s to close
