"""Refuse, on the deterministic floors, what could make two nodes compute different blocks.

    python tools/determinism.py            exit 0, or one line for each finding and exit 1

Floors: primitives, scale, frame, pallets, runtime. A line may carry `determinism: allow` in a comment
that says why the finding cannot reach the state: what a proposer leaves out, what a person reads,
what happens once at import.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
FLOORS: Final = ("primitives", "scale", "frame", "pallets", "runtime")
ALLOWED: Final = "determinism: allow"

# fmt: off
MODULES: Final = frozenset({
    "asyncio", "datetime", "io", "lmdb", "locale", "logging", "multiprocessing", "os", "pathlib",
    "platform", "random", "secrets", "shutil", "signal", "socket", "subprocess", "tempfile",
    "threading", "time", "uuid",
})
# fmt: on
CALLS: Final = {
    "float": "a float is not the same everywhere",
    "hash": "differs with PYTHONHASHSEED",
    "id": "differs with every process",
    "open": "I/O",
    "print": "I/O",
    "input": "I/O",
    "lru_cache": "a cache is state outside the state",
    "cached_property": "a cache is state outside the state",
}
# fmt: off
TEXT_METHODS: Final = frozenset({
    "capitalize", "casefold", "isalnum", "isalpha", "isdecimal", "isdigit", "isidentifier", "islower",
    "isnumeric", "isprintable", "isspace", "istitle", "isupper", "lower", "swapcase", "title", "upper",
})
# fmt: on
TEXT_FLOORS: Final = ("frame", "pallets", "runtime")
"""Below them text is only what a person typed: phrases, addresses."""
UNICODE: Final = "Unicode tables differ between Pythons"
CATCH_ALL: Final = frozenset({"Exception", "BaseException"})


class Finding(NamedTuple):
    """One thing that must not be there."""

    line: int
    what: str


def findings(tree: ast.Module) -> Iterator[Finding]:
    """Everything that may differ between nodes."""
    for node in ast.walk(tree):
        for what in _of_node(node):
            yield Finding(getattr(node, "lineno", 0), what)
    for pallet in _pallets(tree):
        yield from _late_writes(pallet)


def _of_node(node: ast.AST) -> Iterator[str]:
    yield from _of_value(node)
    yield from _of_import(node)
    match node:
        case ast.Assert():
            yield "`assert`: gone under -O; use `ensure`"
        case ast.ExceptHandler(type=None):
            yield "a bare `except`"
        case ast.ExceptHandler(type=caught) if _names(caught) & CATCH_ALL:
            yield "a catch-all `except`: a MemoryError must not become a result"
        case ast.For(iter=walked) | ast.comprehension(iter=walked) if _is_set(walked):
            yield "iteration over a set: its order differs with PYTHONHASHSEED"
        case ast.Global() | ast.Nonlocal():
            yield "a variable written from elsewhere"
        case _:
            pass


def _of_value(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Constant(value=float()):
            yield "a float literal"
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            yield "`/`: use `//`"
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            yield f"`{name}()`: {CALLS[name]}"
        case ast.Call(func=ast.Name(id="int"), args=[_, _, *_]):
            yield "`int` of a text: its limits differ between Pythons"
        case ast.Call(func=ast.Attribute(attr=name)) if name in TEXT_METHODS:
            yield f"`.{name}()`: {UNICODE}"
        case _:
            pass


def _of_import(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (f"import of {n.name}" for n in names if n.name.split(".")[0] in MODULES)
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
            yield f"import of {module}"
        case ast.ImportFrom(module="functools", names=names):
            yield from (f"import of {n.name}" for n in names if n.name.endswith("cache"))
        case _:
            pass


def _names(node: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()


def _is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("set", "frozenset")
    )


def _pallets(tree: ast.Module) -> Iterator[ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and "Pallet" in {
            base.id for base in node.bases if isinstance(base, ast.Name)
        }:
            yield node


def _late_writes(pallet: ast.ClassDef) -> Iterator[Finding]:
    """Attributes of a pallet written after its construction: state that no rollback undoes."""
    for method in pallet.body:
        if isinstance(method, ast.FunctionDef) and method.name != "__init__":
            for node in ast.walk(method):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    yield Finding(
                        node.lineno, f"`{ast.unparse(node)}` written in a pallet's method"
                    )


def check(path: Path) -> Iterator[str]:
    """The findings of one file, as they are printed."""
    source = path.read_text()
    lines = source.splitlines()
    for finding in sorted(findings(ast.parse(source))):
        if UNICODE in finding.what and not any(f"/{floor}/" in str(path) for floor in TEXT_FLOORS):
            continue
        if ALLOWED not in lines[finding.line - 1]:
            yield f"{path.relative_to(ROOT)}:{finding.line}: {finding.what}"


def main() -> int:
    """Check every file of the floors."""
    found = [
        line
        for floor in FLOORS
        for path in sorted((ROOT / "src/deepbrain" / floor).rglob("*.py"))
        for line in check(path)
    ]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
