"""Everyone's own tools, unmodified: ssh, scp, sftp, rsync, forwards, an editor's bootstrap."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.clients import Tools, clients_env, require_client
from tests.e2e.network import Network
from tests.e2e.packages import write_wheels
from tests.e2e.terminal import Terminal
from tests.e2e.test_orders import detached

from deepbrain.sandbox.baseimage import build

REST = "import time; print('up', flush=True); time.sleep(900)"
BLOB = os.urandom(20 << 20)
SUM = "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
SERVE = (
    "import http.server as h, socketserver as s, sys\n"
    "class H(h.BaseHTTPRequestHandler):\n"
    "    def do_GET(self):\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(b'inside ' + self.path.encode())\n"
    "    def log_message(self, *_): pass\n"
    "print('serving', flush=True)\n"
    "h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), H).serve_forever()\n"
)


@pytest.fixture(scope="module")
def tools(as_root: Network) -> Tools:
    for name in ("ssh", "scp", "sftp"):
        require_client(name)
    return Tools.of(as_root)


@pytest.fixture(scope="module")
def order(as_root: Network, tools: Tools) -> Iterator[str]:
    """An order that rests, in mode `gvisor`; its gateway ends with it."""
    number = detached(as_root, REST, "--for", "15m")
    yield number
    as_root.expect("stop", number)


@contextlib.contextmanager
def running(tools: Tools, *command: str, ready: str = "", **how: object) -> Iterator[Any]:
    """A program in the background, from its first word `ready` to the end of the block."""
    process = tools.start(*command, **how)
    try:
        if ready:
            line = process.stdout.readline().decode()
            assert ready in line, f"{line!r} {process.stderr.read1().decode()!r}"
        yield process
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> str:
    """Tell a program to end, and see that it does; what it said on standard error.

    Told again each second: OpenSSH 9.2 sleeps on where a signal comes just before it goes to sleep.
    """
    for _ in range(20):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            _, err = process.communicate(timeout=1)
            return (err or b"").decode()
    said = Path(f"/proc/{process.pid}/status").read_text()
    process.kill()
    process.communicate()
    raise AssertionError(f"{process.args!r} does not end: {said}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(port: int, path: str = "/", patience: float = 15) -> str:
    """What a local address answers, once something listens there."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "nothing answers"
            time.sleep(0.1)


# -- sessions


def test_a_command_has_its_streams_its_code_and_its_place(tools: Tools, order: str) -> None:
    done = tools.run(*tools.ssh(order, "echo out; echo err >&2; pwd; exit 41"))
    assert (done.code, done.out) == (41, "out\n/workspace\n")
    assert done.err == "err\n"
    assert tools.run(*tools.ssh(order, "no-such-program")).code == 127
    assert tools.run(*tools.ssh(order, "kill -TERM $$")).code == 128 + signal.SIGTERM
    long = "x" * 20_000
    assert tools.expect(*tools.ssh(order, f"printf %s {long} | wc -c")).strip() == "20000"


def test_nothing_of_this_machine_comes_along_but_language_and_terminal(
    tools: Tools, order: str
) -> None:
    options = ("-A", "-X", "-o", "SendEnv=LC_DBC SECRET", "-o", "SetEnv=SECRET=1")
    env = tools.expect("env", "LC_DBC=de", *tools.ssh(order, "env", options=options))
    found = dict(line.split("=", 1) for line in env.splitlines() if "=" in line)
    assert found["LC_DBC"] == "de"
    assert not {"SECRET", "SSH_AUTH_SOCK", "DISPLAY"} & set(found)
    assert (found["HOME"], found["SHELL"], found["USER"]) == ("/workspace", "/bin/sh", "root")
    assert found["LANG"].endswith("UTF-8")
    assert "TERM" not in found


