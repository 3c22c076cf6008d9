"""A host's week: the guide's own commands from an empty host to one that earns, then what a week brings."""

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.pages import ROOT, session_lines
from tests.e2e.house import HostMachine, Popen, host_machine

GUIDE = ROOT / "docs/guide/provider.md"
ADDRESS = re.compile(r"\b5[1-9A-HJ-NP-Za-km-z]{47}\b")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="installing needs root"),
]


@pytest.fixture(scope="module")
def host() -> Iterator[HostMachine]:
    with host_machine() as machine:
        yield machine


class Guide:
    """Types the guide's lines. What a test cannot have is put differently, and said here."""

    def __init__(self, host: HostMachine) -> None:
        self.host = host
        self.stash = ""
        self.lines = list(session_lines(GUIDE))

    def type_until(self, last: str) -> None:
        """Up to the line that holds `last`, which is typed too."""
        while self.lines:
            where, line = self.lines.pop(0)
            (self.on_host if where == "host" else self.at_home)(line)
            if last in line:
                return
        raise AssertionError(f"the guide has no line with {last!r}")

    def on_host(self, line: str) -> None:
        host = self.host
        line = ADDRESS.sub(self.stash, re.sub(r"^sudo (-E )?", "", line))
        line = line.replace("REPOSITORY", str(ROOT))
        if line.startswith("apt-get"):
            # The test's machine keeps its packages; where it has no lists there is nothing to ask.
            if list(Path("/var/lib/apt/lists").glob("*Packages*")):
                host.expect(line.replace("install", "install --simulate"))
        elif line.startswith("export DBC_NODE="):
            assert "DBC_NODE" in host.env, "the test's own node"
        elif line.endswith("provider run"):
            host.serve()
        elif "provider upgrade" in line:
            assert "have your supervisor restart" in host.run(line).err, "there is no systemd here"
        elif line.startswith("dbc doctor"):
            self.doctor(line)
        else:
            if "provider install" in line:
                line += (
                    f" --port {host.port} --address 127.0.0.1 --metrics {host.metrics} --disk 4G"
                )
            host.expect(line)
            if line.startswith("git clone"):
                self.lend_what_is_built()

    def lend_what_is_built(self) -> None:
        """What `make sandbox` then finds done: it would take minutes, and every test has it."""
        subprocess.run(["make", "-C", ROOT, "sandbox"], check=True)
        for name in (".venv", ".cache", "requirements", "pyproject.toml"):
            here = f"/opt/deepbrain/{name}"
            self.host.expect(f"rm -rf {here}; ln -s {ROOT / name} {here}")

    def doctor(self, line: str) -> None:
        done = self.host.run(f"{line} --json")
        found = json.loads(done.out)
        assert done.code == (0 if all(one["ok"] for one in found) else 1)
        assert all(set(one) == {"name", "ok", "detail", "hint"} for one in found)
        by_name = {one["name"]: one for one in found}
        assert by_name["isolation"]["detail"] == "gvisor: serves anyone"
        assert {"gVisor", "disk", "cgroups", "node", "clock"} <= by_name.keys()

    def at_home(self, line: str) -> None:
        host = self.host
        if "bond.json" in line:
            host.expect(f"cp /etc/dbc/bond.json {host.home.path}/")
        done = host.expect_at_home(line, given="y\n")
        if line.startswith("dbc wallet address"):
            self.stash = done.out.strip()
            host.expect_at_home(f"dbc --wallet //Alice wallet send -y {self.stash} 1000")


@pytest.fixture(scope="module")
def guide(host: HostMachine) -> Guide:
    typed = Guide(host)
    typed.type_until("dbc earnings")
    return typed


def rent(host: HostMachine, script: str, *, span: str = "5m") -> Popen:
    """A renter's job, until its first output; its own output is in `job.log`."""
    log = host.base / "job.log"
    log.write_text("")
    machine = json.loads(host.at_home("dbc gpus --json").out)[0]["machine"]
    order = f"dbc --wallet //Alice run -y --for {span} --no-workspace --machine {machine}"
    dbc = Path(os.sys.executable).parent / "dbc"
    job = host.start(order.replace("dbc", str(dbc), 1) + f" -- sh -c '{script}'", log)
    host.wait_for(lambda: "started\n" in log.read_text(), 60, "the job does not start")
    return job


