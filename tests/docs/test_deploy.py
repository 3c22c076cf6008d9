"""What is shipped for operators parses, and names only what there is."""

import configparser
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.docs.pages import ROOT

from deepbrain.node.__main__ import _config, _parser
from deepbrain.node.comet.program import VERSION

DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "deepbrain-node.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
PEER = "0" * 40 + "@203.0.113.7:26656"


def unit() -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT)
    return {name: dict(parser[name]) for name in parser.sections()}


def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    (only,) = found["services"].values()
    assert set(found["volumes"]) == {name.partition(":")[0] for name in only["volumes"]}
    return dict(only)


def options_of_the_unit() -> list[str]:
    """The node's options, those of the example's file among them."""
    words = shlex.split(unit()["Service"]["ExecStart"])
    (line,) = re.findall(r"^NODE_OPTIONS=(.*)$", (DEPLOY / "node.env").read_text(), re.MULTILINE)
    assert words[1:3] == ["-m", "deepbrain.node"]
    assert words[-1] == "$NODE_OPTIONS"
    return [*words[3:-1], *line.replace("ID@HOST:26656", PEER).split()]


def options_of_the_container() -> list[str]:
    (entry,) = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    words = yaml.safe_load(entry)
    assert words[:3] == ["python", "-m", "deepbrain.node"]
    return [
        *words[3:],
        *(PEER if word.startswith("${DBC_PEER") else word for word in service()["command"]),
    ]


@pytest.mark.parametrize("options", [options_of_the_unit(), options_of_the_container()])
def test_the_node_takes_every_option(options: list[str]) -> None:
    config = _config(_parser().parse_args(options))
    assert config.spec.id == "mainnet"
    assert config.comet is not None
    assert config.comet.peers == (PEER,)
    assert config.data is not None


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing on this machine")
    path = tmp_path / "deepbrain-node.service"
    # What it runs is not installed here.
    path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT, flags=re.MULTILINE))
    command = ["systemd-analyze", "verify", "--man=no", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    said = [line for line in found.stderr.splitlines() if "deepbrain-node" in line]
    assert not said, said
    path.write_text(path.read_text().replace("KillMode=mixed", "KillMode=nobody"))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "kill mode" in found.stderr, "a wrong setting would be found"


def test_the_service_has_no_more_rights_than_it_needs() -> None:
    found = unit()["Service"]
    assert found["User"] not in ("", "root")
    assert found["CapabilityBoundingSet"] == ""
    for name in (
        "NoNewPrivileges",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectHome",
        "RestrictNamespaces",
    ):
        assert found[name] == "yes", name
    assert found["ProtectSystem"] == "strict"
    assert (found["StateDirectory"], found["StateDirectoryMode"]) == ("deepbrain-node", "0700")
    assert found["UMask"] == "0077"


def test_the_service_comes_back_and_ends_in_order() -> None:
    found = unit()
    assert found["Service"]["Restart"] == "always"
    assert found["Unit"]["StartLimitIntervalSec"] == "0"
    assert found["Service"]["KillMode"] == "mixed"
    assert int(found["Service"]["LimitNOFILE"]) >= 8192
    assert "network-online.target" in found["Unit"]["After"]
    assert found["Install"]["WantedBy"] == "multi-user.target"
    assert found["Unit"]["ConditionPathExists"].endswith("priv_validator_key.json")


def test_the_container_has_the_version_that_the_node_works_with() -> None:
    assert re.findall(r"cmd/cometbft@(\S+)", DOCKERFILE) == [VERSION]
    assert re.findall(r"^FROM ([a-z]+):", DOCKERFILE, re.MULTILINE) == [
        "golang",
        "python",
        "python",
    ]
    assert "[node]" in DOCKERFILE
    for copied in re.findall(r"^COPY (\S+) /", DOCKERFILE, re.MULTILINE):
        assert copied.startswith("--from") or (ROOT / copied).exists()


def test_the_container_is_shut_in_and_its_ports_are_this_host_s() -> None:
    found = service()
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["read_only"] is True
    assert (found["restart"], found["stop_grace_period"]) == ("always", "1m")
    assert found["ports"][0] == "26656:26656"
    assert all(port.startswith("127.0.0.1:") for port in found["ports"][1:])
    assert (DEPLOY / found["build"]["context"] / found["build"]["dockerfile"]).is_file()
    assert re.search(r"^USER deepbrain$", DOCKERFILE, re.MULTILINE)


def test_nothing_of_a_checkout_s_secrets_gets_into_the_image() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {
        "pyproject.toml", "README.md", "requirements/run.txt", "src",
    }  # fmt: skip


def test_the_wheel_brings_every_script_along() -> None:
    """What a node or a machine is built by is no module, and has to be named."""
    package = ROOT / "src" / "deepbrain"
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    globs = config["tool"]["setuptools"]["package-data"]["deepbrain"]
    shipped = {path for glob in globs for path in package.glob(glob)}
    scripts = {path for path in package.rglob("*") if path.is_file() and not path.suffix}
    assert {path.name for path in scripts} >= {"find-go", "get-cometbft", "get-gvisor"}
    assert not {str(path.relative_to(package)) for path in scripts - shipped}