def test_a_shell_on_a_terminal(tools: Tools, order: str, as_root: Network) -> None:
    command = tools.ssh(order)
    with Terminal(as_root, command=command, env=tools.env, columns=91, rows=27) as shell:
        shell.send("echo $((6*7))-ready; echo $0; echo $TERM\n")
        shell.expect("42-ready")
        shell.expect("-sh")
        shell.expect("xterm")
        shell.send("stty size; test -t 0 && test -t 1 && echo is-a-'tty'\n")
        shell.expect("27 91")
        shell.expect("is-a-tty")
        shell.resize(101, 33)
        os.kill(shell.process.pid, signal.SIGWINCH)
        shell.send("sleep 0.5; stty size\n")
        shell.expect("33 101")
        shell.send("sleep 100\n")
        time.sleep(0.7)
        shell.send("\x03")
        shell.send("echo still-'here'\n")
        shell.expect("still-here")
        shell.send("exit 5\n")
        assert shell.wait() == 5


def test_twenty_megabytes_through_standard_streams(tools: Tools, order: str) -> None:
    wanted = hashlib.sha256(BLOB).hexdigest()
    code, out, err = tools.raw(*tools.ssh(order, f"python3 -c '{SUM}'"), given=BLOB)
    assert (code, out.decode().strip()) == (0, wanted), err
    code, out, err = tools.raw(*tools.ssh(order, "cat"), given=BLOB)
    assert code == 0, err
    assert hashlib.sha256(out).hexdigest() == wanted
    # A command that does not want all of it ends all the same.
    code, out, _ = tools.raw(*tools.ssh(order, "head -c 3"), given=BLOB)
    assert (code, out) == (0, BLOB[:3])


def test_more_sessions_at_once_than_there_are_places(tools: Tools, order: str) -> None:
    """Beyond twelve they wait for one another; to the machine it is one connection."""
    started = [
        tools.start(*tools.ssh(order, f"echo {i}; cat; sleep 0.5"), stdin=-1) for i in range(14)
    ]
    results = {}

    def finish(i: int) -> None:
        results[i] = started[i].communicate(b"x" * 100_000, 90)

    threads = [threading.Thread(target=finish, args=(i,)) for i in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in started] == [0] * 14
    for i, (out, err) in results.items():
        assert out == f"{i}\n".encode() + b"x" * 100_000, err


def test_a_dropped_connection_leaves_nothing_behind(
    tools: Tools, order: str, as_root: Network
) -> None:
    script = "sleep 4321 & nohup sleep 4321 >/dev/null 2>&1 & (setsid sleep 4321 &); echo on; wait"

    def sleepers() -> int:
        look = "import glob; print(sum(b'4321' in open(p,'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline')))"
        # The look itself has the number on its command line.
        return int(as_root.expect("exec", order, "--", "python3", "-c", look).out) - 2

    with running(tools, *tools.ssh(order, script), ready="on") as session:
        assert sleepers() >= 3
        session.kill()
        session.wait()
    deadline = time.monotonic() + 20
    while sleepers() > 0:
        assert time.monotonic() < deadline, "processes live on"
        time.sleep(0.3)


