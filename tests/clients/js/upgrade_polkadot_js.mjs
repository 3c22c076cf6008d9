// @polkadot/api while a new version of the rules takes over: it stays connected.

import { ApiPromise, WsProvider } from "@polkadot/api"

import { config, finish, pair, step, upgraded } from "./steps.mjs"

const api = await ApiPromise.create({
  provider: new WsProvider(config.url),
  throwOnUnknown: true,
  noInitWarn: true,
})
const old = (await api.rpc.chain.getFinalizedHead()).toHex()

await step("upgrade", async () => {
  await upgraded(() => api.tx.notes && api.runtimeVersion.specVersion.toNumber() === 2)
  const sent = new Promise((resolve, reject) =>
    api.tx.notes
      .note("0x0102")
      .signAndSend(pair(), ({ status, events }) => {
        if (status.isFinalized) resolve(events.map(({ event }) => event.method))
      })
      .catch(reject),
  )
  const before = await api.at(old)
  return {
    spec: api.runtimeVersion.specVersion.toNumber(),
    events: await sent,
    old_spec: before.runtimeVersion.specVersion.toNumber(),
    old_has_it: before.query.notes !== undefined,
  }
})
finish()
