"""Everything a renter does with an order besides waiting for it."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest
from tests.e2e.money import assert_conserved, assert_settled
from tests.e2e.network import Network
from tests.e2e.terminal import Terminal

COUNT = "import time\nfor i in range(%d): print('line', i, flush=True); time.sleep(%s)\nopen('made.txt','w').write('made')"


def detached(net: Network, program: str, *more: str) -> str:
    """Start a Python program; the number of its order."""
    done = net.expect("run", "-y", "-d", "--no-workspace", *(more or ("--for", "5m")), "--",
                      "python3", "-c", program)  # fmt: skip
    order = done.out.strip()
    assert order.isdigit(), done.out
    return order


@pytest.fixture(scope="module")
def resting(as_root: Network) -> Iterator[str]:
    """An order that does nothing for long, in mode `gvisor`."""
    order = detached(as_root, "import time; print('up', flush=True); time.sleep(600)")
    yield order
    as_root.expect("stop", order)
    assert_settled(as_root.bill(int(order)))


@pytest.fixture(scope="module")
def resting_rootless(as_user: Network) -> Iterator[str]:
    order = detached(as_user, "import time; print('up', flush=True); time.sleep(600)")
    yield order
    as_user.expect("stop", order)


def test_detach_follow_and_attach(net: Network) -> None:
    order = detached(net, COUNT % (8, 0.4))
    followed = net.expect("logs", "-f", order)
    assert followed.out == "".join(f"line {i}\n" for i in range(8))
    attached = net.expect("attach", order, "--into", "attached")
    assert attached.out == followed.out, "attach prints all output from the beginning"
    assert (net.base / "attached" / order / "made.txt").read_text() == "made"
    assert_settled(net.bill(int(order)))


def test_ps_lists_open_orders_and_with_all_the_ended(as_root: Network, resting: str) -> None:
    listed = as_root.expect("ps", "--json").json()
    mine = next(entry for entry in listed if entry["order"] == int(resting))
    assert mine["state"] == "running"
    assert mine["isolation"] == "gvisor"
    assert {"order", "state", "machine", "units", "term_seconds", "used_seconds", "held"} <= set(
        mine
    )
    assert resting in as_root.expect("ps").out


def test_extend_gives_time(as_root: Network, resting: str) -> None:
    before = as_root.bill(int(resting))
    as_root.expect("extend", resting, "60s", "-y")
    after = as_root.bill(int(resting))
    assert after["term_seconds"] == before["term_seconds"] + 60
    assert int(after["held"]) > int(before["held"])
    assert_conserved(as_root)


@pytest.mark.parametrize("mode", ["as_root", "as_user"])
def test_a_shell_has_a_real_terminal(mode: str, request: pytest.FixtureRequest) -> None:
    net: Network = request.getfixturevalue(mode)
    order = request.getfixturevalue("resting" if mode == "as_root" else "resting_rootless")
    with Terminal(net, "exec", "-it", order, "sh", columns=91, rows=27) as shell:
        shell.send("echo $((6*7))-ready\n")
        shell.expect("42-ready")
        shell.send("stty size; test -t 0 && test -t 1 && echo is-a-'tty'\n")
        shell.expect("27 91")
        shell.expect("is-a-tty")
        shell.send("sleep 100\n")
        time.sleep(0.5)
        shell.send("\x03")  # Ctrl-C is the command's there, not ours here
        shell.send("echo still-'here'\n")
        shell.expect("still-here")
        shell.send("exit 5\n")
        assert shell.wait() == 5


def test_exec_passes_streams_and_the_code(net: Network, request: pytest.FixtureRequest) -> None:
    order = detached(net, "import time; time.sleep(600)")
    try:
        text = "".join(f"{i}\n" for i in range(20_000))
        echoed = net.dbc("exec", "-i", order, "cat", given=text)
        assert (echoed.code, echoed.out) == (0, text)
        failed = net.dbc("exec", order, "sh", "-c", "echo out; echo err >&2; exit 41")
        assert (failed.code, failed.out) == (41, "out\n")
        assert "err" in failed.err
        assert net.dbc("exec", order, "no-such-command").code == 127
    finally:
        net.expect("stop", order)
    refused = net.dbc("exec", order, "true")
    assert refused.code not in (0, 127)
    assert "Traceback" not in refused.err


def test_copies_go_both_ways(as_root: Network, resting: str) -> None:
    there = as_root.workspace("sent", {"a.txt": "A", "deep/er/b.bin": bytes(range(256)) * 4096})
    as_root.expect("cp", str(there), f"{resting}:inputs")
    script = "import hashlib; print(hashlib.sha256(open('inputs/deep/er/b.bin','rb').read()).hexdigest())"
    import hashlib

    wanted = hashlib.sha256(bytes(range(256)) * 4096).hexdigest()
    assert as_root.expect("exec", resting, "python3", "-c", script).out.strip() == wanted
    as_root.expect("cp", f"{resting}:inputs", "back")
    assert (as_root.base / "back" / "deep" / "er" / "b.bin").read_bytes() == bytes(
        range(256)
    ) * 4096
    as_root.expect("cp", f"{resting}:inputs/a.txt", "one.txt")
    assert (as_root.base / "one.txt").read_text() == "A"
    again = as_root.dbc("cp", f"{resting}:inputs/a.txt", "one.txt")
    assert again.code == 1, "nothing here is ever written over"
    missing = as_root.dbc("cp", f"{resting}:no/such", "two.txt")
    assert missing.code == 1
    assert not (as_root.base / "two.txt").exists()


def test_stop_ends_and_settles(net: Network) -> None:
    order = detached(net, "import signal,sys,time\n"
                          "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), "
                          "open('last.txt','w').write('x'), sys.exit(3)))\n"
                          "print('up', flush=True)\ntime.sleep(600)")  # fmt: skip
    _await_line(net, order, "up")
    stopped = net.expect("stop", order)
    assert "refunded" in stopped.sentence
    bill = net.bill(int(order))
    assert bill["state"] == "stopped"
    assert_settled(bill)
    assert net.dbc("stop", order).code == 1
    attached = net.dbc("attach", order, "--into", "stopped")
    assert attached.code == 3, attached.err
    assert attached.out.endswith("told\n")
    assert (net.base / "stopped" / order / "last.txt").exists()


@pytest.mark.parametrize(
    ("number", "state"),
    [(signal.SIGINT, "stopped"), (signal.SIGTERM, "stopped"), (signal.SIGHUP, "")],
)
def test_signals_without_a_terminal(as_root: Network, number: int, state: str) -> None:
    process = as_root.start("run", "-y", "--for", "5m", "--no-workspace", "--", "python3", "-c",
                            "import time; print('up', flush=True); time.sleep(600)")  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    order = as_root.orders()[-1]["order"]
    process.send_signal(number)
    _, err = process.communicate(timeout=50)
    if state:
        assert process.returncode == 128 + signal.SIGTERM, err
        bill = as_root.bill(order)
        assert bill["state"] == state
        assert_settled(bill)
        return
    assert process.returncode == 0, err
    assert f"dbc attach {order}" in err
    assert as_root.bill(order)["state"] == "running"
    as_root.expect("stop", str(order))


@contextlib.contextmanager
def _running_on_a_terminal(net: Network) -> Iterator[Terminal]:
    job = "import time; print('u'+'p', flush=True); time.sleep(600)"
    with Terminal(net, "run", "--for", "5m", "--no-workspace", "--", "python3", "-c", job) as shown:
        shown.expect("pay from")
        shown.send("y\n")
        shown.expect("up\r\n")
        yield shown


def test_ctrl_c_asks_and_d_detaches(as_root: Network) -> None:
    with _running_on_a_terminal(as_root) as terminal:
        terminal.send("\x03")
        terminal.expect("[d]etach")
        terminal.send("\n")  # go on
        time.sleep(0.3)
        terminal.send("\x03")
        terminal.expect("[d]etach")
        terminal.send("d\n")
        assert terminal.wait() == 0
    order = as_root.expect("ps", "--json").json()[-1]["order"]
    assert as_root.bill(order)["state"] == "running"
    as_root.expect("stop", str(order))


@pytest.mark.parametrize("answer", ["\x03", "s\n"])
def test_a_second_ctrl_c_stops_and_so_does_s(as_root: Network, answer: str) -> None:
    with _running_on_a_terminal(as_root) as terminal:
        terminal.send("\x03")
        terminal.expect("[s]top")
        terminal.send(answer)
        assert terminal.wait(50) == 128 + signal.SIGTERM, terminal.seen
        assert "was stopped" in terminal.seen
    assert_settled(as_root.bill(as_root.orders()[-1]["order"]))


def test_a_reader_that_leaves_ends_the_order(as_root: Network) -> None:
    """`dbc run … | head -1`: nobody reads on, so nobody pays on."""
    read, write = os.pipe()
    process = as_root.start("run", "-y", "--for", "5m", "--no-workspace", "--", "python3", "-c",
                            COUNT % (10_000, 0.05), stdout=write)  # fmt: skip
    os.close(write)
    assert os.read(read, 4)
    os.close(read)
    _, err = process.communicate(timeout=60)
    assert_settled(as_root.bill(as_root.orders()[-1]["order"]))
    assert "Traceback" not in err


def _await_line(net: Network, order: str, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in net.dbc("logs", order).out:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_command_may_print_more_than_a_record_holds(as_root: Network, resting: str) -> None:
    job = "head -c 3000000 /dev/zero | tr '\\0' x"
    done = as_root.expect("exec", resting, "sh", "-c", job)
    assert done.out == "x" * 3_000_000
