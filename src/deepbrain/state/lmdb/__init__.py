"""The store on disk: one LMDB environment in one directory.

store     what is written when, the guards, the lock
reader    reading it, from another process too
snapshot  reading one block's state
versions  a table with the history of its entries
"""

from deepbrain.state.lmdb.reader import LmdbReader
from deepbrain.state.lmdb.store import LmdbStore

__all__ = ["LmdbReader", "LmdbStore"]
