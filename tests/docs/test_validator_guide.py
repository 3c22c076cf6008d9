"""The validator's guide quotes what the node says, and gives the figures of the chain."""

import re

import yaml
from tests.docs.pages import ROOT

from deepbrain.node.__main__ import _parser
from deepbrain.node.node import load_spec
from deepbrain.primitives.units import PLANCK
from deepbrain.runtime.genesis import genesis_state
from deepbrain.runtime.runtime import runtime_of
from deepbrain.runtime.version import SPEC_VERSION

GUIDE = (ROOT / "docs/guide/validator.md").read_text()
DAY = 24 * 3600


def sentences() -> str:
    """All that the node can say, each string in one piece, with `…` for what is put in."""
    found = []
    exporter = ROOT / "src/deepbrain/net/exporter.py"  # serves the node's metrics
    for path in (*(ROOT / "src/deepbrain/node").rglob("*.py"), exporter):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        found.append(re.sub(r"\{[^{}\n]*\}|%[ds]", "…", text))
    return "\n".join(found)


def test_every_sentence_is_one_that_the_node_says() -> None:
    table = GUIDE.partition("## What it says")[2]
    quoted = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    said = sentences()
    assert len(quoted) > 12
    versioned = [re.sub(r"v\d+\.\d+\.\d+", "…", each) for each in quoted]
    missing = [
        each for each in versioned if not all(part.strip() in said for part in each.split("…"))
    ]
    assert not missing


def test_the_figures_are_the_chain_s() -> None:
    runtime = runtime_of(load_spec("mainnet"), int(SPEC_VERSION))
    assert genesis_state(runtime)
    constants = runtime.constants
    validators, offences = constants["Validators"], constants["Offences"]
    assert constants["Timestamp"]["era_length"] == DAY * 1000
    assert validators["max_validators"] == 21
    assert validators["min_stake"] == 10_000 * PLANCK
    assert validators["unbonding"] == 14 * DAY
    assert validators["slash_share"] == 50_000
    assert validators["max_missed"] == 600
    assert offences["slash_delay"] == 13 * DAY
    for figure in ("24 hours", "21 candidates", "10,000 DBC", "14 days", "5 %", "600", "13 days"):
        assert figure in GUIDE


def test_options_of_the_node_exist() -> None:
    (line,) = re.findall(r"^NODE_OPTIONS=(.*)$", GUIDE, re.MULTILINE)
    known = set(_parser()._option_string_actions)
    assert {word for word in line.split() if word.startswith("--")} <= known
    named = set(
        re.findall(r"`(--(?:metrics|comet-metrics|log-format|private|peer|cometbft))[ `]", GUIDE)
    )
    assert len(named) > 4
    assert named <= known


def test_the_alerts_are_yaml() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (group,) = yaml.safe_load(block)["groups"]
    assert all(set(rule) == {"alert", "expr"} for rule in group["rules"])
    explained = GUIDE.partition("| alert |")[2].partition("\n\n")[0]
    assert "NoBlock" in explained