def test_only_our_own_key_comes_in(tools: Tools, order: str) -> None:
    other = tools.home / "other"
    tools.expect("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other))
    options = ("-o", f"IdentityFile={other}")
    config = tools.config.read_text().replace(str(tools.home / "ssh" / "id_ed25519"), str(other))
    foreign = tools.home / "foreign_config"
    foreign.write_text(config)
    done = tools.run("ssh", "-F", str(foreign), *options, f"dbc-{order}", "true")
    assert done.code == 255
    assert "Permission denied" in done.err
    directory = tools.home / "ssh"
    assert directory.stat().st_mode & 0o077 == 0, "its sockets are for nobody else"
    for name in ("id_ed25519", "host_ed25519"):
        assert (directory / name).stat().st_mode & 0o077 == 0


def test_wrong_orders_are_one_sentence(tools: Tools) -> None:
    for host, words in (("dbc-999999", "there is no order 999999"), ("dbc-x", "is no order")):
        done = tools.run("ssh", "-F", str(tools.config), host, "true")
        assert done.code == 255
        assert words in done.err.splitlines()[0]
        assert "Traceback" not in done.err


def test_dbc_ssh_needs_no_configuration(tools: Tools, order: str) -> None:
    done = tools.run(*tools.dbc("ssh", order, "--", "echo", "one", "two;", "exit", "3"))
    assert (done.code, done.out) == (3, "one two\n")


def test_write_includes_it_once(tools: Tools) -> None:
    config = tools.home / ".ssh" / "config"
    config.parent.mkdir(mode=0o700)
    config.write_text("Host elsewhere\n    Port 1\n")
    for _ in range(2):
        tools.expect(*tools.dbc("ssh-config", "--write"))
    lines = config.read_text().splitlines()
    assert lines[0] == f'Include "{tools.home}/ssh/config"'
    assert lines[1:] == ["Host elsewhere", "    Port 1"]
    shown = tools.expect("ssh", "-F", str(config), "-G", "dbc-7")
    assert "hostkeyalias dbc" in shown
    assert "ssh-proxy" in shown


# -- files


def test_scp_both_ways(tools: Tools, order: str) -> None:
    tree = tools.home / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "blob").write_bytes(BLOB)
    (tree / "run.sh").write_text("#!/bin/sh\n")
    (tree / "run.sh").chmod(0o755)
    config = ("-F", str(tools.config))
    tools.expect("scp", *config, "-rp", str(tree), f"dbc-{order}:copied")
    found = tools.expect(
        *tools.ssh(order, f"cd copied && ls -l run.sh && python3 -c '{SUM}' < deep/blob")
    )
    assert found.startswith("-rwxr-xr-x")
    assert found.split()[-1] == hashlib.sha256(BLOB).hexdigest()
    tools.expect("scp", *config, "-r", f"dbc-{order}:/workspace/copied", str(tools.home / "back"))
    assert (tools.home / "back" / "deep" / "blob").read_bytes() == BLOB
    missing = tools.run("scp", *config, f"dbc-{order}:no-such", str(tools.home))
    assert missing.code == 1
    assert "no-such" in missing.err.lower()


def test_sftp_does_what_a_person_does_with_it(tools: Tools, order: str) -> None:
    here = tools.home / "sftp"
    here.mkdir()
    (here / "blob").write_bytes(BLOB)
    (here / "half").write_bytes(BLOB[: 7 << 20])
    (here / "part").write_bytes(BLOB[: 3 << 20])

    def batch(*lines: str) -> str:
        script = "\n".join((f"lcd {here}", *lines)) + "\n"
        command = ("sftp", "-F", str(tools.config), "-b", "-", f"dbc-{order}")
        return tools.expect(*command, given=script)

    batch("mkdir play", "cd play", "put blob", "rename blob moved", "symlink moved link",
          "chmod 640 moved", "put half resumed")  # fmt: skip
    listed = batch("cd play", "ls -l")
    assert re.search(r"-rw-r----- .* 20971520 .* moved", listed), listed
    assert re.search(r"lrwxrwxrwx .* link", listed), listed
    batch("cd play", "get link fetched", "reput blob resumed", "get resumed", "reget moved part")
    for name in ("fetched", "resumed", "part"):
        assert (here / name).read_bytes() == BLOB, name
    assert "/workspace" in batch("pwd")
    batch("cd play", "rm link", "rm moved", "rm resumed", "cd ..", "rmdir play")
    gone = tools.run("sftp", "-F", str(tools.config), "-b", "-", f"dbc-{order}", given="cd play\n")
    assert gone.code == 1


def test_links_resolve_inside(tools: Tools, order: str) -> None:
    """A link that the order made leads to the order's files, on the way out as well."""
    tools.expect(*tools.ssh(order, "ln -sf /etc/passwd shadow-link"))
    tools.expect("scp", "-F", str(tools.config), f"dbc-{order}:shadow-link", str(tools.home))
    inside = tools.expect(*tools.ssh(order, "cat /etc/passwd"))
    assert (tools.home / "shadow-link").read_text() == inside
    assert inside != Path("/etc/passwd").read_text()


