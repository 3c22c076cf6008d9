"""Valid bytes, and how to damage them: what a coverage-guided fuzzer begins with, as Hypothesis strategies."""

import io
import tarfile
from typing import Any

from hypothesis import strategies as st

BLOCK = 512


@st.composite
def damaged(draw: Any, valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes with pieces flipped, cut, doubled, moved, or replaced by extremes."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 5)):
            case 0 if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del data[at:]
            case 2:
                end = min(at + draw(st.integers(1, 64)), len(data))
                data[at:at] = data[at:end]
            case 3:
                piece = draw(
                    st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x80" + b"\xff" * 7, b"9" * 12])
                )
                data[at : at + len(piece)] = piece
            case 4:
                data[at:at] = draw(st.binary(max_size=40))
            case _:
                del data[at : at + draw(st.integers(1, 64))]
    return bytes(data)


NAMES = st.text("abc./\\-\0\x1bé\u202e~", min_size=1, max_size=300) | st.sampled_from(
    ["../x", "/etc/passwd", ".git/hooks/x", "a/../../b", "a" * 300, "./", "x" * 120 + "/y"]
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE,
     tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"g", b"K", b"Z"]
)  # fmt: skip


@st.composite
def tars(draw: Any) -> bytes:
    """An archive of strange members, its checksums right, so that damage reaches what is behind them."""
    out = io.BytesIO()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for _ in range(draw(st.integers(0, 5))):
            member = tarfile.TarInfo(draw(NAMES).replace("\0", "0"))
            member.type = draw(KINDS)
            member.linkname = draw(NAMES).replace("\0", "0")
            member.mode = draw(st.integers(0, 0o7777))
            content = draw(st.binary(max_size=700)) if member.type == tarfile.REGTYPE else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = bytearray(out.getvalue())
    for at in range(0, len(data) - BLOCK, BLOCK):
        if data[at + 257 : at + 262] == b"ustar" and draw(st.booleans()):
            where = draw(st.sampled_from([100, 108, 124, 136, 156, 157, 329, 345]))
            data[at + where : at + where + 4] = draw(st.binary(min_size=4, max_size=4))
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + BLOCK])
    return bytes(data)
