"""Refuse what could make two nodes compute different blocks.

Every node must get the same bytes from the same block, on any Python, with or without `-O`. So the
deterministic floors may not use what differs between machines, runs or versions:

    D1  float literals, `float`, true division, `round`       D6  `assert` (gone under -O)
    D2  clocks, files, sockets, threads, randomness           D7  `except Exception`, `except BaseException`, bare `except`
    D3  iteration over sets (order follows the hash seed)     D8  lru_cache, cache: state that outlives a block
    D4  `hash()`, `id()`                                      D9  `global`: module state that changes
    D5  numbers as text: `int(text)`, `.isdigit()`, casing    D10 `os.environ`, `input`, `open`, `print`, `eval`, `exec`

A line that is known to be harmless carries `# deterministic: <reason>`, or has it right above it.

    python tools/determinism.py [PATH ...]
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1] / "src" / "deepbrain"
FLOORS: Final = ("frame", "pallets", "runtime", "scale", "primitives")

MODULES: Final = {
    "asyncio", "concurrent", "contextvars", "datetime", "decimal", "fractions", "locale", "logging",
    "math", "multiprocessing", "os", "pathlib", "platform", "random", "secrets", "select",
    "selectors", "signal", "socket", "statistics", "subprocess", "tempfile", "threading", "time",
    "uuid", "weakref",
}  # fmt: skip
CALLS: Final = {
    "float": "D1", "round": "D1", "hash": "D4", "id": "D4", "open": "D10", "print": "D10",
    "input": "D10", "eval": "D10", "exec": "D10", "lru_cache": "D8", "cache": "D8",
}  # fmt: skip
TEXT: Final = {
    "isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isidentifier", "isprintable",
    "lower", "upper", "casefold", "title", "capitalize", "swapcase",
}  # fmt: skip
SETS: Final = frozenset(("set", "frozenset"))
EXCUSE: Final = "# deterministic: "


def findings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every (line, what) in a module that could differ between nodes."""
    for node in ast.walk(tree):
        found = _finding(node)
        if found:
            yield getattr(node, "lineno", 0), found


def _finding(node: ast.AST) -> str | None:
    match node:
        case ast.Constant(value=float() | complex()):
            return "D1: a float"
        case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
            return "D1: true division"
        case ast.Import(names=names):
            bad = [name.name for name in names if name.name.split(".")[0] in MODULES]
            return f"D2: imports {bad[0]}" if bad else None
        case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
            return f"D2: imports {module}"
        case ast.For(iter=iterable) | ast.comprehension(iter=iterable) if _is_set(iterable):
            return "D3: iterates over a set"
        case ast.Call(func=ast.Name(id=name)) if name in CALLS:
            return f"{CALLS[name]}: {name}()"
        case ast.Call(func=ast.Attribute(attr=name)) if name in TEXT:
            return f"D5: .{name}()"
        case ast.Assert():
            return "D6: assert"
        case ast.ExceptHandler(type=None):
            return "D7: bare except"
        case ast.ExceptHandler(type=ast.Name(id="Exception" | "BaseException" as name)):
            return f"D7: except {name}"
        case ast.Global():
            return "D9: global"
        case _:
            return _decorated(node)


def _is_set(node: ast.expr) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name)):
            return name in SETS
        case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.Sub(), right=right):
            return _is_set(left) or _is_set(right)
        case _:
            return False


def _decorated(node: ast.AST) -> str | None:
    for decorator in getattr(node, "decorator_list", ()):
        name = decorator.func if isinstance(decorator, ast.Call) else decorator
        text = getattr(name, "attr", getattr(name, "id", ""))
        if text in ("lru_cache", "cache", "cached_property"):
            return f"D8: @{text}"
    return None


def check(path: Path) -> list[str]:
    """The findings of a file that are not excused, as `path:line: what`."""
    source = path.read_text()
    lines = source.splitlines()
    return [
        f"{path}:{line}: {what}"
        for line, what in findings(ast.parse(source))
        if not any(EXCUSE in near for near in lines[max(0, line - 2) : line])
    ]


def main() -> int:
    named = [Path(argument) for argument in sys.argv[1:]]
    paths = named or sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
    problems = [problem for path in paths for problem in check(path)]
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
