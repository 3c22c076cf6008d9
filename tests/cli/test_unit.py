"""The systemd unit: systemd itself takes it, and it keeps tenants over a restart."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deepbrain.cli.provider import unit

TEXT = unit.text(
    ("/usr/bin/env", "a b", 'say "hi"', "100%", "$HOME", "back\\slash"),
    ("controller.password", Path("/etc/dbc/controller.password")),
    {"DBC_RUNSC": "/opt/a b/runsc"},
)

NAMESPACING = re.compile(
    r"^(Protect\w+|Private\w+|\w+Paths|\w+Directory|\w*Namespace\w*|BindPaths|TemporaryFileSystem|"
    r"MountFlags|RootImage|DynamicUser|ProcSubset|MountAPIVFS|JoinsNamespaceOf)=",
    re.MULTILINE,
)


def settings(text: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing on this machine")
    path = tmp_path / "dbc-provider.service"
    path.write_text(TEXT)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    # Other units of the machine may be faulty; of ours nothing may be said.
    said = [line for line in found.stderr.splitlines() if "dbc-provider" in line]
    assert not said, said
    path.write_text(TEXT.replace("KillMode=process", "KillMode=nobody"))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, check=False
    )
    assert "kill mode" in found.stderr, "a wrong setting would be found"


def test_tenants_outlive_a_restart_and_their_mounts_are_found_again() -> None:
    found = settings(TEXT)
    assert found["KillMode"] == "process"
    assert found["Delegate"] == "yes"
    assert found["OOMPolicy"] == "continue"
    assert not NAMESPACING.search(TEXT), "each of these gives the service mounts of its own"
    assert NAMESPACING.search(TEXT.replace("UMask=", "ProtectSystem="))


def test_it_serves_at_boot_once_there_is_a_network_and_comes_back() -> None:
    found = settings(TEXT)
    assert "network-online.target" in found["After"]
    assert found["Wants"] == "network-online.target"
    assert (found["Restart"], found["StartLimitIntervalSec"]) == ("always", "0")
    assert found["WantedBy"] == "multi-user.target"


def test_the_password_is_a_credential_and_stands_nowhere_else() -> None:
    assert settings(TEXT)["LoadCredential"] == "controller.password:/etc/dbc/controller.password"


def test_words_are_systemds_own() -> None:
    assert settings(TEXT)["ExecStart"] == (
        '/usr/bin/env "a b" "say \\"hi\\"" 100%% $$HOME back\\\\slash'
    )
    assert settings(TEXT)["Environment"] == '"DBC_RUNSC=/opt/a b/runsc"'