def test_rsync_where_the_image_has_it(
    as_root: Network, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_client("rsync")
    for name, value in clients_env().items():
        monkeypatch.setenv(name, value)
    image = as_root.base / "rsync-image.tar"
    build(image, python=False)
    number = as_root.expect("run", "-y", "-d", "--no-workspace", "--for", "5m", "--image",
                            str(image), "--", "sleep", "600").out.strip()  # fmt: skip
    try:
        tree = tmp_path / "data"
        (tree / "sub").mkdir(parents=True)
        for i in range(50):
            (tree / "sub" / f"{i}.txt").write_text(f"{i}\n" * 100)
        (tree / "blob").write_bytes(BLOB)
        through = ("rsync", "-a", "--stats", "-e", f"ssh -F {tools.config}")
        tools.expect(*through, f"{tree}/", f"dbc-{number}:data/")
        (tree / "blob").write_bytes(BLOB[:-1] + b"!")
        again = tools.expect(
            *through, "--checksum", "--no-whole-file", f"{tree}/", f"dbc-{number}:data/"
        )
        assert "Number of regular files transferred: 1\n" in again
        tools.expect(*through, "--delete", f"dbc-{number}:data/", f"{tmp_path}/back/")
        assert (tmp_path / "back" / "blob").read_bytes() == BLOB[:-1] + b"!"
        assert (tmp_path / "back" / "sub" / "7.txt").read_text() == "7\n" * 100
    finally:
        as_root.expect("stop", number)


# -- ports


@contextlib.contextmanager
def serving(tools: Tools, order: str, port: int) -> Iterator[None]:
    """A web server inside the order."""
    script = f'python3 -u -c "$(cat)" {port}'
    server = tools.start(*tools.ssh(order, script), stdin=-1)
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(SERVE.encode())
    server.stdin.close()
    server.stdin = None
    try:
        assert server.stdout.readline() == b"serving\n"
        yield
    finally:
        end(server)


class _Secret(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the host's own")

    def log_message(self, *_: object) -> None:
        return


@contextlib.contextmanager
def on_the_host() -> Iterator[int]:
    """A service of the provider's machine, on its loopback."""
    server = HTTPServer(("127.0.0.1", 0), _Secret)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_local_forwards_reach_the_order_and_nothing_else(tools: Tools, order: str) -> None:
    here, not_here = free_port(), free_port()
    with serving(tools, order, 8123), on_the_host() as secret:
        options = ("-N", "-L", f"{here}:localhost:8123", "-L", f"{not_here}:localhost:{secret}",
                   "-o", "ExitOnForwardFailure=yes")  # fmt: skip
        assert fetch(secret) == "the host's own", "the control"
        with running(tools, *tools.ssh(order, options=options)) as forwarding:
            assert fetch(here, "/hello") == "inside /hello"
            threads = [
                threading.Thread(target=lambda: results.append(fetch(here, "/many")))
                for _ in range(20)
            ]
            results: list[str] = []
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert results == ["inside /many"] * 20
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                urllib.request.urlopen(f"http://127.0.0.1:{not_here}/", timeout=10)
            err = end(forwarding)
        assert f"nothing answers at port {secret} of this order" in err
        wrong = tools.run(
            "ssh", "-F", str(tools.config), "-W", f"10.0.0.1:{secret}", f"dbc-{order}"
        )
        assert wrong.code == 255
        assert "only ports of the order itself are forwarded" in wrong.err


def test_each_direction_of_a_forward_ends_by_itself(tools: Tools, order: str) -> None:
    """The other side may stop talking while it still listens, and the other way round."""
    inside = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 8124)); print('serving', flush=True)\n"
        "c, _ = s.accept(); c.sendall(b'greeting'); c.shutdown(socket.SHUT_WR)\n"
        "got = b''\n"
        "while data := c.recv(65536): got += data\n"
        "print(len(got), flush=True)\n"
    )
    here = free_port()
    script = 'python3 -u -c "$(cat)"'
    options = ("-L", f"{here}:localhost:8124")
    with running(tools, *tools.ssh(order, script, options=options), stdin=-1) as session:
        session.stdin.write(inside.encode())
        session.stdin.close()
        session.stdin = None
        assert session.stdout.readline() == b"serving\n"
        with socket.create_connection(("127.0.0.1", here), timeout=20) as connection:
            got = b""
            while data := connection.recv(100):
                got += data
            assert got == b"greeting"
            connection.sendall(b"x" * 300_000)
            connection.shutdown(socket.SHUT_WR)
            assert session.stdout.readline() == b"300000\n"


