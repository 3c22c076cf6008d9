// A person with a browser and a wallet extension: connects, fills in a call, looks, signs, waits.
//
// The extension is injected as polkadot{.js} injects itself, and signs as it does: the payload as an
// ExtrinsicPayload of @polkadot/types, with nothing taken from the node but the payload itself.

import { TypeRegistry } from "@polkadot/types"
import { chromium } from "playwright-core"

import { config, finish, pair, step } from "./steps.mjs"

const browser = await chromium.launch({
  executablePath: config.chromium,
  env: { ...process.env, LD_LIBRARY_PATH: config.libraries },
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
})
const page = await browser.newPage()
const said = []
page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`))
page.on("pageerror", (error) => said.push(`error: ${error}`))

const keys = pair()
const signed = []
let provided = null
await page.exposeFunction("__sign", (payload) => {
  signed.push(payload)
  const registry = new TypeRegistry()
  registry.setSignedExtensions(payload.signedExtensions)
  return registry.createType("ExtrinsicPayload", payload, { version: payload.version }).sign(keys)
})
await page.exposeFunction("__provide", (definition) => {
  provided = definition
  return true
})
await page.addInitScript((address) => {
  window.injectedWeb3 = {
    "polkadot-js": {
      version: "0.62.6",
      enable: async () => ({
        accounts: {
          get: async () => [{ address, name: "Renter", type: "sr25519" }],
          subscribe: (callback) => callback([{ address, name: "Renter", type: "sr25519" }]),
        },
        metadata: { get: async () => [], provide: (definition) => window.__provide(definition) },
        signer: { signPayload: async (payload) => ({ id: 1, ...(await window.__sign(payload)) }) },
      }),
    },
  }
}, keys.address)

const text = (id) => page.locator(`#${id}`).textContent()

async function signIt() {
  await page.click("#build")
  await page.locator("#review-section").waitFor()
  const rows = await page.locator("#decoded dt").allTextContents()
  const values = await page.locator("#decoded dd").allTextContents()
  await page.click("#sign")
  await page.locator("#status", { hasText: /^(Done|It failed)/ }).waitFor()
  return {
    decoded: Object.fromEntries(rows.map((row, at) => [row, values[at]])),
    status: await text("status"),
    events: await page.locator("#events li").allTextContents(),
    trouble: await text("trouble"),
  }
}

await step("connect", async () => {
  const answer = await page.goto(`${config.page}/wallet`)
  await page.click("#connect")
  await page.locator("#balance", { hasText: "free" }).waitFor()
  await page.click("#provide")
  return {
    policy: answer.headers()["content-security-policy"],
    chain: await text("chain"),
    head: await text("head"),
    account: await text("account"),
    balance: await text("balance"),
  }
})
await step("transfer", async () => {
  await page.selectOption("#call", "Balances.transfer_keep_alive")
  await page.fill("input[name=dest]", config.dest)
  await page.fill("input[name=value]", "2000000000000000")
  return signIt()
})
await step("place", async () => {
  const link = new URLSearchParams({
    call: "Rent.place",
    machine: config.machine,
    units: "1",
    seconds: "600",
    manifest_hash: "0x" + "11".repeat(32),
    max_total: "1000000000000000000",
    offer_version: "0",
    start_within: "120",
  })
  await page.goto(`${config.page}/wallet?${link}`)
  await page.click("#connect")
  await page.locator("#balance", { hasText: "free" }).waitFor()
  if (config.screenshot) await page.screenshot({ path: config.screenshot, fullPage: true })
  return signIt()
})
await step("failing", async () => {
  await page.fill("input[name=offer_version]", "9")
  return signIt()
})
await step("mistyped", async () => {
  await page.fill("input[name=units]", "many")
  await page.click("#build")
  await page.locator("#trouble", { hasText: "units" }).waitFor()
  return { trouble: await text("trouble") }
})
await step("wallet", async () => ({ signed, provided, said }))
await browser.close()
finish()
