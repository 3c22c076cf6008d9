"""The wiring diagram: every pallet, and what it is given.

A `Runtime` is a version of the rules for one chain spec; a `RuntimeBlock` is its pallets in one block.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

from deepbrain.frame.calls import Call, CallTable
from deepbrain.frame.context import Context
from deepbrain.frame.dispatch import DispatchError, Failure, dispatch, wire_error
from deepbrain.frame.errors import PalletError
from deepbrain.frame.events import EventTable
from deepbrain.frame.journal import Journal
from deepbrain.frame.metadata import MetadataSource
from deepbrain.frame.origin import Origin
from deepbrain.frame.pallet import Pallet
from deepbrain.pallets.balances import Balances
from deepbrain.pallets.fees import Fees
from deepbrain.pallets.machines import Machines
from deepbrain.pallets.offences import Offences
from deepbrain.pallets.oracle import Oracle
from deepbrain.pallets.rent import Rent
from deepbrain.pallets.sudo import Sudo
from deepbrain.pallets.system import RuntimeVersion, System
from deepbrain.pallets.timestamp import Timestamp
from deepbrain.pallets.utility import Utility
from deepbrain.pallets.validators import Validators
from deepbrain.primitives.hashing import blake2_256
from deepbrain.primitives.ids import AccountId, Hash
from deepbrain.primitives.units import BlockNumber, Moment
from deepbrain.runtime.api_types import APIS
from deepbrain.runtime.chainspec import BadChainSpec, ChainSpec, from_json
from deepbrain.runtime.errors import UnknownRuntime
from deepbrain.runtime.extrinsic import Signing
from deepbrain.runtime.limits import Limits
from deepbrain.runtime.version import VERSION
from deepbrain.scale import encode
from deepbrain.state.store import Reader

NOBODY: Final = AccountId(bytes(AccountId.SIZE))

PALLETS: Final[tuple[type[Pallet], ...]] = (
    System,
    Timestamp,
    Balances,
    Fees,
    Utility,
    Sudo,
    Oracle,
    Validators,
    Offences,
    Machines,
    Rent,
)
"""In the order of their hooks."""


class RuntimeBlock:
    """The pallets in one block, introduced to one another."""

    def __init__(self, context: Context, pallet_of_error: Mapping[type[PalletError], int]) -> None:
        self.context = context
        self.pallet_of_error = pallet_of_error
        self.system = System(context)
        self.timestamp = Timestamp(context)
        self.balances = Balances(context, accounts=self.system)
        self.fees = Fees(context, payments=self.balances)
        self.utility = Utility(context, dispatcher=self)
        self.sudo = Sudo(context, clock=self.timestamp, dispatcher=self)
        self.oracle = Oracle(context, clock=self.timestamp)
        self.offences = Offences(
            context, holds=self.balances, clock=self.timestamp, treasury=self.fees.treasury
        )
        self.validators = Validators(
            context,
            holds=self.balances,
            chain=self.system,
            clock=self.timestamp,
            offences=self.offences,
        )
        self.machines = Machines(
            context,
            holds=self.balances,
            charges=self.fees,
            chain=self.system,
            clock=self.timestamp,
        )
        self.rent = Rent(
            context,
            holds=self.balances,
            charges=self.fees,
            clock=self.timestamp,
            price=self.oracle,
            offers=self.machines,
        )
        self.pallets: Mapping[int, Pallet] = {
            pallet.index: pallet
            for pallet in (
                self.system,
                self.timestamp,
                self.balances,
                self.fees,
                self.utility,
                self.sudo,
                self.oracle,
                self.validators,
                self.offences,
                self.machines,
                self.rent,
            )
        }

    def dispatch(self, call: Call, origin: Origin) -> Failure | None:
        """Make a call on a layer of its own; gives the reason if it failed."""
        return dispatch(self.pallets, call, origin, self.context.journal)

    def error_of(self, failure: Failure) -> DispatchError:
        """A failure as events carry it."""
        return wire_error(failure, self.pallet_of_error)

    def try_state(self) -> Iterator[str]:
        """Every broken invariant of every pallet."""
        for pallet in self.pallets.values():
            yield from pallet.try_state()


class Runtime:
    """One version of the rules, with the figures of one chain spec.

    Another version derives from this one, and says what is different.
    """

    version: ClassVar[RuntimeVersion] = VERSION
    pallets: ClassVar[tuple[type[Pallet], ...]] = PALLETS
    """In the order of their hooks."""
    block_type: ClassVar[type[RuntimeBlock]] = RuntimeBlock

    def __init__(self, spec: ChainSpec) -> None:
        """Raises: BadChainSpec: a constant is missing, unknown or of the wrong type."""
        self.spec = spec
        self.limits = Limits(spec.target_interval)
        self.constants = _constants(self.pallets, spec, self.limits, self.version)
        self.figures = _hash_of(self.pallets, self.constants)
        """Names the figures of the spec, as `System.Figures` keeps it from genesis on."""
        self.calls = CallTable({pallet.index: pallet.call_definitions for pallet in self.pallets})
        self.events = EventTable({pallet.index: pallet.event_types for pallet in self.pallets})
        self.errors: Mapping[int, Mapping[int, type[PalletError]]] = {
            pallet.index: pallet.error_types for pallet in self.pallets
        }
        self.pallet_of_error = {
            error: index for index, errors in self.errors.items() for error in errors.values()
        }

    def block(
        self,
        reader: Reader,
        *,
        number: BlockNumber,
        parent_hash: Hash,
        author: AccountId,
    ) -> RuntimeBlock:
        """The pallets in a block on top of `reader`. Cost: about 0.1 ms."""
        context = Context(
            number=number,
            parent_hash=parent_hash,
            author=author,
            journal=Journal(reader),
            constants=self.constants,
        )
        return self.block_type(context, self.pallet_of_error)

    def migrate(self, block: RuntimeBlock) -> int:
        """Bring the state into the form of this version; gives the picoseconds it took.

        Run once, in the first block of this version, before the hooks of its pallets. It must not
        fail, and must not loop over what has no bound.
        """
        return 0

    def at(self, reader: Reader, head: Hash) -> RuntimeBlock:
        """The pallets on top of the state of block `head`, as the next block will find them.

        For reading: no hook is run, so what they say of themselves is of the block `head`.
        """
        number = System(Context.outside(Journal(reader))).number.get()
        return self.block(reader, number=number + 1, parent_hash=head, author=NOBODY)

    def signing(self, genesis: Hash) -> Signing:
        """What signatures for this runtime are bound to."""
        return Signing(self.version.spec_version, self.version.transaction_version, genesis)

    def metadata(self, version: int) -> bytes:
        """The metadata in format 14, 15 or 16, magic number included. Cost: milliseconds.

        Raises: ValueError: another format.
        """
        source = MetadataSource(
            crate="deepbrain_runtime", pallets=self.pallets, constants=self.constants, apis=APIS
        )
        match version:
            case 14:
                return source.v14()
            case 15:
                return source.v15()
            case 16:
                return source.v16()
            case _:
                raise ValueError(f"metadata comes in formats 14 to 16, not {version}")


RUNTIMES: Final[dict[int, type[Runtime]]] = {int(VERSION.spec_version): Runtime}
"""Every version of the rules that this software can run."""


def runtime_of(spec: ChainSpec, spec_version: int) -> Runtime:
    """The runtime of a version. Raises: UnknownRuntime."""
    known = RUNTIMES.get(spec_version)
    if known is None:
        raise UnknownRuntime(
            f"block makers must run version {spec_version} of the rules from here on, "
            f"and this software has {', '.join(str(v) for v in sorted(RUNTIMES))}: upgrade it"
        )
    return known(spec)


def version_for(reader: Reader, number: int) -> int:
    """The spec version that makes block `number`, the one after the state `reader`."""
    system = System(Context.outside(Journal(reader)))
    upgrade, last = system.upgrade.get(), system.last_runtime_upgrade.get()
    if upgrade is not None and upgrade.block <= number:
        return int(upgrade.spec_version)
    return int(last.spec_version if last is not None else VERSION.spec_version)


def _constants(
    pallets: tuple[type[Pallet], ...], spec: ChainSpec, limits: Limits, version: RuntimeVersion
) -> dict[str, dict[str, Any]]:
    """The value of every constant: the spec's, or the pallet's own."""
    given: dict[str, dict[str, Any]] = {
        System.chain_name: {
            "version": version,
            "block_weights": limits.weights(),
            "block_length": limits.lengths(),
        },
        Timestamp.chain_name: {"minimum_period": Moment(int(spec.target_interval) // 2)},
    }
    names = [pallet.chain_name for pallet in pallets]
    for name in spec.constants:
        if name not in names:
            raise BadChainSpec(f"constants.{name}: there is no such pallet")
    return {
        pallet.chain_name: _constants_of(
            pallet, given.get(pallet.chain_name, {}), spec.constants.get(pallet.chain_name, {})
        )
        for pallet in pallets
    }


def _hash_of(pallets: tuple[type[Pallet], ...], constants: Mapping[str, Mapping[str, Any]]) -> Hash:
    """Of every constant with its name, those left out that a new version of the rules changes."""
    out = bytearray()
    for pallet in pallets:
        for name, hint in pallet.constant_hints.items():
            if hint is not RuntimeVersion:
                out += f"{pallet.chain_name}.{name}\0".encode()
                out += encode(hint, constants[pallet.chain_name][name])
    return blake2_256(bytes(out))


def _constants_of(
    pallet: type[Pallet], computed: Mapping[str, Any], figures: Mapping[str, Any]
) -> dict[str, Any]:
    where = f"constants.{pallet.chain_name}"
    for name in figures:
        if name not in pallet.constant_hints or name in computed:
            raise BadChainSpec(f"{where}.{name}: there is no such constant to set")
    values: dict[str, Any] = {}
    for name, hint in pallet.constant_hints.items():
        if name in figures:
            values[name] = from_json(hint, figures[name], f"{where}.{name}")
        elif name in computed:
            values[name] = computed[name]
        elif name in vars(pallet):
            values[name] = vars(pallet)[name]
        else:
            raise BadChainSpec(f"{where}.{name} is missing")
    return values
