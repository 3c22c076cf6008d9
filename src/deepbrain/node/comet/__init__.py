"""The engine of many validators: CometBFT, a process beside the node, and the socket between them.

    program    which CometBFT, where it is, how to get it
    home       its directory: genesis, keys and settings, all made from the chain spec
    process    the process, kept running; complaints, what it says, goes into our log
    socket     its four connections: frames in and out
    app        what it asks and what we answer, by way of ledger and pool
    snapshots  what nodes join by: taken (`taking`, a process of its own), offered, applied
    retaining  which of its blocks CometBFT may forget
    engine     all of it as one `Engine`

CometBFT gossips, agrees and keeps the blocks. The pool is ours, and so is every rule.
"""
