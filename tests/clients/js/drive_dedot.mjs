// dedot, by its default client over chainHead_v1 or its legacy client.

import { DedotClient, LegacyClient, WsProvider } from "dedot"

import { MANIFEST, PLANCK, collect, config, finish, pair, step, versionOf } from "./steps.mjs"

const provider = new WsProvider(config.url)
const client = config.legacy ? await LegacyClient.new(provider) : await DedotClient.new(provider)
const signer = pair()

const told = (error) => {
  if (!error) return null
  const meta = client.registry.findErrorMeta(error)
  if (meta) return { pallet: meta.pallet[0].toUpperCase() + meta.pallet.slice(1), name: meta.name }
  return { pallet: error.type, name: error.value }
}

async function submit(tx, who = signer, options = {}) {
  const { partialFee } = await tx.paymentInfo(who.address, options)
  const { status, events, dispatchError } = await tx.signAndSend(who, options).untilFinalized()
  const name = ({ event }) => `${event.pallet}.${event.palletEvent.name ?? event.palletEvent}`
  const paid = events.find((record) => name(record).endsWith("TransactionFeePaid")).event.palletEvent.data
  return {
    success: !dispatchError,
    error: told(dispatchError),
    events: events.map(name),
    data: Object.fromEntries(
      events.map(({ event }) => [event.palletEvent.name ?? event.palletEvent, event.palletEvent.data ?? null]),
    ),
    estimated: partialFee,
    paid: paid.actualFee - paid.tip,
    block: status.value.blockHash,
  }
}

const place = (version) =>
  client.tx.rent.place(config.machine, 1, 600n, MANIFEST, 1000n * PLANCK, version, 120n)

await step("connect", async () => ({
  version: versionOf("dedot"),
  chain: config.legacy ? await client.rpc.system_chain() : await client.rpc.chainSpec_v1_chainName(),
  genesis: client.genesisHash,
  spec_version: client.runtimeVersion.specVersion,
}))
await step("constants", async () => ({
  ss58: client.consts.system.ss58Prefix,
  block_hash_count: client.consts.system.blockHashCount,
}))
await step("value", async () => ({ number: await client.query.system.number() }))
await step("map", async () => ({ free: (await client.query.system.account(signer.address)).data.free }))
await step("keys", async () => {
  const keys = []
  if (config.legacy) {
    for (let last; ; ) {
      const page = await client.query.system.account.pagedKeys({ pageSize: 3, startKey: last })
      if (!page.length) break
      last = client.query.system.account.rawKey(page.at(-1))
      keys.push(...page.map((key) => key.address()))
    }
  } else {
    keys.push(...(await client.query.system.account.entries()).map(([key]) => key.address()))
  }
  return { count: keys.length, unique: new Set(keys).size }
})
await step("subscriptions", async () => ({
  heads: await collect(3, (done) => client.block.best((block) => done(block.number))),
  finalized: await collect(3, (done) => client.block.finalized((block) => done(block.number))),
  storage: await collect(3, (done) => client.query.timestamp.now((now) => done(Number(now)))),
}))
let before
await step("transfer", async () => {
  before = (await client.block.finalized()).hash
  return submit(client.tx.balances.transferKeepAlive(config.dest, 3n * PLANCK))
})
await step("historic", async () => {
  const free = async (at) => (await (await client.at(at)).query.system.account(config.dest)).data.free
  return { before: await free(before), after: await free((await client.block.finalized()).hash) }
})
await step("immortal", () =>
  submit(client.tx.balances.transferKeepAlive(config.dest, PLANCK), signer, { mortality: { type: "Immortal" }, tip: 12345n }),
)
await step("long_payload", () => submit(client.tx.system.remarkWithEvent("0x" + "ab".repeat(300))))
for (const type of ["ed25519", "ecdsa"]) {
  await step(type, async () => {
    const other = pair(type)
    await submit(client.tx.balances.transferKeepAlive(other.address, 5n * PLANCK))
    return submit(client.tx.balances.transferKeepAlive(config.dest, PLANCK), other)
  })
}
await step("place", () => submit(place(0)))
await step("double_map", async () => ({
  orders: (await client.query.rent.ordersOf.entries(signer.address)).map(([key]) => String(key[1])),
}))
await step("module_error", () => submit(place(9)))
await step("token_error", () => submit(client.tx.balances.transferKeepAlive(config.dest, 10n ** 30n)))
await step("batch", () =>
  submit(
    client.tx.utility.batchAll([
      client.tx.balances.transferKeepAlive(config.dest, PLANCK).call,
      client.tx.system.remarkWithEvent("0x0102").call,
    ]),
  ),
)
finish()
