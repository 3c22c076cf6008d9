// polkadot-api, over chainHead_v1 or, where the node does not announce it, over the legacy methods.

import { Enum, createClient } from "polkadot-api"
import { getPolkadotSigner } from "polkadot-api/signer"
import { getWsProvider } from "polkadot-api/ws"

import { MANIFEST, PLANCK, SocketOf, collect, config, finish, pair, step, versionOf } from "./steps.mjs"

const client = createClient(getWsProvider(config.url, { websocketClass: SocketOf(config.legacy) }))
const api = client.getUnsafeApi()
const signerOf = (type, name) => {
  const keys = pair(type)
  return [keys.address, getPolkadotSigner(keys.addressRaw, name, (data) => keys.sign(data))]
}
const [address, signer] = signerOf("sr25519", "Sr25519")
const to = (account) => Enum("Id", account)
const transfer = (dest, value) => api.tx.Balances.transfer_keep_alive({ dest: to(dest), value })

async function submit(tx, from = [address, signer], options = {}) {
  const estimated = await tx.getEstimatedFees(from[0], options)
  const done = await tx.signAndSubmit(from[1], options)
  const paid = done.events.find(({ type, value }) => value.type === "TransactionFeePaid").value.value
  const error = done.dispatchError
  return {
    success: done.ok,
    error: error ? {
      pallet: error.type === "Module" ? error.value.type : error.type,
      name: error.type === "Module" ? error.value.value.type : error.value.type,
    } : null,
    events: done.events.map(({ type, value }) => `${type}.${value.type}`),
    data: Object.fromEntries(done.events.map(({ value }) => [value.type, value.value])),
    estimated,
    paid: paid.actual_fee - paid.tip,
    block: done.block.hash,
  }
}

const place = (offer_version) =>
  api.tx.Rent.place({
    machine: config.machine,
    units: 1,
    seconds: 600n,
    manifest_hash: MANIFEST,
    max_total: 1000n * PLANCK,
    offer_version,
    start_within: 120n,
  })

await step("connect", async () => {
  const version = await api.constants.System.Version()
  const spec = await client.getChainSpecData()
  return {
    version: versionOf("polkadot-api"),
    // The legacy middleware has no name of the chain of its own.
    chain: config.legacy ? await client._request("system_chain", []) : spec.name,
    genesis: spec.genesisHash,
    spec_version: version.spec_version,
    properties: spec.properties,
  }
})
await step("constants", async () => ({
  ss58: await api.constants.System.SS58Prefix(),
  block_hash_count: await api.constants.System.BlockHashCount(),
}))
await step("value", async () => ({ number: await api.query.System.Number.getValue() }))
await step("map", async () => ({
  free: (await api.query.System.Account.getValue(address)).data.free,
}))
await step("keys", async () => {
  const keys = (await api.query.System.Account.getEntries()).map(({ keyArgs }) => keyArgs[0])
  return { count: keys.length, unique: new Set(keys).size }
})
await step("subscriptions", async () => ({
  heads: await collect(3, (done) =>
    client.bestBlocks$.subscribe((blocks) => done(blocks[0].number)),
  ),
  finalized: await collect(3, (done) =>
    client.finalizedBlock$.subscribe((block) => done(block.number)),
  ),
  storage: await collect(3, (done) =>
    api.query.Timestamp.Now.watchValue({ at: "best" }).subscribe(({ value }) => done(Number(value))),
  ),
}))
let before
await step("transfer", async () => {
  before = (await client.getFinalizedBlock()).hash
  return submit(transfer(config.dest, 3n * PLANCK))
})
await step("historic", async () => {
  const free = async (at) => (await api.query.System.Account.getValue(config.dest, { at })).data.free
  return { before: await free(before), after: await free("finalized") }
})
await step("immortal", () =>
  submit(transfer(config.dest, PLANCK), undefined, { mortality: { mortal: false }, tip: 12345n }),
)
await step("long_payload", () =>
  submit(api.tx.System.remark_with_event({ remark: new Uint8Array(300).fill(0xab) })),
)
for (const [type, name] of [["ed25519", "Ed25519"], ["ecdsa", "Ecdsa"]]) {
  await step(type, async () => {
    const other = signerOf(type, name)
    await submit(transfer(other[0], 5n * PLANCK))
    return submit(transfer(config.dest, PLANCK), other)
  })
}
await step("place", () => submit(place(0)))
await step("double_map", async () => ({
  orders: (await api.query.Rent.OrdersOf.getEntries(address)).map(({ keyArgs }) => String(keyArgs[1])),
}))
await step("module_error", () => submit(place(9)))
await step("token_error", () => submit(transfer(config.dest, 10n ** 30n)))
await step("batch", () =>
  submit(
    api.tx.Utility.batch_all({
      calls: [
        transfer(config.dest, PLANCK).decodedCall,
        api.tx.System.remark_with_event({ remark: new Uint8Array([1, 2]) }).decodedCall,
      ],
    }),
  ),
)
await step("runtime_api", async () => ({
  nonce: await api.apis.AccountNonceApi.account_nonce(address),
  versions: await api.apis.Metadata.metadata_versions(),
}))
finish()
