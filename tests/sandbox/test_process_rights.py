"""Under the root helper the agent, a user of its own, reads what the process mode records of a tenant."""

import os
import stat
from pathlib import Path

import pytest

from deepbrain.sandbox.canary import make_data_directory
from deepbrain.sandbox.directory import TenantDirectory
from deepbrain.sandbox.host import Host, make_empty_rootfs
from deepbrain.sandbox.modes import Programs
from deepbrain.sandbox.process import ProcessEngine
from deepbrain.sandbox.sandbox import Mode, ModeReport, TenantSpec

AGENT = (51_998, 51_998)
IMAGE = "0" * 64


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is a helper")
def test_the_agents_group_reads_the_records_and_others_only_pass_through(tmp_path: Path) -> None:
    tool = Programs.find().tool
    assert tool is not None, "run scripts/get-gvisor .cache/bin"
    data = tmp_path / "data"
    data.mkdir(mode=0o711)
    make_data_directory(data, AGENT)
    make_empty_rootfs(data / "images" / IMAGE / "rootfs")
    host = Host(data, ProcessEngine(tool, AGENT), ModeReport(Mode.PROCESS), AGENT, tool)
    host.prepare(
        TenantSpec(order=1, image=IMAGE, argv=("true",), disk_bytes=8 << 20, log_bytes=1 << 20)
    )
    tenant = TenantDirectory(data / "tenants" / "1")
    try:
        for record in (tenant.path, tenant.path / "tenant.json", tenant.log):
            status = record.stat()
            assert status.st_gid == AGENT[1], record
            assert status.st_mode & stat.S_IRGRP, record
        assert not tenant.path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
    finally:
        host.destroy(1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives tenants users")
def test_tenants_of_the_same_number_of_two_hosts_are_two_users(tmp_path: Path) -> None:
    """Ending one kills all processes of its user."""
    tool = Programs.find().tool
    assert tool is not None, "run scripts/get-gvisor .cache/bin"
    engine = ProcessEngine(tool, AGENT)
    users = set()
    for host in ("one", "another"):
        path = tmp_path / host / "1"
        path.mkdir(parents=True)
        users.add(engine._uid(TenantDirectory(path)))
        assert engine._uid(TenantDirectory(path)) in users, "it stays what it was"
    assert len(users) == 2
