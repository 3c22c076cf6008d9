// What every driver shares: its arguments, its steps, and how it tells what it saw.
//
//   node <driver>.mjs '{"url": …, "signer": …, "dest": …, "machine": …}'
//
// One JSON object on standard output: step by step what the client saw, or the error it met.

import { readFileSync } from "node:fs"

import { Keyring } from "@polkadot/keyring"
import { cryptoWaitReady } from "@polkadot/util-crypto"

export const PLANCK = 10n ** 15n
export const MANIFEST = "0x" + "11".repeat(32)
export const config = JSON.parse(process.argv[2])

await cryptoWaitReady()

export const pair = (type = "sr25519") =>
  new Keyring({ type, ss58Format: 42 }).addFromUri(config.signer)

export const versionOf = (name) =>
  JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version

const seen = {}
// A client that cannot connect tries for ever.
setTimeout(finish, 150_000).unref()

export async function step(name, work) {
  const timeout = new Promise((_, reject) =>
    setTimeout(() => reject(new Error("no answer within 60 s")), 60_000).unref(),
  )
  try {
    seen[name] = await Promise.race([work(), timeout])
  } catch (error) {
    seen[name] = { error: String(error?.stack ?? error) }
  }
}

export function finish() {
  const write = (_, value) => (typeof value === "bigint" ? value.toString() : value)
  process.stdout.write(JSON.stringify(seen, write) + "\n", () => process.exit(0))
}

export const collect = (count, subscribe) =>
  new Promise((resolve, reject) => {
    const values = []
    Promise.resolve(
      subscribe((value) => {
        if (values.length < count && values.push(value) === count) resolve(values)
      }),
    ).catch(reject)
  })
