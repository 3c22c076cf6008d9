"""Which driver gVisor's proxy knows, asked of the gVisor that is here."""

import os
from pathlib import Path

import pytest

from deepbrain.sandbox.gpu_checks import gpu_findings
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.nvidia import driver_problem, driver_version, nearest, supported_drivers


@pytest.fixture
def runsc() -> Path:
    found = Programs.find().runsc
    if found is None:
        reason = "scripts/get-gvisor was not run"
        pytest.fail(reason) if os.environ.get("REQUIRE_GVISOR") else pytest.skip(reason)
    return found


def test_the_loaded_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path / "none") == ""
    (tmp_path / "version").write_text("580.126.20\n")
    assert driver_version(tmp_path / "version") == "580.126.20"
    (tmp_path / "version").write_text("not a version\n")
    assert driver_version(tmp_path / "version") == ""


def test_what_this_gvisor_knows(runsc: Path) -> None:
    known = supported_drivers(runsc)
    assert len(known) > 5
    assert driver_problem(runsc, known[-1]) == ""
    assert "not loaded" in driver_problem(runsc, "")
    branch = known[0].partition(".")[0]
    assert driver_problem(runsc, f"{branch}.1.1").endswith(f"install {nearest(branch, known)}")


def test_the_version_to_install() -> None:
    known = ("535.129.03", "550.90.12", "550.163.01", "580.65.06")
    assert nearest("550.1", known) == "550.163.01"
    assert nearest("999.1", known) == "580.65.06"


def test_what_doctor_says(runsc: Path, tmp_path: Path) -> None:
    known = supported_drivers(runsc)
    driver, devices = gpu_findings(known[-1], runsc, [tmp_path])
    assert driver.ok
    assert not devices.ok
    assert "nvidia-ctk cdi generate" in devices.hint
    driver, _ = gpu_findings("1.1", runsc, [tmp_path])
    assert not driver.ok
    assert "install" in driver.detail


def test_a_program_that_is_no_gvisor_knows_none(tmp_path: Path) -> None:
    assert supported_drivers(Path("/bin/false")) == ()
    assert "newer one" in driver_problem(Path("/bin/false"), "580.65.06")
