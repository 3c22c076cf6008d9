"""The controller's password lies in memory while `join` runs, and no longer."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepbrain.cli.provider.machine import passphrase_file

HOLD = """
from deepbrain.cli.provider.machine import passphrase_file
with passphrase_file("secret") as environment:
    print(environment["DBC_PASSPHRASE_FILE"], flush=True)
    input()
"""


@contextmanager
def holding() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_what_a_killed_join_left_goes_at_the_next_start_and_a_living_one_keeps_its_own() -> None:
    with holding() as (killed, left), holding() as (_, kept):
        assert left.read_text() == kept.read_text() == "secret"
        assert left.stat().st_mode & 0o777 == 0o600
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists(), "nobody was there to remove it"
        with passphrase_file(None) as environment:
            assert environment == {}
            assert not left.exists()
            assert kept.read_text() == "secret"


def test_it_goes_with_the_join_that_ends() -> None:
    with passphrase_file("secret") as environment:
        path = Path(environment["DBC_PASSPHRASE_FILE"])
        assert path.read_text() == "secret"
    assert not path.exists()
