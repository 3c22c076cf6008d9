"""What `dbc network up` and `dbc join` make ready."""

from pathlib import Path

import pytest

from deepbrain.cli.provider.prepare import kept_image
from deepbrain.sandbox import baseimage


def test_a_base_image_of_another_release_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(baseimage, "build", lambda path: made.append(path.write_bytes(b"image")))
    for name in ("python-numpy.tar", "python-numpy-0123.tar"):
        (tmp_path / name).write_bytes(b"old")
    found = kept_image(tmp_path)
    assert found.read_bytes() == b"image"
    assert [*tmp_path.iterdir()] == [found]
    assert kept_image(tmp_path) == found
    assert len(made) == 1
