"""The pages hold together: their links lead somewhere, and what is generated is fresh."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, headings, links, pages

from deepbrain.frame.docs import attribute_docs
from deepbrain.frame.pallet import Pallet
from deepbrain.runtime.runtime import PALLETS


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for number, link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside = target == ROOT or ROOT in target.parents
        if not inside or not target.exists():
            broken.append(f"{page.relative_to(ROOT)}:{number}: {link} is not there")
        elif anchor and target.suffix == ".md" and anchor not in headings(target):
            broken.append(f"{page.relative_to(ROOT)}:{number}: {link} names no heading")
    assert not broken, "\n".join(broken)


def test_the_spec_is_what_the_pallets_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/spec.py"), "--check"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("pallet", PALLETS, ids=lambda pallet: pallet.chain_name)
def test_everything_of_a_pallet_is_explained(pallet: type[Pallet]) -> None:
    """By words of its own: a class without a docstring inherits its base's."""
    written = attribute_docs(pallet)
    attributes = {*pallet.storage, *pallet.constant_hints}
    silent = [name for name in attributes if not any(written.get(name, ()))]
    classes = (*pallet.event_types.values(), *pallet.error_types.values())
    silent += [cls.__name__ for cls in classes if not (cls.__dict__.get("__doc__") or "").strip()]
    silent += [
        definition.name
        for definition in pallet.call_definitions.values()
        if not (definition.doc or "").strip()
    ]
    assert not silent


def test_every_call_states_its_cost() -> None:
    silent = [
        f"{pallet.chain_name}.{definition.name}"
        for pallet in PALLETS
        for definition in pallet.call_definitions.values()
        if "Cost:" not in (definition.doc or "")
    ]
    assert not silent


def test_every_test_that_security_names_exists() -> None:
    """In one of the files that the row links to, `same` being the row before."""
    files: list[Path] = []
    missing = []
    page = ROOT / "docs/security.md"
    for row in page.read_text(encoding="utf-8").splitlines():
        if not row.startswith("| "):
            continue
        linked = [page.parent / target for target in re.findall(r"\]\(([^()]+\.py)\)", row)]
        files = [*files, *linked] if "| same" in row else linked
        written = "".join(path.read_text(encoding="utf-8") for path in files)
        names = re.findall(r"`(test_\w+)`", row)
        missing += [name for name in names if f"def {name}(" not in written]
    assert not missing


def test_every_file_that_the_architecture_names_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/*]*(?:\.[a-z]+)?)`", text)
    places = (ROOT, ROOT / "src/deepbrain")
    assert len(named) > 10
    assert not [name for name in named if not any(list(each.glob(name)) for each in places)]
