"""Files that are replaced by rename: whole at any moment, and nothing is left beside them."""

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from deepbrain.provider.record import replace_file


def _write_often(path: Path, number: int) -> None:
    for _ in range(50):
        replace_file(path, json.dumps({"from": number, "filling": "x" * 50_000 * number}).encode())


def test_several_processes_replace_a_file_at_once_and_readers_see_whole_ones(
    tmp_path: Path,
) -> None:
    path = tmp_path / "record.json"
    replace_file(path, b'{"from": 0, "filling": ""}')
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_often, args=(path, number)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = json.loads(path.read_bytes())
        assert len(found["filling"]) == 50_000 * found["from"]
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_content_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
