// polkadot-api while a new version of the rules takes over: it stays connected.

import { createClient } from "polkadot-api"
import { getPolkadotSigner } from "polkadot-api/signer"
import { getWsProvider } from "polkadot-api/ws"

import { SocketOf, config, finish, pair, step, upgraded } from "./steps.mjs"

const client = createClient(getWsProvider(config.url, { websocketClass: SocketOf(config.legacy) }))
const api = client.getUnsafeApi()
const keys = pair()
const signer = getPolkadotSigner(keys.addressRaw, "Sr25519", (data) => keys.sign(data))
await api.constants.System.Version()
const old = (await client.getFinalizedBlock()).hash

await step("upgrade", async () => {
  let spec = 1
  await upgraded(async () => {
    spec = (await (await client.getUnsafeApi()).constants.System.Version()).spec_version
    return spec === 2
  })
  const done = await api.tx.Notes.note({ text: new Uint8Array([1, 2]) }).signAndSubmit(signer)
  return {
    spec,
    events: done.events.map(({ value }) => value.type),
    old_spec: (await api.query.System.LastRuntimeUpgrade.getValue({ at: old })).spec_version,
    old_has_it: await api.query.Notes.Since.getValue({ at: old }).then(
      (since) => Boolean(since),
      () => false,
    ),
  }
})
finish()
