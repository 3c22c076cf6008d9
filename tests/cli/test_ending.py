"""What is said of an order that has ended."""

from deepbrain.cli.renter.ending import has_run
from deepbrain.pallets.rent import Bill, Ended, Ending, Order, Placed, Status
from deepbrain.primitives.ids import AccountId, Hash, MachineId
from deepbrain.primitives.units import U16, Balance, Seconds


def order(status: Status) -> Order:
    return Order(
        renter=AccountId(bytes(32)),
        machine=MachineId(bytes(32)),
        stash=AccountId(bytes(32)),
        units=U16(1),
        segments=(),
        manifest_hash=Hash(bytes(32)),
        placed_at=Seconds(0),
        status=status,
    )


def ended(ending: Ending, used: int) -> Order:
    nothing = Balance(0)
    bill = Bill(used=Seconds(used), paid=nothing, burned=nothing, refunded=nothing)
    return order(Ended(at=Seconds(9), ending=ending, exit_code=None, bill=bill))


def test_whether_a_job_ran_is_told_by_the_chain() -> None:
    """A run that lost the machine's word while the job started must not try another machine."""
    assert has_run(ended(Ending.EXITED, 0)), "a job may end within its first second"
    assert has_run(ended(Ending.EXPIRED, 60))
    assert has_run(ended(Ending.FAILED, 1))
    assert not has_run(ended(Ending.FAILED, 0))
    assert not has_run(ended(Ending.LAPSED, 0))
    assert not has_run(ended(Ending.STOPPED, 0))
    assert not has_run(order(Placed(start_by=Seconds(5))))
