"""A machine joins by hand, is rented, and joins again after whatever happened."""

import os
import signal

from tests.e2e.money import assert_conserved, assert_settled
from tests.e2e.network import Network, Popen

OWNER = ("--wallet", "//Dave")


class Joining:
    """`dbc join` of a machine of its own, beside the network's."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.data = net.base / "joined"
        self.said = net.base / "join.log"

    def start(self) -> Popen:
        """Until it serves."""
        asked = ("join", "-y", "--price", "0.01", "--port", "4177", "--data", str(self.data))
        with self.said.open("w") as log:
            process = self.net.start(*OWNER, *asked, stdout=log, stderr=log)
        served = "serving; Ctrl-C"
        self.net.wait_for(
            lambda: served in self.said.read_text() or process.poll() is not None,
            60,
            "the machine does not serve",
        )
        assert process.poll() is None, self.said.read_text()
        return process

    def run(self) -> str:
        """An order on it; the machine's id."""
        machine = self.net.expect("gpus", "--json").json()[0]
        assert machine["addresses"][0].endswith(":4177"), "the cheapest machine is this one"
        done = self.net.expect("run", "-y", "--for", "30s", "--no-workspace", "--machine",
                               machine["machine"][:12], "--", "echo", "joined")  # fmt: skip
        assert done.out == "joined\n"
        assert_settled(self.net.orders()[-1])
        return str(machine["machine"])


def test_a_machine_joins_is_rented_killed_joined_again_and_leaves(as_root: Network) -> None:
    joining = Joining(as_root)
    first = joining.start()
    joining.run()
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    again = joining.start()
    machine = joining.run()
    refused = as_root.dbc(*OWNER, "join", "-y", "--price", "0.01", "--data", str(joining.data))
    assert refused.code == 1
    assert "another `dbc join` serves" in refused.sentence
    again.send_signal(signal.SIGINT)
    assert again.wait(30) == 0, joining.said.read_text()
    left = as_root.expect(*OWNER, "leave", "-y", "--clear", "--data", str(joining.data))
    assert "has left" in left.err
    assert not any((joining.data / "tenants").iterdir()), "nothing of the orders is kept"
    assert machine not in {offer["machine"] for offer in as_root.offers()}
    assert_conserved(as_root)
