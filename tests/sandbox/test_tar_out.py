"""What the tenant's tool sends when it is asked for names and patterns."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from deepbrain.sandbox.modes import Programs


def tar_out(workspace: Path, *paths: str) -> tuple[int, list[str]]:
    tool = Programs.find().tool
    if tool is None:
        pytest.skip("dbc-tool is not built here: run scripts/get-gvisor .cache/bin")
    done = subprocess.run(
        [tool, "tar-out", "--", *paths],
        capture_output=True,
        env={"DBC_WORKSPACE": str(workspace)},
        check=False,
    )
    return done.returncode, tarfile.open(fileobj=io.BytesIO(done.stdout)).getnames()


def test_names_patterns_and_what_is_not_there(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.bin", "b.bin", "[c].txt", "sub/deep.txt"):
        (tmp_path / name).write_text(name)
    assert tar_out(tmp_path, "*.bin") == (0, ["a.bin", "b.bin"])
    assert tar_out(tmp_path, "su*/*.txt", "a.bin") == (0, ["sub/deep.txt", "a.bin"])
    assert tar_out(tmp_path, "[c].txt") == (0, ["[c].txt"])
    assert tar_out(tmp_path, "missing", "a.bin") == (0, ["a.bin"])
    assert tar_out(tmp_path, "missing", "no*") == (1, [])
    assert tar_out(tmp_path, "../*")[0] == 1
