"""Machines of many steps: how long they take is the machine's matter, and a time-out reads as a flaky rule."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "stateful":
            item.add_marker(pytest.mark.timeout(300))