def socks(port: int, host: str, target: int) -> socket.socket:
    """A connection through `ssh -D`, as VS Code makes it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(b"\x05\x01\x00")
    assert connection.recv(2) == b"\x05\x00"
    name = host.encode()
    connection.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + target.to_bytes(2, "big"))
    answer = connection.recv(10)
    if answer[1:2] != b"\x00":
        connection.close()
        raise ConnectionError("refused")
    return connection


def http(connection: socket.socket, path: str) -> str:
    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    got = b""
    while data := connection.recv(65536):
        got += data
    connection.close()
    return got.partition(b"\r\n\r\n")[2].decode()


def await_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_dynamic_forwards(tools: Tools, order: str) -> None:
    here = free_port()
    with (
        serving(tools, order, 8125),
        running(tools, *tools.ssh(order, options=("-N", "-D", str(here)))),
    ):
        await_port(here)
        assert http(socks(here, "localhost", 8125), "/a") == "inside /a"
        assert http(socks(here, "127.0.0.1", 8125), "/b") == "inside /b"
        with pytest.raises(ConnectionError):
            socks(here, "169.254.169.254", 80)


def test_remote_forwards_are_refused_in_a_sentence(tools: Tools, order: str) -> None:
    done = tools.run(*tools.ssh(order, "echo fine", options=("-R", "9000:localhost:22")))
    assert (done.code, done.out) == (0, "fine\n")
    assert "ports of your own machine are not offered to an order (ssh -R)" in done.err


def test_dbc_forward(tools: Tools, order: str) -> None:
    here = free_port()
    with serving(tools, order, 8126):
        command = tools.dbc("forward", "--json", order, f"{here}:8126", ":8126")
        with running(tools, *command) as forwarding:
            text = ""
            while not text.endswith("]\n"):
                line = forwarding.stdout.readline().decode()
                assert line, forwarding.stderr.read().decode()
                text += line
            found = json.loads(text)
            assert found[0]["url"] == f"http://127.0.0.1:{here}"
            for entry in found:
                assert fetch(entry["local"], "/f") == "inside /f"
            taken = tools.run(*tools.dbc("forward", order, f"{here}:8126"))
            assert taken.code == 1
            assert (
                f"port {here} is taken on this machine; write `dbc forward {order} :8126`"
                in taken.err
            )
            forwarding.send_signal(signal.SIGINT)
            assert forwarding.wait(20) == 0


JUPYTER = """#!/usr/local/bin/python3
# Stands for Jupyter: the same options, the same token from the environment.
import http.server, os, sys
options = dict(word.lstrip('-').partition('=')[::2] for word in sys.argv[1:])
assert options['ip'] == '127.0.0.1' and options['port-retries'] == '0' and 'no-browser' in options
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        right = self.path == '/?token=' + os.environ['JUPYTER_TOKEN']
        self.send_response(200 if right else 403); self.end_headers()
        self.wfile.write(b'a notebook in ' + os.getcwd().encode())
