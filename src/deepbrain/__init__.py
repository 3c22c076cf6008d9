"""DeepBrain: a decentralised GPU cloud and the chain that pays, proves and governs it."""

__version__ = "0.1.0"
