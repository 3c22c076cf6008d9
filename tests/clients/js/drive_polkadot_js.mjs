// @polkadot/api, as a page or a script uses it.

import { ApiPromise, WsProvider } from "@polkadot/api"

import { MANIFEST, PLANCK, collect, config, finish, pair, step, versionOf } from "./steps.mjs"

const api = await ApiPromise.create({
  provider: new WsProvider(config.url),
  throwOnUnknown: true,
  noInitWarn: true,
})
const signer = pair()

const told = (dispatchError) => {
  if (!dispatchError) return null
  if (!dispatchError.isModule) return { pallet: dispatchError.type, name: dispatchError.value.toString() }
  const { section, name, docs } = api.registry.findMetaError(dispatchError.asModule)
  return { pallet: section[0].toUpperCase() + section.slice(1), name, docs: docs.join(" ") }
}

async function submit(tx, who = signer, options = {}) {
  const { partialFee } = await tx.paymentInfo(who, options)
  return new Promise((resolve, reject) => {
    tx.signAndSend(who, options, ({ status, events, dispatchError }) => {
      if (!status.isFinalized) return
      const capital = (name) => name[0].toUpperCase() + name.slice(1)
      const paid = events.find(({ event }) => event.method === "TransactionFeePaid").event.data
      resolve({
        success: !dispatchError,
        error: told(dispatchError),
        events: events.map(({ event }) => `${capital(event.section)}.${event.method}`),
        data: Object.fromEntries(events.map(({ event }) => [event.method, event.data.toHuman()])),
        estimated: partialFee.toString(),
        paid: (paid.actualFee.toBigInt() - paid.tip.toBigInt()).toString(),
        block: status.asFinalized.toHex(),
      })
    }).catch(reject)
  })
}

const place = (version) =>
  api.tx.rent.place(config.machine, 1, 600, MANIFEST, 1000n * PLANCK, version, 120)

await step("connect", async () => ({
  version: versionOf("@polkadot/api"),
  chain: (await api.rpc.system.chain()).toString(),
  genesis: api.genesisHash.toHex(),
  spec_version: api.runtimeVersion.specVersion.toNumber(),
  metadata: api.runtimeMetadata.version,
}))
await step("constants", async () => ({
  ss58: api.consts.system.ss58Prefix.toNumber(),
  block_hash_count: api.consts.system.blockHashCount.toNumber(),
}))
await step("value", async () => ({ number: (await api.query.system.number()).toNumber() }))
await step("map", async () => ({
  free: (await api.query.system.account(signer.address)).data.free.toString(),
}))
await step("keys", async () => {
  const keys = []
  for (let last; ; ) {
    const page = await api.query.system.account.keysPaged({ args: [], pageSize: 3, startKey: last })
    if (!page.length) break
    last = page.at(-1).toHex()
    keys.push(...page.map((key) => key.args[0].toString()))
  }
  return { count: keys.length, unique: new Set(keys).size }
})
await step("subscriptions", async () => ({
  heads: await collect(3, (done) =>
    api.rpc.chain.subscribeNewHeads((head) => done(head.number.toNumber())),
  ),
  finalized: await collect(3, (done) =>
    api.rpc.chain.subscribeFinalizedHeads((head) => done(head.number.toNumber())),
  ),
  storage: await collect(3, (done) => api.query.timestamp.now((now) => done(now.toNumber()))),
}))
let before
await step("transfer", async () => {
  before = (await api.rpc.chain.getFinalizedHead()).toHex()
  return submit(api.tx.balances.transferKeepAlive(config.dest, 3n * PLANCK))
})
await step("historic", async () => {
  const free = async (at) =>
    (await (await api.at(at)).query.system.account(config.dest)).data.free.toString()
  return { before: await free(before), after: await free(await api.rpc.chain.getFinalizedHead()) }
})
await step("immortal", () =>
  submit(api.tx.balances.transferKeepAlive(config.dest, PLANCK), signer, { era: 0, tip: 12345n }),
)
await step("long_payload", () => submit(api.tx.system.remarkWithEvent("0x" + "ab".repeat(300))))
for (const type of ["ed25519", "ecdsa"]) {
  await step(type, async () => {
    const other = pair(type)
    await submit(api.tx.balances.transferKeepAlive(other.address, 5n * PLANCK))
    return submit(api.tx.balances.transferKeepAlive(config.dest, PLANCK), other)
  })
}
await step("place", () => submit(place(0)))
await step("double_map", async () => ({
  orders: (await api.query.rent.ordersOf.entries(signer.address)).map(([key]) =>
    key.args[1].toString(),
  ),
}))
await step("module_error", () => submit(place(9)))
await step("token_error", () => submit(api.tx.balances.transferKeepAlive(config.dest, 10n ** 30n)))
await step("batch", () =>
  submit(
    api.tx.utility.batchAll([
      api.tx.balances.transferKeepAlive(config.dest, PLANCK),
      api.tx.system.remarkWithEvent("0x0102"),
    ]),
  ),
)
await step("batch_interrupted", () => submit(api.tx.utility.batch([place(9)])))
await step("stale", async () => {
  const tx = await api.tx.balances.transferKeepAlive(config.dest, PLANCK).signAsync(signer, { nonce: 0 })
  return { refused: await api.rpc.author.submitExtrinsic(tx).then(() => null, String) }
})
finish()
