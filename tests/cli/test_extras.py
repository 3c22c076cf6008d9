"""Who installed for renting alone is told what else a node and a provider need."""

import importlib.metadata
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from deepbrain.cli.extras import EXTRAS, ensure_installed
from deepbrain.cli.failure import UserError


def test_each_extra_lists_the_modules_of_its_packages() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    provided = importlib.metadata.packages_distributions()
    for extra, requirements in declared.items():
        packages = {re.split("[>=]=", requirement)[0].lower() for requirement in requirements}
        tops = {module.partition(".")[0] for module in EXTRAS[extra]}
        listed = {provided[top][0].lower().replace("_", "-") for top in tops}
        assert listed == packages


def test_what_is_missing_is_named_by_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ensure_installed("node", "provider")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'deepbrain\[node,provider\]'"):
        ensure_installed("node", "provider")


def test_a_package_within_one_that_is_missing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "node", ("nosuch.within",))
    with pytest.raises(UserError, match="pip install"):
        ensure_installed("node")
