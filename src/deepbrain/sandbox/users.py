"""As whom an image's job runs: `USER`, resolved from the image's own passwd and group files.

Both are a stranger's: bounded, and read line by line; what is no line of such a file is passed over.
"""

from collections.abc import Iterator
from typing import Final

from deepbrain.sandbox.sandbox import ImageError, User

MAX_FILE: Final = 1 << 20
MAX_ID: Final = (1 << 31) - 1
MAX_GROUPS: Final = 64
MAX_HOME: Final = 4096


def resolve_user(text: str, passwd: bytes, group: bytes) -> User:
    """`text` is `user`, `user:group` or empty (root), by name or number.

    A number without an entry is good as it is, with group 0. Raises: ImageError: a name without one.
    """
    wanted, has_group, wanted_group = text.partition(":")
    users, groups = list(_lines(passwd, 7)), list(_lines(group, 4))
    wanted = wanted or "0"
    entry = next((line for line in users if line[0] == wanted), None)
    if entry is None:
        entry = next((line for line in users if line[2] == wanted), None)
    uid = _number(wanted) if entry is None else _number(entry[2])
    gid = 0 if entry is None else _number(entry[3])
    if uid is None or gid is None:
        raise ImageError(f"the image's user {wanted[:64]!r} is not in its /etc/passwd")
    if has_group:
        named = next((line for line in groups if line[0] == wanted_group), None)
        gid = _number(wanted_group if named is None else named[2])
        if gid is None:
            raise ImageError(f"the image's group {wanted_group[:64]!r} is not in its /etc/group")
    name = "" if entry is None else entry[0]
    member = () if has_group or not name else tuple(_groups_of(name, groups, gid))
    home = "" if entry is None else entry[5]
    return User(uid, gid, member, home if _is_usable(home) else "")


def _is_usable(home: str) -> bool:
    return home.startswith("/") and len(home) <= MAX_HOME and home.isprintable()


def _groups_of(name: str, groups: list[list[str]], own: int) -> Iterator[int]:
    found = {own}
    for line in groups:
        number = _number(line[2])
        if name in line[3].split(",") and number is not None and number not in found:
            found.add(number)
            yield number
            if len(found) > MAX_GROUPS:
                return


def _lines(content: bytes, fields: int) -> Iterator[list[str]]:
    for line in content[:MAX_FILE].decode(errors="replace").splitlines():
        parts = line.split(":")
        if len(parts) == fields and parts[0]:
            yield parts


def _number(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > MAX_ID:
        return None
    return int(text)