UNTIL_TOLD = "i=0; echo started; while ! test -e go; do i=$((i+1)); echo step $i; sleep 0.3; done"
"""A job that goes on however slow the machine is; `tell` ends it."""


def tell(host: HostMachine) -> None:
    """Have the job that runs `UNTIL_TOLD` end by itself."""
    order = orders(host)[-1]["order"]
    host.expect_at_home(f"dbc --wallet //Alice exec {order} touch /workspace/go")


def orders(host: HostMachine) -> list[dict]:
    return json.loads(host.at_home("dbc --wallet //Alice ps --all --json").out)


def job_log(host: HostMachine) -> str:
    return (host.base / "job.log").read_text()


def paused(host: HostMachine) -> bool:
    return json.loads(host.at_home("dbc gpus --all --json").out)[0]["paused"]


def test_the_guides_commands_lead_to_a_machine_that_earns(host: HostMachine, guide: Guide) -> None:
    job = rent(host, "echo started; sleep 3; echo over")
    assert job.wait(60) == 0, job_log(host)
    assert "over" in job_log(host)
    earned = json.loads(host.expect("dbc earnings --json").out)
    assert earned["orders"] == 1
    assert int(earned["paid"]) > 0
    status = json.loads(host.expect("dbc provider status --json").out)
    assert status["serves"]
    assert (status["listing"], status["rented"]) == ("open", 0)


def test_metrics_are_scraped_and_show_the_order(host: HostMachine, guide: Guide) -> None:
    job = rent(host, UNTIL_TOLD)
    host.wait_for(
        lambda: 'orders{state="running"} 1.0' in scrape(host), 20, "the order is not shown"
    )
    assert "deepbrain_units_free 1.0" in scrape(host)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) != 0
    host.wait_for(lambda: 'orders{state="running"} 0.0' in scrape(host), 20, "it is shown too long")


def scrape(host: HostMachine) -> str:
    with urllib.request.urlopen(f"http://{host.metrics}/metrics", timeout=5) as answer:
        return answer.read().decode()


def test_a_new_release_takes_over_and_jobs_go_on(host: HostMachine, guide: Guide) -> None:
    job = rent(host, UNTIL_TOLD)
    keepers = host.processes("keeper.py")
    assert len(keepers) == 1
    agents = host.processes(r"-m deepbrain.provider.agent")
    host.stop()
    assert host.processes("keeper.py") == keepers
    host.serve()
    assert not set(agents) & set(host.processes(r"-m deepbrain.provider.agent"))
    assert host.processes("keeper.py") == keepers
    status = json.loads(host.expect("dbc provider status --json").out)
    assert (status["serving"], status["jobs"]) == (status["release"], 1)
    tell(host)
    assert job.wait(60) == 0, job_log(host)
    steps = re.findall(r"^step (\d+)$", job_log(host), re.MULTILINE)
    assert len(steps) > 5
    assert steps == [str(i) for i in range(1, len(steps) + 1)], "nothing is lost, nothing twice"
    assert orders(host)[-1]["state"] == "exited"


def test_a_drained_host_may_be_switched_off(host: HostMachine, guide: Guide) -> None:
    job = rent(host, UNTIL_TOLD)
    short = host.run("dbc drain --until 1s")
    assert short.code == 1
    assert re.search(r"order \d+ runs; the last is over in", short.err)
    tell(host)
    done = host.expect("dbc drain --until 1m")
    assert "may be switched off" in done.err
    assert job.wait(30) == 0, "nobody's job is ended for it"
    assert paused(host)
    host.expect("dbc resume")
    assert not paused(host)


def test_a_full_disk_stops_new_orders_and_hurts_no_job(host: HostMachine, guide: Guide) -> None:
    job = rent(host, f"{UNTIL_TOLD}; echo still here > left; cat left")
    # A machine all of whose units are taken has nothing to pause: this one has a free unit.
    host.expect("fallocate -l 20G /var/lib/dbc/ballast || dd if=/dev/zero of=/var/lib/dbc/ballast "
                "bs=1M 2>/dev/null || true")  # fmt: skip
    host.wait_for(lambda: paused(host), 40, "new orders are still taken")
    assert "event=disk-full" in host.log
    assert not json.loads(host.run("dbc provider status --json").out)["has_room"]
    # Whatever was freed meanwhile is taken, too: not a block is left when the job is told to end.
    host.run("dd if=/dev/zero of=/var/lib/dbc/rest bs=4k 2>/dev/null")
    assert int(host.expect("stat -f -c %a /var/lib/dbc").out) == 0
    tell(host)
    assert job.wait(90) == 0, job_log(host)
    assert "still here" in job_log(host)
    assert orders(host)[-1]["state"] == "exited", "the agent closes what ends, disk or no disk"
    host.expect("rm /var/lib/dbc/ballast /var/lib/dbc/rest")
    host.wait_for(lambda: not paused(host), 40, "it does not come back by itself")
    assert "event=disk-room" in host.log


