"""The plainest possible states, to hold the fast ones against."""


class DictState:
    """A `TrieReader` over two dicts."""

    def __init__(self, items=(), branches=()):
        self.items = dict(items)
        self.branches = dict(branches)

    def get(self, key):
        return self.items.get(key)

    def get_many(self, keys):
        return [self.items.get(key) for key in keys]

    def iterate(self, prefix, after=None):
        for key in sorted(self.items):
            if key.startswith(prefix) and (after is None or key > after):
                yield key, self.items[key]

    def seek(self, key):
        return min(((k, v) for k, v in self.items.items() if k >= key), default=None)

    def branch(self, path):
        return self.branches.get(path)

    def apply(self, changes, branches=()):
        for table, delta in ((self.items, changes), (self.branches, dict(branches))):
            for key, value in delta.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
