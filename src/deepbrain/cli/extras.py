"""The packages that only nodes or providers need, and what to say where they are not installed."""

import importlib.util
from typing import Final

from deepbrain.cli.failure import UserError

EXTRAS: Final = {
    "node": ("lmdb", "aiohttp", "blake3", "coincurve", "prometheus_client", "google.protobuf"),
    "provider": ("numpy", "prometheus_client", "pynvml", "yaml", "zstandard"),
}
"""By the extra's name in pyproject.toml, the modules that come with it."""


def ensure_installed(*extras: str) -> None:
    """Raises: UserError: some module of these extras is missing."""
    wanted = [module for extra in extras for module in EXTRAS[extra]]
    if not all(map(_is_here, wanted)):
        raise UserError(
            f"this needs more packages than renting; run pip install 'deepbrain[{','.join(extras)}]'"
        )


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False
