"""An order's status as its renter reads it, from what is on the machine and what is being done."""

from typing import Final

from deepbrain.net.messages import Ending, JobExit, OrderStatus, Stage
from deepbrain.primitives.ids import OrderId
from deepbrain.primitives.units import U8, U64
from deepbrain.provider.actual import Tenant
from deepbrain.provider.plan import Action, Launch, Prepare, Pull
from deepbrain.sandbox.sandbox import ExitReason, Phase, TenantExit

MAX_DETAIL: Final = 900
"""Characters of a status's sentence (its bound on the wire is in bytes)."""

_ENDINGS: Final = {
    ExitReason.EXITED: Ending.EXITED,
    ExitReason.MEMORY: Ending.MEMORY,
    ExitReason.KILLED: Ending.KILLED,
    ExitReason.TERM: Ending.TERM,
    ExitReason.ERROR: Ending.ERROR,
}


def status_of(tenant: Tenant, doing: Action | None, mode: str, now: int) -> OrderStatus:
    """`doing` is the action under way for the order; `now` is monotonic ms."""
    record, state = tenant.record, tenant.state
    kept = None if record.kept_until is None else max(record.kept_until - now, 0) // 1000
    return OrderStatus(
        order=OrderId(record.order),
        stage=stage_of(tenant, doing),
        detail=fitting(record.failure or _waiting_for(tenant)),
        done=U64(0),
        total=U64(0),
        exit=job_exit(tenant),
        log_start=U64(0 if state is None else state.log_start),
        log_end=U64(0 if state is None else state.log_end),
        mode=mode,
        kept_seconds=None if kept is None else U64(kept),
    )


def _waiting_for(tenant: Tenant) -> str:
    if tenant.awaits_credentials and tenant.state is None:
        return "the machine was started anew and asks again who pulls the image: dbc attach"
    return ""


def stage_of(tenant: Tenant, doing: Action | None) -> Stage:
    match tenant.phase:
        case Phase.RUNNING:
            return Stage.RUNNING
        case Phase.EXITED | Phase.LOST:
            return Stage.EXITED
    if tenant.record.failure:
        return Stage.FAILED
    if isinstance(doing, Launch):
        return Stage.STARTING
    if not tenant.has_manifest:
        return Stage.AWAITING_MANIFEST
    if not tenant.has_workspace:
        return Stage.UPLOADING  # also while the image is pulled
    is_busy = tenant.has_image or isinstance(doing, Prepare | Pull)
    return Stage.PULLING if is_busy else Stage.UPLOADING


def job_exit(tenant: Tenant) -> JobExit | None:
    """How the job ended, or None. A lost job's times are unknown, and its code says so."""
    state = tenant.state
    if state is None or state.phase not in (Phase.EXITED, Phase.LOST):
        return None
    if state.exit is None:
        return JobExit(code=U8(255), ending=Ending.LOST, started_ms=U64(0), ended_ms=U64(0))
    return _exit_of(state.exit)


def _exit_of(left: TenantExit) -> JobExit:
    return JobExit(
        code=U8(left.code & 0xFF),
        ending=_ENDINGS[left.reason],
        started_ms=U64(left.started_ms),
        ended_ms=U64(left.ended_ms),
    )


def fitting(sentence: str) -> str:
    """Cut to what a message may carry; never in the middle of a character."""
    return sentence.encode()[:MAX_DETAIL].decode(errors="ignore")
