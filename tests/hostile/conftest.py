"""Attacks on one machine run one at a time; those that measure shares and limits run alone (`alone`)."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "hostile":
            item.add_marker(pytest.mark.e2e)
            if not any(item.iter_markers("timeout")):
                item.add_marker(pytest.mark.timeout(120))
