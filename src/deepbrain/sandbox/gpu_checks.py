"""What `dbc doctor` says of GPUs on their way into the sandbox, where the machine has any."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from deepbrain.sandbox import nvidia
from deepbrain.sandbox.cdi import DIRECTORIES, CdiError, read_registry
from deepbrain.sandbox.checks import Finding
from deepbrain.sandbox.devices import GPU, allow
from deepbrain.sandbox.modes import Programs


def gpu_findings(
    driver: str, runsc: Path | None = None, directories: Sequence[Path] = DIRECTORIES
) -> Iterator[Finding]:
    """`driver` is the version that the driver's own library names."""
    runsc = runsc or Programs.find().runsc
    if runsc is not None:
        problem = nvidia.driver_problem(runsc, driver)
        detail = f"{driver}: known to gVisor"
        hint = "`runsc nvproxy list-supported-drivers` lists all that it knows"
        yield Finding("GPU driver", not problem, problem or detail, hint)
    yield _devices(directories)


def _devices(directories: Sequence[Path]) -> Finding:
    hint = "run `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`, again after each driver update"
    try:
        registry = read_registry(directories)
        names = registry.names(GPU)
        for name in names:
            allow(registry.edits([name]))
    except CdiError as error:
        return Finding("GPU devices", ok=False, detail=str(error), hint=hint)
    return Finding("GPU devices", bool(names), ", ".join(names) or f"no {GPU} is described", hint)
