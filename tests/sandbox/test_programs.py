"""A machine without a checkout gets what tenants run in by itself, once."""

import tomllib
from pathlib import Path

import pytest

from deepbrain.sandbox import programs
from deepbrain.sandbox.programs import GET_GVISOR, get_programs
from deepbrain.sandbox.sandbox import SandboxError

BUILDS = """
for last; do :; done
mkdir -p "$last"; echo "$*" >>"$last/asked"
echo 'get-gvisor: building' >&2
for program in runsc dbc-tool; do : >"$last/$program"; chmod 755 "$last/$program"; done
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that has nothing; the directory where what is built is kept."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(programs, "_beside", lambda: ())
    for variable in ("DBC_RUNSC", "DBC_TOOL"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / ".cache" / "deepbrain" / "bin"


def pretend(monkeypatch: pytest.MonkeyPatch, place: Path, script: str) -> None:
    path = place / "pretended"
    path.write_text(script)
    monkeypatch.setattr(programs, "GET_GVISOR", path)


async def test_what_is_missing_is_built_and_kept(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, BUILDS)
    said: list[str] = []
    await get_programs(said.append, gvisor=False)
    assert said[-1] == "building"
    assert (bare / "asked").read_text() == f"--tool-only {bare}\n"
    assert programs.find_binary("dbc-tool", "DBC_TOOL") == bare / "dbc-tool"
    # Once more: the script sees for itself that it is done, or that the package has become newer.
    await get_programs(said.append, gvisor=False)
    assert len((bare / "asked").read_text().splitlines()) == 2


async def test_what_is_brought_along_is_left_as_it_is(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "exit 3")
    for variable in ("DBC_RUNSC", "DBC_TOOL"):
        monkeypatch.setenv(variable, "/bin/true")
    await get_programs(pytest.fail)
    assert programs.find_binary("dbc-tool", "DBC_TOOL") == Path("/bin/true"), "nothing was built"


async def test_why_it_could_not_be_got_is_one_sentence(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, "echo 'get-gvisor: there is no Go here.' >&2; exit 1")
    with pytest.raises(SandboxError, match=r"^there is no Go here\.$"):
        await get_programs(lambda _: None)


def test_the_package_holds_the_script_and_what_it_builds() -> None:
    assert GET_GVISOR.is_file()
    assert (GET_GVISOR.parent / "main.go").is_file()


def test_a_wheel_would_hold_all_of_it() -> None:
    """What is no Python comes along only where pyproject.toml names it."""
    root = Path(__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["deepbrain"]
    package = root / "src" / "deepbrain"
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    files = (path for path in package.rglob("*") if path.is_file())
    forgotten = {path for path in files if path.suffix not in (".py", ".pyc")} - packed
    assert forgotten == set()
