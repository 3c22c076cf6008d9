"""What installing asks of systemd, in which order; and that it asks for nothing twice."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Outcome
from tests.cli.market import INVENTORY

from deepbrain.cli.failure import UserError
from deepbrain.cli.provider import host as host_module
from deepbrain.cli.provider import hosting, install, machine
from deepbrain.cli.provider.host import CREDENTIAL, UNIT_NAME, Host
from deepbrain.cli.provider.install import carry_out, removal_steps, service_steps
from deepbrain.primitives.keys import Keypair
from deepbrain.provider.identity import AgentConfig, save_config

COMMAND = ("/opt/deepbrain/.venv/bin/python", "-m", "deepbrain.cli.main", "provider", "run")


class Systemd:
    """A host with systemd: `systemctl` is a script that writes down what it was asked."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked_file, self.units = base / "asked", base / "units"
        self.units.mkdir()
        program = base / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {self.asked_file}\n'
            'case "$*" in *broken*) echo it is broken >&2; exit 1;; esac\n'
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        monkeypatch.setenv("DBC_ETC", str(base / "etc"))
        monkeypatch.setenv("DBC_RUNSC", "/opt/bin/runsc")
        for module in (install, hosting):
            monkeypatch.setattr(module, "has_systemd", lambda: True)
            monkeypatch.setattr(module, "UNITS", self.units)

    @property
    def unit(self) -> Path:
        return self.units / UNIT_NAME

    def asked(self) -> list[str]:
        """Since it was asked last."""
        with contextlib.suppress(FileNotFoundError):
            lines = self.asked_file.read_text().splitlines()
            self.asked_file.unlink()
            return lines
        return []


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    return Systemd(tmp_path, monkeypatch)


HOST = Host(data="/var/lib/dbc", user="nobody")


def test_the_unit_is_written_loaded_enabled_and_started(systemd: Systemd) -> None:
    carry_out(service_steps(HOST, command=COMMAND), dry_run=False)
    assert systemd.asked() == [
        "daemon-reload", f"enable --quiet {UNIT_NAME}", f"restart {UNIT_NAME}",
    ]  # fmt: skip
    text = systemd.unit.read_text()
    assert f"ExecStart={' '.join(COMMAND)}\n" in text
    assert f"LoadCredential={CREDENTIAL}:{HOST.password}\n" in text
    assert "Environment=DBC_RUNSC=/opt/bin/runsc\n" in text
    carry_out(service_steps(HOST, command=COMMAND), dry_run=False)
    assert "daemon-reload" not in systemd.asked(), "the same unit is not written again"


def test_a_dry_run_shows_the_unit_and_changes_nothing(
    systemd: Systemd, capsys: pytest.CaptureFixture[str]
) -> None:
    carry_out(service_steps(HOST, command=COMMAND), dry_run=True)
    said = capsys.readouterr().err
    assert "KillMode=process" in said and f"systemctl restart {UNIT_NAME}" in said
    assert all(line.startswith("dbc: ") for line in said.splitlines())
    assert not systemd.asked() and not systemd.unit.exists()


def test_uninstalling_stops_the_service_before_anything_is_removed(systemd: Systemd) -> None:
    carry_out(service_steps(HOST, command=COMMAND), dry_run=False)
    systemd.asked()
    cleared: list[list[str]] = []
    carry_out(
        removal_steps(HOST, lambda: cleared.append(systemd.asked()), purge=False), dry_run=False
    )
    assert cleared == [[f"disable --now --quiet {UNIT_NAME}", "daemon-reload"]]
    assert not systemd.unit.exists()


def test_what_systemd_refuses_is_told_in_its_words(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "UNIT_NAME", "broken.service")
    with pytest.raises(UserError, match="it is broken"):
        carry_out(service_steps(HOST, command=COMMAND), dry_run=False)


async def test_where_installing_again_fails_the_former_service_serves_on(systemd: Systemd) -> None:
    systemd.unit.write_text("a former one")
    with pytest.raises(RuntimeError, match="no canary"):
        async with hosting._service_stopped():
            raise RuntimeError("no canary")
    assert systemd.asked() == [f"stop {UNIT_NAME}", f"start {UNIT_NAME}"]
    async with hosting._service_stopped():
        pass
    assert systemd.asked() == [f"stop {UNIT_NAME}"], "the last step starts the new one"


async def test_a_former_service_that_does_not_start_again_is_told(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd.unit.write_text("a former one")
    (systemd.unit.parent / "broken.service").write_text("a former one")
    monkeypatch.setattr(hosting, "UNIT_NAME", "broken.service")
    with pytest.raises(RuntimeError, match="no canary"):
        async with hosting._service_stopped():
            raise RuntimeError("no canary")
    assert "does not start again" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's")
def test_the_controllers_files_are_roots_and_open_with_each_other(
    systemd: Systemd, tmp_path: Path
) -> None:
    host = Host(data=str(tmp_path / "data"), user="nobody")
    install._make_directories(host)
    install._make_controller(host)
    assert host.password.stat().st_mode & 0o777 == 0o600
    assert host.password.stat().st_uid == 0
    assert host.controller.stat().st_mode & 0o777 == 0o640
    pair = host_module.unlock_controller(host)
    assert isinstance(pair, Keypair)
    host.save()
    assert host_module.installed() == host
    (host.etc / "provider.json").write_text('{"data": 7, "colour": "blue"}')
    with pytest.raises(UserError, match="damaged"):
        host_module.installed()


@pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's")
@pytest.mark.parametrize("has_key", [True, False])
def test_a_host_is_uninstalled_by_force_though_no_node_answers(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dbc: Callable[..., Outcome],
    has_key: bool,
) -> None:  # fmt: skip
    host = Host(data=str(tmp_path / "data"), user="nobody")
    install._make_directories(host)
    host.save()
    carry_out(service_steps(host, command=COMMAND), dry_run=False)
    nowhere = AgentConfig(
        chain="ws://127.0.0.1:9", controller="//Bob", port=1, capacity=INVENTORY.capacity()
    )
    save_config(host.etc, nowhere)
    if not has_key:
        (host.place().agent / "machine.key").unlink()
    cleared: list[bool] = []
    monkeypatch.setattr(machine, "clear_now", lambda _: cleared.append(True))
    assert dbc("provider", "uninstall", "-y", "--force", "--purge").code == 1, "keys are kept"
    plain = dbc("provider", "uninstall", "-y")
    if has_key:
        assert plain.code == 1 and "ws://127.0.0.1:9" in plain.err
        assert systemd.unit.exists() and not cleared
        forced = dbc("provider", "uninstall", "-y", "--force")
        assert forced.code == 0, forced.err
        words = f"dbc leave --machine {host.place().machine_id.hex()[:12]}"
        assert words in forced.err, "the bond stays, and this is how it comes back"
    else:
        assert plain.code == 0, "a machine that was never made is not bonded"
        assert not host.place().has_key
    assert cleared and not systemd.unit.exists()
    assert host_module.installed() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="the files are root's")
def test_purging_takes_what_is_ours_and_nothing_else(systemd: Systemd, tmp_path: Path) -> None:
    host = Host(data=str(tmp_path / "data"), user="nobody")
    install._make_directories(host)
    somebodys = tmp_path / "data" / "photos"
    somebodys.mkdir()
    install._purge(host)
    assert list((tmp_path / "data").iterdir()) == [somebodys]
    assert not host.etc.exists()