http.server.HTTPServer(('127.0.0.1', int(options['port'])), H).serve_forever()
"""


def test_jupyter_in_one_step(tools: Tools, order: str) -> None:
    missing = tools.run(*tools.dbc("jupyter", order))
    assert missing.code == 1
    assert (
        f"has no Jupyter; add it to the image, or install it with `dbc exec {order}" in missing.err
    )
    tools.expect(*tools.ssh(order, "cat > /usr/local/bin/jupyter-lab; chmod +x /usr/local/bin/jupyter-lab"),
                 given=JUPYTER)  # fmt: skip
    with running(tools, *tools.dbc("jupyter", order)) as jupyter:
        url = jupyter.stdout.readline().decode().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[0-9a-f]{48}", url), url
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.read() == b"a notebook in /workspace"
        jupyter.send_signal(signal.SIGINT)
        assert jupyter.wait(20) == 0


# -- an editor


CODE_SERVER = """#!/usr/local/bin/python3
# Stands for VS Code's server: takes its options, says where it listens, answers who has its token.
import http.server, sys
options = dict(zip(sys.argv[1:], sys.argv[2:]))
assert '--start-server' in sys.argv and '--host=127.0.0.1' in sys.argv and '--port=0' in sys.argv
token = open(options['--connection-token-file']).read()
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        right = self.path == '/version?tkn=' + token
        self.send_response(200 if right else 403); self.end_headers()
        self.wfile.write(b'COMMIT_ID' if right else b'')
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
print('Server bound to 127.0.0.1:%d (IPv4)' % server.server_port)
print('Extension host agent listening on %d' % server.server_port, flush=True)
server.serve_forever()
"""


def test_the_bootstrap_of_vs_code(tools: Tools, order: str) -> None:
    commit = hashlib.sha1(b"a version").hexdigest()
    archive = tools.home / "server.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        content = CODE_SERVER.replace("COMMIT_ID", commit).encode()
        entry = tarfile.TarInfo("vscode-server-linux-x64/bin/code-server")
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    script = (Path(__file__).parent / "vscode.sh").read_text()
    script = script.replace("SCRIPT_ID", "5ec4cfce9118").replace("COMMIT_ID", commit)
    here = free_port()
    command = ["ssh", "-v", "-T", "-D", str(here), "-F", str(tools.config), "-o",
               "ConnectTimeout=15", f"dbc-{order}", "bash"]  # fmt: skip
    with running(tools, *command, stdin=-1, stderr=-3) as editor:
        editor.stdin.write(script.encode())
        editor.stdin.flush()
        assert editor.stdout.readline() == b"5ec4cfce9118: running\n"
        arch = "x64" if os.uname().machine == "x86_64" else "arm64"
        target = f".vscode-server/vscode-server-linux-{arch}.tar.gz"
        tools.expect("scp", "-F", str(tools.config), str(archive), f"dbc-{order}:{target}")
        tools.expect(*tools.ssh(order, f"touch {target}.done"))
        lines = []
        while not lines or lines[-1] != "5ec4cfce9118: end":
            line = editor.stdout.readline()
            assert line, lines
            lines.append(line.decode().rstrip("\n"))
        told = dict(re.findall(r"^(\w+)==(.*)==$", "\n".join(lines), re.MULTILINE))
        assert told["platform"] == "linux"
        assert told["listeningOn"].isdigit(), lines
        port, token = int(told["listeningOn"]), told["connectionToken"]
        for host in ("127.0.0.1", "localhost"):
            assert http(socks(here, host, port), f"/version?tkn={token}") == commit
        assert http(socks(here, "127.0.0.1", port), "/version?tkn=wrong") == ""


# -- other images, other isolations


def image_of(path: Path, files: dict[str, tuple[bytes, int]]) -> Path:
    """A docker-archive with just these files."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers"}}
    manifest = [{"Config": "config.json", "Layers": ["layer.tar"], "RepoTags": []}]
    members = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer.getvalue(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def with_libraries(program: str) -> dict[str, tuple[bytes, int]]:
    """A program of this machine, and what the loader needs for it."""
    path = Path(shutil.which(program) or program).resolve()
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    libraries = re.findall(r"(/\S+) \(0x", listed)
    return {name.lstrip("/"): (Path(name).read_bytes(), 0o755) for name in (str(path), *libraries)}


def test_an_image_without_a_shell(as_root: Network, tools: Tools, tmp_path: Path) -> None:
    """One program is all there is; sftp, scp, cp and exec work all the same."""
    files = with_libraries("sleep")
    sleep = "/" + next(name for name in files if name.endswith("/sleep"))
    image = image_of(as_root.base / "bare.tar", files)
    number = as_root.expect("run", "-y", "-d", "--no-workspace", "--for", "5m", "--image",
                            str(image), "--", sleep, "600").out.strip()  # fmt: skip
    try:
        for command in ((), ("ls",)):
            done = tools.run(*tools.ssh(number, *command))
            assert done.code == 127
            assert "this image has no shell; start a program of it with `dbc exec" in done.err
        (tmp_path / "a.txt").write_text("A")
        tools.expect("scp", "-F", str(tools.config), str(tmp_path / "a.txt"), f"dbc-{number}:b.txt")
        tools.expect("scp", "-F", str(tools.config), f"dbc-{number}:b.txt", str(tmp_path / "c.txt"))
        assert (tmp_path / "c.txt").read_text() == "A"
        legacy = tools.run("scp", "-O", "-F", str(tools.config), __file__, f"dbc-{number}:")
        assert "this image has no scp; install its package openssh-client" in legacy.err
        require_client("rsync")
        done = tools.run("rsync", "-e", f"ssh -F {tools.config}", __file__, f"dbc-{number}:")
        assert done.code
        assert "this image has no rsync; install its package rsync" in done.err
        as_root.expect("cp", f"{number}:b.txt", "from-bare.txt")
        assert as_root.dbc("exec", number, "--", sleep, "0").code == 0
        assert as_root.dbc("exec", number, "sh").code == 127
    finally:
        as_root.expect("stop", number)


def test_the_order_s_own_tools_find_a_writable_home(order: str, as_root: Network) -> None:
    """Python finds what is installed beside it, and pip can install there; nothing else is set."""
    script = (
        "import os, site, sys, tempfile, pathlib, locale\n"
        "place = pathlib.Path(site.getsitepackages()[0], 'made_here.py')\n"
        "place.write_text('VALUE = 42')\n"
        "import made_here\n"
        "assert made_here.VALUE == 42\n"
        "home = pathlib.Path.home(); (home / '.probe').write_text('x')\n"
        "tempfile.NamedTemporaryFile()\n"
        "assert locale.getpreferredencoding(False).upper() == 'UTF-8'\n"
        "assert os.environ['PATH'].split(':')[0] == '/usr/local/bin', os.environ['PATH']\n"
        "print(home, tempfile.gettempdir(), 'TERM' in os.environ)\n"
    )
    done = as_root.expect("exec", order, "--", "python3", "-c", script)
    assert done.out == "/workspace /tmp False\n"
    with Terminal(as_root, "exec", "-it", order, "sh", "-c", "echo term=$TERM") as shell:
        shell.expect("term=xterm")


def test_pip_installs_into_the_image(order: str, as_root: Network) -> None:
    """A package that was brought along; no network."""
    brought = as_root.base / "packages"
    write_wheels(brought)
    as_root.hand_over(brought)
    as_root.expect("cp", str(brought / "wheels"), f"{order}:wheels")
    install = ("pip", "install", "--quiet", "--no-index", "--find-links", "wheels", "greet")
    as_root.expect("exec", order, "--", *install)
    assert as_root.expect("exec", order, "greet").out == "hello from a wheel\n"


def test_rootless_orders_take_the_same_tools(as_user: Network) -> None:
    tools = Tools.of(as_user)
    number = detached(as_user, REST)
    try:
        code, out, err = tools.raw(*tools.ssh(number, "cat; exit 9"), given=BLOB[: 1 << 20])
        assert (code, out) == (9, BLOB[: 1 << 20]), err
        (tools.home / "a").write_bytes(BLOB[: 1 << 20])
        config = ("-F", str(tools.config))
        tools.expect("scp", *config, str(tools.home / "a"), f"dbc-{number}:b")
        tools.expect("scp", *config, f"dbc-{number}:b", str(tools.home / "c"))
        assert (tools.home / "c").read_bytes() == BLOB[: 1 << 20]
        here = free_port()
        with (
            serving(tools, number, 8127),
            running(tools, *tools.ssh(number, options=("-N", "-L", f"{here}:localhost:8127"))),
        ):
            assert fetch(here, "/x") == "inside /x"
    finally:
        as_user.expect("stop", number)


def test_plain_processes_have_no_ports_of_their_own(as_process: Network) -> None:
    """Their loopback is the machine's; sessions and files work."""
    tools = Tools.of(as_process)
    number = detached(as_process, REST)
    try:
        assert tools.expect(*tools.ssh(number, "echo inside; cat"), given="x") == "inside\nx"
        (tools.home / "a").write_text("A")
        config = ("-F", str(tools.config))
        tools.expect("scp", *config, str(tools.home / "a"), f"dbc-{number}:b")
        assert tools.expect(*tools.ssh(number, "cat b")) == "A"
        with on_the_host() as secret:
            refused = tools.run(*tools.dbc("forward", number, str(secret)))
            assert refused.code == 1
            assert "whose ports are the machine's own; they are not forwarded" in refused.err
            done = tools.run("ssh", *config, "-W", f"localhost:{secret}", f"dbc-{number}")
            assert done.code == 255
            assert "they are not forwarded" in done.err
    finally:
        as_process.expect("stop", number)
