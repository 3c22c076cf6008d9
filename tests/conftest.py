"""Profiles of the property tests: `dev` (default), `ci`, `night`; chosen by HYPOTHESIS_PROFILE."""

import os

import pytest
from hypothesis import HealthCheck, settings

for name, examples, steps in (("dev", 30, 30), ("ci", 60, 40), ("night", 3000, 100)):
    settings.register_profile(
        name,
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

LONG = ("test_sandbox_as_others.py",)
"""Files that take minutes: first, or the other workers would wait for them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)
