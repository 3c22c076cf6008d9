"""What was proven is believed for a while, and only in the same circumstances."""

import json
import os
from pathlib import Path

import pytest

from deepbrain.sandbox import modes, proven
from deepbrain.sandbox.proven import PROOF_SECONDS, Proven
from deepbrain.sandbox.sandbox import Mode, SandboxError


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "runsc"
    path.write_text("one")
    return path


def test_what_ran_is_believed_for_an_hour(tmp_path: Path, program: Path, monkeypatch) -> None:
    now = 1000
    monkeypatch.setattr(proven, "_now", lambda: now)
    kept = Proven(tmp_path, (program, None))
    assert kept.kernel(Mode.GVISOR) is None
    kept.note(Mode.GVISOR, "4.19.0-gvisor")
    kept.note(Mode.PROCESS, "6.1")
    kept = Proven(tmp_path, (program, None))
    assert kept.kernel(Mode.GVISOR) == "4.19.0-gvisor"
    assert kept.kernel(Mode.PROCESS) == "6.1"
    assert kept.kernel(Mode.GVISOR_OWN) is None
    now += PROOF_SECONDS
    assert kept.kernel(Mode.GVISOR) is None
    now = 999
    assert kept.kernel(Mode.GVISOR) is None, "it was proven later than now"


def test_another_program_boot_or_user_proves_nothing(
    tmp_path: Path, program: Path, monkeypatch
) -> None:
    Proven(tmp_path, (program,)).note(Mode.GVISOR, "gvisor")

    def believed() -> bool:
        return Proven(tmp_path, (program,)).kernel(Mode.GVISOR) is not None

    assert believed()
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    with monkeypatch.context() as patch:
        patch.setattr(proven, "_BOOT_ID", boot)
        assert not believed()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert not believed()
    assert believed()
    program.write_text("two!")
    assert not believed()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"circumstances": 1, "modes": {}}', "\xff", "DAMAGED"]
)
def test_damage_proves_nothing(tmp_path: Path, program: Path, content: str) -> None:
    kept = Proven(tmp_path, (program,))
    kept.note(Mode.GVISOR, "gvisor")
    path = tmp_path / "canaries.json"
    if content == "DAMAGED":
        fields = json.loads(path.read_text())
        content = json.dumps(fields | {"modes": {"gvisor": {"kernel": 1, "at": None}}})
    path.write_text(content)
    assert kept.kernel(Mode.GVISOR) is None
    kept.note(Mode.GVISOR, "gvisor")
    assert kept.kernel(Mode.GVISOR) == "gvisor"


def test_a_mode_is_chosen_by_its_proof_and_what_failed_is_tried_anew(
    tmp_path: Path, monkeypatch
) -> None:
    ran: list[Mode] = []
    fails = {Mode.GVISOR}

    def run(mode: Mode, *_: object) -> str:
        ran.append(mode)
        if mode in fails:
            raise SandboxError("it outlived its limit")
        return "seen"

    monkeypatch.setattr(modes, "run_canaries", run)
    monkeypatch.setattr(modes, "engine_for", lambda *_: None)
    monkeypatch.setattr(modes, "_network", lambda *_: (modes.Network.NONE, ""))
    tool = tmp_path / "tool"
    tool.touch()
    monkeypatch.setattr(modes, "sweep", lambda *_: None)
    programs = modes.Programs(tool, tool)

    def chosen(*, anew: bool) -> tuple[Mode, list[Mode]]:
        ran.clear()
        return modes.choose_mode(tmp_path, None, programs, anew=anew)[0].mode, list(ran)

    assert chosen(anew=False) == (Mode.GVISOR_OWN, [Mode.GVISOR, Mode.GVISOR_OWN])
    assert chosen(anew=False) == (Mode.GVISOR_OWN, [Mode.GVISOR]), "the failure is tried anew"
    fails.clear()
    assert chosen(anew=False) == (Mode.GVISOR, [Mode.GVISOR])
    assert chosen(anew=False) == (Mode.GVISOR, [])
    assert chosen(anew=True) == (Mode.GVISOR, [Mode.GVISOR])
