"""How an order ended: the exit code, and the last line."""

from typing import TYPE_CHECKING, Any

from deepbrain.cli import quantity
from deepbrain.cli.failure import MEMORY, NOT_STARTED, PROVIDER_LOST, TERM_OVER
from deepbrain.net.messages import Ending as JobEnding
from deepbrain.net.messages import JobExit
from deepbrain.pallets.rent import Ended, Ending, Order, Placed, Running

if TYPE_CHECKING:
    from deepbrain.primitives.ids import OrderId

STOPPED_CODE = 128 + 15
"""Of a job that was told to end and whose own code nobody knows."""


def exit_code(order: Order, job: JobExit | None) -> int:
    """What `run` and `attach` exit with.

    What the machine says of the job counts where the chain agrees that it ran.
    """
    ended = order.status
    if not isinstance(ended, Ended):
        return PROVIDER_LOST
    match ended.ending:
        case Ending.LAPSED:
            return NOT_STARTED
        case Ending.FAILED:
            return PROVIDER_LOST if ended.bill.used else NOT_STARTED
        case Ending.EXPIRED:
            return TERM_OVER
        case Ending.EXITED:
            return _job_code(job, 0 if ended.exit_code is None else int(ended.exit_code))
        case Ending.STOPPED:
            return _job_code(job, STOPPED_CODE)


def _job_code(job: JobExit | None, otherwise: int) -> int:
    if job is None:
        return otherwise
    match job.ending:
        case JobEnding.TERM:
            return TERM_OVER
        case JobEnding.MEMORY:
            return MEMORY
        case JobEnding.LOST:
            return PROVIDER_LOST
        case _:
            return int(job.code)


def has_run(order: Order) -> bool:
    """Whether the chain saw the job of an ended order start."""
    ended = order.status
    if not isinstance(ended, Ended):
        return False
    return ended.ending in (Ending.EXITED, Ending.EXPIRED) or ended.bill.used > 0


def state_name(order: Order) -> str:
    """`placed`, `running`, or how it ended."""
    match order.status:
        case Placed():
            return "placed"
        case Running():
            return "running"
        case Ended(ending=ending):
            return ending.name.lower()
        case _:
            return "unknown"


def last_line(order_id: "OrderId", order: Order, job: JobExit | None, mode: str) -> str:
    """Order, end and bill, in one line."""
    ended = order.status
    if not isinstance(ended, Ended):
        return f"order {order_id} is still {state_name(order)}; `dbc bill {order_id}` shows its end"
    bill = ended.bill
    return (
        f"order {order_id} {_end_of(ended, job)}: {quantity.span(bill.used)} used "
        f"({mode}), paid {quantity.dbc(bill.paid)}, burned {quantity.dbc(bill.burned)}, "
        f"refunded {quantity.dbc(bill.refunded)}"
    )


def _end_of(ended: Ended, job: JobExit | None) -> str:
    match ended.ending:
        case Ending.EXITED if job is not None and job.ending is JobEnding.MEMORY:
            return "ran out of memory"
        case Ending.EXITED if job is not None and job.ending is JobEnding.TERM:
            return "reached the end of its term"
        case Ending.EXITED:
            return f"exited with {ended.exit_code}"
        case Ending.STOPPED:
            return "was stopped"
        case Ending.EXPIRED:
            return "reached the end of its term"
        case Ending.LAPSED:
            return "was not started in time"
        case Ending.FAILED:
            return "was given up by its machine"


def bill_of(order_id: "OrderId", order: Order, now: int) -> dict[str, Any]:
    """Everything about an order's money, amounts in planck as strings."""
    ended = order.status
    held = int(order.held())
    used = order.used(_seconds(now))
    facts: dict[str, Any] = {
        "order": int(order_id),
        "state": state_name(order),
        "machine": order.machine.hex(),
        "units": int(order.units),
        "term_seconds": order.term(),
        "used_seconds": used,
        "held": str(held),
        "segments": [
            {
                "seconds": int(segment.seconds),
                "micro_usd_per_unit_hour": int(segment.price),
                "micro_usd_per_dbc": int(segment.micro_usd_per_dbc),
            }
            for segment in order.segments
        ],
    }
    if isinstance(ended, Ended):
        facts |= {
            "exit_code": None if ended.exit_code is None else int(ended.exit_code),
            "paid": str(int(ended.bill.paid)),
            "burned": str(int(ended.bill.burned)),
            "refunded": str(int(ended.bill.refunded)),
        }
    else:
        facts["due_so_far"] = str(int(order.worth(used)))
    return facts


def _seconds(now: int) -> Any:
    from deepbrain.primitives.units import Seconds

    return Seconds(now)
