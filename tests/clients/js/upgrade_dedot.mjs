// dedot while a new version of the rules takes over: it stays connected.

import { DedotClient, LegacyClient, WsProvider } from "dedot"

import { config, finish, pair, step, upgraded } from "./steps.mjs"

const provider = new WsProvider(config.url)
const client = config.legacy ? await LegacyClient.new(provider) : await DedotClient.new(provider)
const old = (await client.block.finalized()).hash

await step("upgrade", async () => {
  await upgraded(() => {
    try {
      return client.tx.notes.note("0x01") && client.runtimeVersion.specVersion === 2
    } catch {
      return false // it has not read the new metadata yet
    }
  })
  const { events } = await client.tx.notes.note("0x0102").signAndSend(pair()).untilFinalized()
  const before = await client.at(old)
  return {
    spec: client.runtimeVersion.specVersion,
    events: events.map(({ event }) => event.palletEvent.name ?? event.palletEvent),
    old_spec: (await before.query.system.lastRuntimeUpgrade()).specVersion,
    old_has_it: (() => {
      try {
        return Boolean(before.query.notes.since)
      } catch {
        return false
      }
    })(),
  }
})
finish()