def test_after_a_reboot_it_serves_and_what_was_lost_is_refunded(
    host: HostMachine, guide: Guide
) -> None:
    job = rent(host, "echo started; sleep 200")
    order = orders(host)[-1]["order"]
    assert host.cgroups(), "there is something to clean up"
    reboot(host)
    host.serve()
    host.wait_for(lambda: orders(host)[-1]["state"] == "failed", 60, "the order is not closed")
    bill = json.loads(host.at_home(f"dbc --wallet //Alice bill {order} --json").out)
    assert int(bill["refunded"]) > int(bill["paid"])
    assert job.wait(60) == 123, "the renter hears that the machine lost it"
    assert not host.processes("runsc")
    host.wait_for(lambda: not host.cgroups(), 20, "a cgroup is left")
    again = rent(host, "echo started; echo as before")
    assert again.wait(60) == 0, job_log(host)


def reboot(host: HostMachine) -> None:
    """Everything that runs dies at once, mounts and loop devices are gone, and the boot is another."""
    serving = host.serving
    host.serving = None
    for sign in ("deepbrain.provider", "keeper.py", "runsc"):
        for pid in host.processes(sign):
            os.kill(pid, signal.SIGKILL)
    assert serving is not None
    serving.wait(20)
    time.sleep(0.5)
    boot = host.base / "boot_id"
    boot.write_text("00000000-0000-4000-8000-000000000001\n")
    host.expect("for point in $(grep ' /var/lib/dbc/' /proc/self/mountinfo | cut -d' ' -f5 | sort -r); do "
                "umount -l $point; done")  # fmt: skip
    host.expect(f"mount --bind {boot} /proc/sys/kernel/random/boot_id")


def test_the_rest_of_the_guide_ends_with_nothing_left(host: HostMachine, guide: Guide) -> None:
    while "uninstall" not in guide.lines[0][1]:
        where, line = guide.lines.pop(0)
        (guide.on_host if where == "host" else guide.at_home)(line)
        if "provider set" in line:
            host.stop()
            host.serve()
    refused = host.run("dbc provider uninstall -y")
    assert "still bonded" in refused.err
    machine = json.loads(host.expect("dbc provider status --json").out)["machine"]
    host.expect_at_home(f"dbc --wallet savings leave -y --machine {machine}")
    host.stop()
    guide.type_until("uninstall")
    assert not guide.lines, "every line of the guide was typed"
    assert not host.run("ls /var/lib/dbc/tenants").out
    host.expect("test -e /etc/dbc/controller.json")


def test_no_secret_is_in_any_log(host: HostMachine, guide: Guide) -> None:
    """After all of the above: password, keys and proofs."""
    lines = host.log.splitlines()
    assert len(lines) > 100
    shape = re.compile(r"time=\S+Z level=\w+ from=(agent|helper) event=[\w-]+ ")
    assert not [line for line in lines if not shape.match(line)], "each line is an event"
    about = [line for line in lines if "event=begin" in line or "event=connected" in line]
    assert about and all(" order=" in line for line in about)
    password = host.expect("cat /etc/dbc/controller.password").out.strip()
    sealed = json.loads(host.expect("cat /etc/dbc/controller.json").out)["encoded"]
    machine = host.expect("cat /var/lib/dbc/agent/machine.key").out.strip()
    assert len(password) > 20 and len(machine) == 64
    for secret in (password, sealed, machine):
        assert secret not in host.log
    # A proof is a signature of 64 bytes: nothing as long, in hex or base64, is ever logged.
    assert not re.search(r"[0-9a-fA-F]{128}|[A-Za-z0-9+/]{86}", host.log)
