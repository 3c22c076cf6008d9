"""The lint of the deterministic floors finds what it is there for."""

import ast
import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "determinism", Path(__file__).parents[2] / "tools" / "determinism.py"
)
lint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lint)


@pytest.mark.parametrize(
    "source",
    [
        "x = 0.5",
        "x = a / b",
        "a /= b",
        "assert x",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (ValueError, BaseException):\n    pass",
        "for x in {1, 2}:\n    pass",
        "y = [x for x in set(z)]",
        "import time",
        "import os.path",
        "from random import choice",
        "from functools import lru_cache",
        "hash(x)",
        "id(x)",
        "open(x)",
        "int(text, 16)",
        "name.isdigit()",
        "name.lower()",
        "def f():\n    global x",
        "class Rent(Pallet):\n    def place(self):\n        self.cache = 1",
    ],
)
def test_found(source):
    assert list(lint.findings(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "x = a // b",
        "try:\n    f()\nexcept ValueError:\n    pass",
        "for x in sorted({1, 2}):\n    pass",
        "if x in {1, 2}:\n    pass",
        "from functools import partial",
        "int(x)",
        "class Rent(Pallet):\n    def __init__(self):\n        self.cache = 1",
    ],
)
def test_not_found(source):
    assert not list(lint.findings(ast.parse(source)))
