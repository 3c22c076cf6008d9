"""The store on disk: one LMDB environment in one directory.

store     what is written when, the guards, the lock
snapshot  reading one block's state
versions  a table with the history of its entries
"""

from deepbrain.state.lmdb.store import LmdbStore

__all__ = ["LmdbStore"]
