"""The directory of a validator's node: its keys, its chain, and the command line that runs it."""

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deepbrain.cli.failure import UserError

if TYPE_CHECKING:
    from deepbrain.frame.consensus import ConsensusKey
    from deepbrain.node.comet.home import ConsensusKeys
    from deepbrain.primitives.ids import AccountId, Hash
    from deepbrain.primitives.keys import Signature

VALIDATOR_KEY: Final = "comet/config/priv_validator_key.json"
NODE_KEY: Final = "comet/config/node_key.json"
SIGN_STATE: Final = "comet/data/priv_validator_state.json"
SETTINGS: Final = "comet/config/config.toml"

_PROOF_BYTES: Final = 32 + 64


@dataclass(frozen=True, slots=True)
class Proof:
    """A consensus key, and its signature for one account on one chain. No secret."""

    key: "ConsensusKey"
    signature: "Signature"

    def __str__(self) -> str:
        return (bytes(self.key) + bytes(self.signature)).hex()

    @classmethod
    def parse(cls, text: str) -> "Proof":
        """Raises: UserError: it is no proof."""
        from deepbrain.frame.consensus import ConsensusKey
        from deepbrain.primitives.keys import Signature

        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = b""
        if len(data) != _PROOF_BYTES:
            raise UserError("this is no proof; copy what `dbc validate init --stash` printed")
        return cls(ConsensusKey(data[:32]), Signature(data[32:]))

    def ensure_for(self, genesis: "Hash", stash: "AccountId") -> None:
        """Raises: UserError: the key has not signed for this account on this chain."""
        from deepbrain.pallets.validators import validate_message
        from deepbrain.primitives.keys import Scheme, verify

        if not verify(Scheme.ED25519, self.key, self.signature, validate_message(genesis, stash)):
            raise UserError(
                "the proof is for another stash or another chain; make one with `dbc validate init "
                "--stash` and the address of this wallet"
            )


@dataclass(frozen=True, slots=True)
class Place:
    """The directory, as `--data` names it."""

    path: Path

    def make_keys(self) -> "ConsensusKeys":
        """The keys, made where there are none yet.

        Raises: UserError, NodeError: they are damaged, or half of them is missing.
        """
        from deepbrain.node.comet.home import CometHome

        home = CometHome(self.path / "comet")
        if (self.path / SIGN_STATE).exists() and not (self.path / VALIDATOR_KEY).exists():
            # A fresh key in its place would be nobody's, and its owner would not notice.
            raise UserError(
                f"{self.path / VALIDATOR_KEY} is missing, and this validator has signed with it: "
                "restore it from your backup, or choose another --data directory"
            )
        keys = home.ensure_keys()
        home.last_signed()
        return keys

    def keys(self) -> "ConsensusKeys":
        """The keys that are there. Raises: UserError, NodeError."""
        from deepbrain.node.comet.home import CometHome

        for name in (VALIDATOR_KEY, NODE_KEY):
            if not (self.path / name).exists():
                raise UserError(
                    f"there are no keys in {self.path}; make them with `dbc validate init --data "
                    f"{shlex.quote(str(self.path))}`"
                )
        return CometHome(self.path / "comet").ensure_keys()

    def prove(self, genesis: "Hash", stash: "AccountId") -> Proof:
        """What lets `stash` validate with the key that is here. Raises: UserError, NodeError."""
        return proof_of(self.keys(), genesis, stash)

    def forget_chain(self) -> None:
        """Remove the chain and all blocks; keys, and what was signed last, stay.

        Raises: UserError: there is no node's directory. StoreError: the node runs.
        """
        from deepbrain.state.lock import DirectoryLock

        chain, blocks = self.path / "chain", self.path / "comet" / "data"
        if not chain.is_dir():
            raise UserError(f"{self.path} holds no chain; name the node's --data directory")
        lock = DirectoryLock(chain)
        try:
            for one in blocks.iterdir() if blocks.is_dir() else ():
                if one.name != Path(SIGN_STATE).name:
                    _remove(one)
            _remove(self.path / "snapshots")
            # Last: where this is cut short, it can be repeated, and no node starts in between.
            _remove(chain)
        finally:
            lock.release()

    def command(self, spec: str) -> tuple[str, ...]:
        """What runs the node."""
        return (
            *(sys.executable, "-m", "deepbrain.node", "--spec", spec),
            *("--data", str(self.path.absolute()), "--engine", "cometbft"),
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def proof_of(keys: "ConsensusKeys", genesis: "Hash", stash: "AccountId") -> Proof:
    """What lets `stash` validate with these keys."""
    from deepbrain.pallets.validators import validate_message

    return Proof(keys.key, keys.validator.sign(validate_message(genesis, stash)))
