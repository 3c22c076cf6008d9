"""The page with which a wallet in a browser signs calls: files, served by the RPC port as they are.

Everything it shows or sends goes through `node/rpc/wallet.py`; it contains no SCALE, and loads nothing
from anywhere else.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file, and what it is."""

    body: bytes
    content_type: str


def _read(name: str, content_type: str) -> PageFile:
    return PageFile((files(__package__) / name).read_bytes(), content_type)


def page_files() -> dict[str, PageFile]:
    """By the path that a browser asks for."""
    return {
        "/wallet": _read("wallet.html", "text/html"),
        "/wallet.js": _read("wallet.js", "text/javascript"),
        "/wallet.css": _read("wallet.css", "text/css"),
    }
