// Signs calls of this chain with an injected wallet. No SCALE here: the node builds the payload, the
// wallet signs it, the node puts the two together. See docs/guide/wallets.md.

const at = (id) => document.getElementById(id)

// -- the node, over one WebSocket

const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/`)
const opened = new Promise((resolve, reject) => {
  socket.onopen = resolve
  socket.onclose = () => {
    reject(new Error("the node cannot be reached"))
    trouble("The connection to the node is gone: load the page again.")
  }
})
const waiting = new Map()
const listeners = new Map()
let lastId = 0

socket.onmessage = ({ data }) => {
  const message = JSON.parse(data)
  if (message.method) {
    const { subscription, result } = message.params
    const listener = listeners.get(subscription)
    if (listener) listener(result)
    else early.set(subscription, [...(early.get(subscription) ?? []), result])
    return
  }
  const { resolve, reject } = waiting.get(message.id)
  waiting.delete(message.id)
  if (message.error) reject(new Error(message.error.data ?? message.error.message))
  else resolve(message.result)
}

async function ask(method, ...params) {
  await opened
  const id = ++lastId
  const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }))
  socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }))
  return answer
}

// Values may come with the very frame that follows the answer: they wait for their listener.
const early = new Map()

async function follow(listener, method, ...params) {
  const name = await ask(method, ...params)
  listeners.set(name, listener)
  early.get(name)?.forEach(listener)
  early.delete(name)
}

// -- showing things: text only, never markup

function trouble(text) {
  at("trouble").textContent = text
  at("trouble").hidden = !text
}

const guarded = (work) => async (event) => {
  trouble("")
  try {
    await work(event)
  } catch (error) {
    trouble(error.message ?? String(error))
  }
}

function option(value, text = value) {
  const made = document.createElement("option")
  made.value = value
  made.textContent = text
  return made
}

function amount(planck, { tokenDecimals, tokenSymbol }) {
  const digits = planck.padStart(tokenDecimals + 1, "0")
  const whole = digits.slice(0, -tokenDecimals)
  const part = digits.slice(-tokenDecimals).replace(/0+$/, "")
  return `${whole}${part && "." + part} ${tokenSymbol}`
}

// -- what the page knows

const asked = new URLSearchParams(location.search)
const [properties, chain, calls] = await Promise.all([
  ask("system_properties"),
  ask("system_chain"),
  ask("wallet_calls"),
]).catch((error) => {
  trouble(error.message)
  throw error
})
let injected = null
let payload = null

at("chain").textContent = chain
await follow(
  (head) => (at("head").textContent = `block ${parseInt(head.number, 16)}`),
  "chain_subscribeFinalizedHeads",
)

// -- 1: the wallet

function listWallets() {
  const names = Object.keys(window.injectedWeb3 ?? {})
  at("wallet").replaceChildren(...names.map((name) => option(name)))
  at("no-wallet").hidden = names.length > 0
  at("connect").disabled = names.length === 0
}
listWallets()
// Extensions inject themselves while the page loads, some a little later.
setTimeout(listWallets, 500)

at("connect").onclick = guarded(async () => {
  const found = window.injectedWeb3[at("wallet").value]
  injected = await (found.connect ?? found.enable).call(found, "DeepBrain")
  const accounts = await injected.accounts.get()
  if (!accounts.length) throw new Error("the wallet shows no account to this page: allow one there")
  at("account").replaceChildren(
    ...accounts.map(({ address, name }) => option(address, name ? `${name} · ${address}` : address)),
  )
  at("account").disabled = false
  at("build").disabled = false
  at("provide").hidden = !injected.metadata?.provide
  await showBalance()
})

at("provide").onclick = guarded(async () => {
  const known = await injected.metadata.provide(await ask("wallet_metadata"))
  if (!known) throw new Error("the wallet did not take it")
})

const showBalance = guarded(async () => {
  const found = await ask("wallet_balance", at("account").value)
  at("balance").textContent = `${amount(found.free, properties)} free`
})
at("account").onchange = showBalance

// -- 2: the call; a link may fill it in: /wallet?call=Rent.place&units=1&…

at("call").replaceChildren(...calls.map(({ pallet, call }) => option(`${pallet}.${call}`)))
at("call").value = asked.get("call") ?? "Balances.transfer_keep_alive"
if (!at("call").value) at("call").selectedIndex = 0

function showFields() {
  const { docs, fields } = calls[at("call").selectedIndex]
  at("docs").textContent = docs.join(" ")
  at("fields").replaceChildren(
    ...fields.map(({ name, type }) => {
      const label = document.createElement("label")
      const note = document.createElement("small")
      note.textContent = ` ${type}`
      const input = document.createElement("input")
      input.name = name
      input.value = asked.get(name) ?? ""
      label.append(name, note, input)
      return label
    }),
  )
  at("review-section").hidden = true
}
at("call").onchange = showFields
showFields()

// What is typed is text, unless it reads as JSON: [1, 2], {"a": 1}, null, true.
function typed(text) {
  if (!/^(\[|\{|null$|true$|false$)/.test(text.trim())) return text.trim()
  return JSON.parse(text)
}

at("build").onclick = guarded(async () => {
  const { pallet, call } = calls[at("call").selectedIndex]
  const inputs = [...at("fields").querySelectorAll("input")]
  const values = Object.fromEntries(inputs.map(({ name, value }) => [name, typed(value)]))
  payload = await ask("wallet_buildPayload", at("account").value, pallet, call, values)
  const said = await ask("wallet_decodePayload", payload)
  const rows = [
    ["Call", said.call.name],
    ...Object.entries(said.call.arguments).map(([name, value]) => [
      name,
      typeof value === "string" ? value : JSON.stringify(value),
    ]),
    ["Signed by", said.signer],
    ["Fee", amount(said.fee, properties)],
    ["On", said.chain],
    ["Not after block", String(said.until_block)],
    ["Bytes", payload.method],
  ]
  at("decoded").replaceChildren(
    ...rows.flatMap(([term, text]) => {
      const dt = document.createElement("dt")
      const dd = document.createElement("dd")
      dt.textContent = term
      dd.textContent = text
      return [dt, dd]
    }),
  )
  at("review-section").hidden = false
  at("sign").disabled = false
})

// -- 3 and 4: the signature, and what becomes of it

at("sign").onclick = guarded(async () => {
  at("sign").disabled = true
  at("status").textContent = "waiting for the wallet"
  at("status").classList.remove("failed")
  at("status-section").hidden = false
  at("events").replaceChildren()
  const { signature } = await injected.signer.signPayload(payload)
  await follow(showStatus, "wallet_submitSigned", payload, signature)
})

function showStatus(status) {
  const shown = at("status")
  if (typeof status === "string") {
    shown.textContent = status
  } else if (status.finalized) {
    shown.textContent = status.success
      ? `Done, in block ${status.finalized}. Fee: ${amount(status.fee, properties)}.`
      : `It failed, and only the fee was taken: ${status.error}`
    shown.classList.toggle("failed", !status.success)
    at("events").replaceChildren(
      ...status.events.map(({ event, data }) => {
        const item = document.createElement("li")
        item.textContent = `${event} ${JSON.stringify(data)}`
        return item
      }),
    )
    showBalance()
  } else {
    shown.textContent = Object.keys(status)[0]
  }
}
