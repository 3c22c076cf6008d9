"""The protocol, one noun per file. Pallets do not know each other: `runtime` introduces them."""
