"""Which runtime this is.

`SPEC_VERSION` rises with every change of the rules; `TRANSACTION_VERSION` when calls or signed
extensions are encoded otherwise than before. Old versions stay in the registry (`runtime.RUNTIMES`)
for as long as blocks they made are to be replayed.
"""

from hashlib import blake2b
from typing import Final

from deepbrain.pallets.system import ApiId, RuntimeVersion
from deepbrain.primitives.units import U8, U32
from deepbrain.runtime.api_types import APIS

SPEC_NAME: Final = "deepbrain"
SPEC_VERSION: Final = U32(1)
TRANSACTION_VERSION: Final = U32(1)


def api_id(name: str) -> ApiId:
    """How a runtime API is named in the version."""
    return ApiId(blake2b(name.encode(), digest_size=8).digest())


VERSION: Final = RuntimeVersion(
    spec_name=SPEC_NAME,
    impl_name="deepbrain-python",
    authoring_version=U32(1),
    spec_version=SPEC_VERSION,
    impl_version=U32(1),
    apis=tuple((api_id(api.name), U32(api.version)) for api in APIS),
    transaction_version=TRANSACTION_VERSION,
    system_version=U8(2),
)
