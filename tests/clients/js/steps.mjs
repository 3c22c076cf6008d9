// What every driver shares: its arguments, its steps, and how it tells what it saw.
//
//   node <driver>.mjs '{"url": …, "signer": …, "dest": …, "machine": …}'
//
// One JSON object on standard output: step by step what the client saw, or the error it met.

import { readFileSync } from "node:fs"

import { Keyring } from "@polkadot/keyring"
import { cryptoWaitReady } from "@polkadot/util-crypto"
import WebSocket from "ws"

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

// Tell who drives us that the upgrade may come, and wait until the client has seen it.
export async function upgraded(holds) {
  process.stderr.write("ready\n")
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 100))
}

// polkadot-api takes chainHead_v1 where `rpc_methods` lists it, and the legacy methods elsewhere.
class LegacySocket extends WebSocket {
  addEventListener(type, listener, ...more) {
    const filtered = (event) => {
      const message = JSON.parse(event.data)
      const methods = message.result?.methods
      if (methods) message.result.methods = methods.filter((name) => !/_v1_/.test(name))
      listener({ type, target: this, data: JSON.stringify(message) })
    }
    super.addEventListener(type, type === "message" ? filtered : listener, ...more)
  }
}

export const SocketOf = (legacy) => (legacy ? LegacySocket : WebSocket)
