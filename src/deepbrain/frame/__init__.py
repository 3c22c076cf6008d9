"""How a pallet is written.

pallet     the class a pallet derives from; constants, events, errors, `ensure`
storage    Value, Maybe, Counter, Map, DoubleMap: typed items, bound to a block or not
journal    the typed memory of one block, with undo
calls      `@call`, and a call as a value
dispatch   who may call, and what a failure is on the wire
weight     what a call is charged for
schedule   things to do at a second of service time, a bounded number a block
account    what the chain keeps of an account
traits     the small interfaces that pallets ask of one another
metadata   pallets, docstrings included, as wallets read them

Nothing here knows a pallet; `runtime` puts pallets together.
"""
