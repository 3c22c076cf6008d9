"""Generate `docs/spec` from the pallets: one page for each, and the golden metadata.

    python tools/spec.py             write the pages, the golden metadata and the hash of the rules
    python tools/spec.py --check     exit 1, naming what is stale

Nothing in these pages is written by hand but the glossary.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import source_hash

from deepbrain.frame.calls import CallDefinition
from deepbrain.frame.docs import attribute_docs, lines_of
from deepbrain.frame.metadata import pallet_docs
from deepbrain.frame.origin import ANYONE, SIGNED, Authority
from deepbrain.frame.pallet import Pallet, chain_name
from deepbrain.runtime.chainspec import ChainSpec
from deepbrain.runtime.runtime import PALLETS, Runtime
from deepbrain.scale import Struct, fields_of
from deepbrain.scale.registry import type_name

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ROOT / "docs/spec"
GOLDEN: Final = ROOT / "tests/vectors/metadata-dev.json"
SPECS: Final = ("dev", "local", "mainnet")
ORIGINS: Final = {
    SIGNED: "signed", ANYONE: "signed or root", Authority.ROOT: "root",
    Authority.INHERENT: "the block itself",
}  # fmt: skip


def runtime_of(name: str) -> Runtime:
    """The runtime of a spec file."""
    path = ROOT / "src/deepbrain/runtime/specs" / f"{name}.json"
    return Runtime(ChainSpec.parse(json.loads(path.read_text())))


def page(pallet: type[Pallet], runtimes: dict[str, Runtime]) -> str:
    """The chapter of one pallet."""
    docs = attribute_docs(pallet)
    sections = [
        f"# {pallet.chain_name} (pallet {pallet.index})",
        f"*Generated from `{pallet.__module__}` by `make spec`.*",
        "```text\n" + "\n".join(pallet_docs(pallet)) + "\n```",
        *_constants(pallet, docs, runtimes),
        *_storage(pallet, docs),
        *_calls(pallet),
        *_classes("Events", pallet.event_types),
        *_classes("Errors", pallet.error_types),
    ]
    return "\n\n".join(sections) + "\n"


def _constants(
    pallet: type[Pallet], docs: dict[str, tuple[str, ...]], runtimes: dict[str, Runtime]
) -> Iterator[str]:
    if not pallet.constant_hints:
        return
    rows = [
        [
            f"`{chain_name(name)}`",
            _type(hint),
            *(_value(r.constants[pallet.chain_name][name]) for r in runtimes.values()),
            " ".join(docs[name]),
        ]
        for name, hint in pallet.constant_hints.items()
    ]
    yield "## Constants"
    yield _table(["constant", "type", *runtimes, "meaning"], rows)


def _storage(pallet: type[Pallet], docs: dict[str, tuple[str, ...]]) -> Iterator[str]:
    if not pallet.storage:
        return
    rows = []
    for attribute, item in pallet.storage.items():
        keys = ", ".join(f"{_type(key.hint)} ({key.hasher.name.lower()})" for key in item.keys_of)
        most = item.codec.max_encoded_len
        bound = "unbounded" if most is None else f"{most} B"
        rows.append([f"`{item.name}`", keys, _type(item.hint), bound, " ".join(docs[attribute])])
    yield "## Storage"
    yield _table(["item", "keys", "value", "at most", "meaning"], rows)


def _calls(pallet: type[Pallet]) -> Iterator[str]:
    if not pallet.call_definitions:
        return
    yield "## Calls"
    for definition in pallet.call_definitions.values():
        yield _call(definition)


def _call(definition: CallDefinition) -> str:
    parameters = ", ".join(f"{f.wire_name}: {type_name(f.hint)}" for f in definition.fields)
    more = " and by size" if definition.size else ""
    facts = (
        f"Origin: {ORIGINS[definition.origin]}. Class: {definition.dispatch_class.name.lower()}. "
        f"Weight: {definition.reads} reads, {definition.writes} writes{more}."
    )
    text = "\n".join(lines_of(definition.doc))
    return f"### {definition.index} · `{definition.name}({parameters})`\n\n{text}\n\n{facts}"


def _classes(title: str, classes: Any) -> Iterator[str]:
    if not classes:
        return
    rows = []
    for index, cls in classes.items():
        fields = ""
        if issubclass(cls, Struct):
            fields = ", ".join(f"{f.wire_name}: {type_name(f.hint)}" for f in fields_of(cls))
        rows.append([str(index), f"`{cls.__name__}`", fields, " ".join(lines_of(cls.__doc__))])
    heads = ["index", "name", "fields", "meaning"]
    if not any(row[2] for row in rows):
        heads, rows = [heads[0], heads[1], heads[3]], [[a, b, d] for a, b, _, d in rows]
    yield f"## {title}"
    yield _table(heads, rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines
    )


def _type(hint: Any) -> str:
    return f"`{type_name(hint)}`"


def _value(value: Any) -> str:
    if isinstance(value, int):
        return f"{int(value):,}"
    if isinstance(value, tuple):
        return "; ".join(_value(item) for item in value)
    if isinstance(value, Struct):
        shown = [getattr(value, f.name) for f in fields_of(type(value))]
        return ", ".join(_value(item) for item in shown)
    return "–" if value is None else str(value)


def pages() -> Iterator[tuple[Path, str]]:
    """Every generated file with its content."""
    runtimes = {name: runtime_of(name) for name in SPECS}
    for pallet in PALLETS:
        name = re.sub("(?<!^)([A-Z])", r"-\1", pallet.chain_name).lower()
        yield PAGES / f"{name}.md", page(pallet, runtimes)
    golden = {str(v): "0x" + runtimes["dev"].metadata(v).hex() for v in (14, 15)}
    yield GOLDEN, json.dumps(golden, indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check."""
    stale = [path for path, text in pages() if not path.exists() or path.read_text() != text]
    if arguments == ["--check"]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: run `make spec`")
        return max(source_hash.main(arguments), 1 if stale else 0)
    for path, text in pages():
        path.write_text(text)
    return source_hash.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
