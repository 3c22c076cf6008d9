"""Docstrings, as they stand in the metadata and in `docs/spec`."""

import ast
import inspect
import sys
from itertools import pairwise


def lines_of(text: str | None) -> tuple[str, ...]:
    """The lines of a docstring, without its indentation."""
    return tuple(inspect.cleandoc(text).split("\n")) if text else ()


def attribute_docs(cls: type) -> dict[str, tuple[str, ...]]:
    """The strings that stand below the annotated attributes of a class, by attribute.

    Python does not keep them, so they are read from the source. Raises: OSError: it is not there.
    """
    tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
    body = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == cls.__name__
    )
    docs: dict[str, tuple[str, ...]] = {}
    for statement, below in pairwise(body):
        match statement, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                docs[name] = lines_of(text)
            case _:
                pass
    return docs
