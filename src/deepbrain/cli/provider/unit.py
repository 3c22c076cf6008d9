"""The systemd unit of an installed provider, as text.

No setting here may give the service a mount namespace of its own (`Protect…`, `Private…`, `…Paths`,
`…Directory`): the volumes of running tenants are mounts, and the next instance of the service must find
those of the last one. `KillMode=process`: keepers and their tenants outlive a restart.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_UNUSED_CAPABILITIES: Final = (
    "CAP_AUDIT_CONTROL",
    "CAP_AUDIT_READ",
    "CAP_BLOCK_SUSPEND",
    "CAP_LEASE",
    "CAP_LINUX_IMMUTABLE",
    "CAP_MAC_ADMIN",
    "CAP_MAC_OVERRIDE",
    "CAP_SYSLOG",
    "CAP_SYS_BOOT",
    "CAP_SYS_MODULE",
    "CAP_SYS_PACCT",
    "CAP_SYS_RAWIO",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_WAKE_ALARM",
)
"""Neither the helper nor gVisor needs them; a tenant that broke out would not have them either."""

_TEMPLATE: Final = """\
# Written by `dbc provider install`; settings of your own belong into a drop-in (`systemctl edit`).
[Unit]
Description=DeepBrain provider: rents this machine out
Wants=network-online.target
After=network-online.target nss-user-lookup.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}LoadCredential={credential}
Restart=always
RestartSec=2
# Tenants belong to their keepers and go on over a restart.
KillMode=process
TimeoutStopSec=30
Delegate=yes
# A tenant over its memory ends alone; the host in need ends tenants first (they are started at +500).
OOMPolicy=continue
OOMScoreAdjust=-500
TasksMax=infinity
LimitNOFILE=1048576
UMask=0027
CapabilityBoundingSet=~{capabilities}
LockPersonality=yes
RestrictRealtime=yes
SystemCallArchitectures=native
SyslogIdentifier=dbc-provider

[Install]
WantedBy=multi-user.target
"""


def text(command: Sequence[str], credential: tuple[str, Path], env: Mapping[str, str]) -> str:
    """The unit that runs `command`, with the file of `credential` handed over in memory by its name."""
    name, path = credential
    return _TEMPLATE.format(
        command=" ".join(map(_quoted, command)),
        credential=f"{name}:{_percent(str(path))}",
        environment="".join(
            f"Environment={_quoted(f'{key}={value}')}\n" for key, value in sorted(env.items())
        ),
        capabilities=" ".join(_UNUSED_CAPABILITIES),
    )


def _quoted(word: str) -> str:
    """As systemd reads words: `%` and `$` are its own, backslashes and quotes too."""
    plain = _percent(word.replace("\\", "\\\\").replace('"', '\\"')).replace("$", "$$")
    return f'"{plain}"' if any(char in plain for char in " \t'\";") or not plain else plain


def _percent(word: str) -> str:
    return word.replace("%", "%%")
