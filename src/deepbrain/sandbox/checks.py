"""What `dbc doctor` asks of a provider's machine: one finding a line, with what to do about it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deepbrain.sandbox.cgroups import find_cgroups
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.network import offered
from deepbrain.sandbox.programs import HOW_TO_GET
from deepbrain.sandbox.sandbox import Mode, ModeReport, Network, SandboxError
from deepbrain.sandbox.volumes import find_program

LEAST_FREE = 10 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `dbc doctor`."""

    name: str
    ok: bool
    detail: str
    hint: str = ""
    """What to do, where it is not ok."""


def checks(data: Path, report: ModeReport | None = None) -> list[Finding]:
    """Findings about this machine; about the mode too where a sandbox was opened already.

    Changes nothing, but for the moment of a trial. `data` need not exist yet.
    """
    programs = Programs.find()
    findings = [
        _gvisor(programs.runsc),
        _program("tenant tool", programs.tool, HOW_TO_GET),
        _disk(data),
    ]
    if os.geteuid() == 0:
        findings += [_cgroups(), *_volumes()]
    else:
        findings.append(_user_namespaces())
    if report is not None:
        findings += _mode(report)
    return findings


def _program(name: str, path: Path | None, hint: str) -> Finding:
    if path is None:
        return Finding(name, ok=False, detail="not found", hint=hint)
    return Finding(name, ok=True, detail=str(path))


def _gvisor(path: Path | None) -> Finding:
    """Where it is, and its version in its own words."""
    if path is None:
        return _program("gVisor", None, HOW_TO_GET)
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        hint = HOW_TO_GET
        return Finding("gVisor", ok=False, detail=f"{path} does not run: {error}"[:300], hint=hint)
    version = done.stdout.split("\n", 1)[0].removeprefix("runsc version ").strip()[:100]
    return Finding("gVisor", ok=True, detail=f"{version}, {path}")


def _disk(data: Path) -> Finding:
    place = next(path for path in (data, *data.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free >> 30} GiB free for tenants at {place}"
    return Finding("disk", free >= LEAST_FREE, detail, "free some disk, or choose another --data")


def _cgroups() -> Finding:
    hint = "boot with cgroup v2, or mount the memory, cpu and pids controllers"
    cgroups = find_cgroups()
    if missing := cgroups.missing():
        return Finding("cgroups", ok=False, detail=f"without {', '.join(missing)}", hint=hint)
    try:
        place = cgroups.path("<order>")
    except SandboxError as error:
        return Finding(
            "cgroups", ok=False, detail=str(error), hint="see docs/guide/provider.md, Limits"
        )
    return Finding(
        "cgroups", ok=True, detail=f"version {cgroups.version}: memory, cpu, pids at {place}"
    )


def _volumes() -> list[Finding]:
    findings = []
    for name, package in (("mkfs.ext4", "e2fsprogs"), ("mount", "mount"), ("umount", "mount")):
        try:
            findings.append(Finding(name, ok=True, detail=find_program(name)))
        except SandboxError as error:
            findings.append(Finding(name, ok=False, detail=str(error), hint=f"install {package}"))
    return findings


def _user_namespaces() -> Finding:
    hint = "allow unprivileged user namespaces, or run the provider as root"
    unshare = shutil.which("unshare")
    if unshare is None:
        return Finding("user namespaces", ok=True, detail="not tried: unshare is missing")
    done = subprocess.run(
        [unshare, "--user", "--map-root-user", "true"], capture_output=True, text=True, check=False
    )
    detail = done.stderr.strip()[:200] or "work for this user"
    return Finding("user namespaces", done.returncode == 0, detail, hint)


def _mode(report: ModeReport) -> list[Finding]:
    serves = "serves anyone" if report.mode.serves_strangers else "serves own orders only"
    hint = "see the modes that were refused"
    findings = [
        Finding("isolation", report.mode.serves_strangers, f"{report.mode.value}: {serves}", hint)
    ]
    for refusal in report.refused:
        label = f"isolation {refusal.mode.value}"
        findings.append(Finding(label, ok=False, detail=refusal.reason, hint=_hint(refusal.mode)))
    return [*findings, _network(report)]


def _network(report: ModeReport) -> Finding:
    """Sends and receives, from a tenant's place and through the rules that tenants get."""
    found, reason = offered(report)
    if found is Network.NONE:
        hint = "see docs/guide/provider.md, Network; jobs run without one meanwhile"
        return Finding("tenants' network", ok=False, detail=f"none: {reason}", hint=hint)
    return Finding("tenants' network", ok=True, detail="internet: TCP and DNS work")


def _hint(mode: Mode) -> str:
    if mode is Mode.GVISOR and os.geteuid() != 0:
        return "run the provider's helper as root to serve strangers"
    return "see docs/guide/provider.md, Isolation"
