// Read proofs of the state, checked by polkadot-api's verifier, which knows nothing of our node.

import { trieNodeDec, validateProofs } from "@polkadot-api/substrate-bindings"

import { config, finish, step } from "./steps.mjs"

async function rpc(method, ...params) {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })
  const headers = { "Content-Type": "application/json" }
  const answer = await (await fetch(config.page, { method: "POST", headers, body })).json()
  if (answer.error) throw new Error(answer.error.message)
  return answer.result
}

// The value of a key under a root, or null where the proof shows that there is none.
function valueOf({ rootHash, proofs }, key) {
  let node = proofs[rootHash]
  let rest = key.slice(2)
  for (;;) {
    if (!rest.startsWith(node.partialKey)) return null
    rest = rest.slice(node.partialKey.length)
    if (!rest) break
    const child = node.children?.[rest[0]]
    if (!child) return null
    node = proofs[child] ?? trieNodeDec(child)
    rest = rest.slice(1)
  }
  if (node.value === undefined) return null
  if (node.type.endsWith("WithHash")) return proofs[node.value].value
  return "0x" + node.value.slice(4) // a value of at most 32 bytes, with its length in front
}

const flipped = (node, at) => {
  const digit = (parseInt(node[at], 16) ^ 1).toString(16)
  return node.slice(0, at) + digit + node.slice(at + 1)
}

function accepted(proof, root) {
  try {
    return validateProofs(proof)?.rootHash === root
  } catch {
    return false
  }
}

await step("proofs", async () => {
  const at = await rpc("chain_getFinalizedHead")
  const { stateRoot } = await rpc("chain_getHeader", at)
  const found = {}
  let tampered = 0
  let survived = 0
  for (const [name, key] of Object.entries(config.keys)) {
    const { proof } = await rpc("state_getReadProof", [key], at)
    const checked = validateProofs(proof)
    found[name] = {
      root: checked.rootHash === stateRoot,
      proven: valueOf(checked, key),
      stored: await rpc("state_getStorage", key, at),
    }
    for (const [place, node] of proof.entries()) {
      for (let digit = 2; digit < node.length; digit += 7) {
        const changed = proof.with(place, flipped(node, digit))
        tampered += 1
        survived += accepted(changed, stateRoot)
      }
    }
  }
  return { found, tampered, survived }
})
finish()
