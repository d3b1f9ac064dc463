"""Flower over a network: a SuperLink, SuperNodes and a relay that counts, all on loopback and on free ports."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from studylib.federated import run

APP = """[project]
name = "federated"
version = "1.0.0"

[tool.flwr.app]
publisher = "study"

[tool.flwr.app.components]
serverapp = "both:server"
clientapp = "both:client"

[tool.flwr.app.config]
folder = ""
"""
BOTH = "from studylib.federated.app import client_app, server_app\n\nclient = client_app()\nserver = server_app()\n"
TRIES = 120  # seconds that something may take to start
POLLS = ("/pull-messages", "/send-node-heartbeat")  # how paths end that nodes ask every few seconds


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Relay:
    """Forwards loopback connections to ``port`` and counts what passes: to that port (up) and from it (down).

    A connection carries HTTP, one request after the other. ``seen`` has the bytes of each kind of request, by its path.
    """

    def __init__(self, port: int):
        self.target, self._lock = port, threading.Lock()
        self.seen: dict[str, dict[str, int]] = {"up": {}, "down": {}}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def counted(self, way: str, without: tuple[str, ...] = ()) -> int:
        """All bytes up or down until now, but for requests to paths that end like one of ``without``."""
        with self._lock:
            return sum(count for path, count in self.seen[way].items() if not path.endswith(without))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # the SuperLink has ended
                    near.close()
                    continue
                asked = [""]  # the path of this connection's last request
                for source, sink, way in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._pass_on, args=(source, sink, way, asked), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, way: str, asked: list[str]) -> None:
        with contextlib.suppress(OSError):
            while some := source.recv(1 << 16):
                if way == "up" and (begun := re.match(rb"[A-Z]+ (\S+) HTTP/1\.1\r\n", some)):
                    asked[0] = begun[1].decode()
                with self._lock:
                    self.seen[way][asked[0]] = self.seen[way].get(asked[0], 0) + len(some)
                sink.sendall(some)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        source.close()  # the other one is closed by what reads it

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def rounds(file: Path, relay: Relay) -> Iterator[list[dict[str, int]]]:
    """Gives what ``relay`` has seen, "up" and "down", at first and when ``file`` is written, at the end of each round.

    What nodes ask in vain is left out: it grows with time, not with messages.
    """
    seen, ended = [], threading.Event()

    def note() -> None:
        seen.append({way: relay.counted(way, without=POLLS) for way in ("up", "down")})

    def watch() -> None:
        written = 0
        while not ended.wait(0.01):
            with contextlib.suppress(FileNotFoundError):  # before the first round, and after the last
                if (now := file.stat().st_mtime_ns) != written:
                    note()
                    written = now

    note()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def flower(name: str) -> str:
    """The path of one of Flower's commands."""
    return str(Path(sys.executable).with_name(name))


def wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(10 * TRIES):
        assert process.poll() is None, f"{process.args[0]} ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens on {port}")


@contextlib.contextmanager
def network(folder: Path, nodes: list[Path]) -> Iterator[tuple[int, Relay, dict]]:
    """A SuperLink and a SuperNode for each of the folders ``nodes``, client by client, behind a relay.

    Gives the SuperLink's port, the relay, and the environment of both. All of it ends with the block.
    """
    link, *ports = free_ports(1 + len(nodes))
    surroundings, started = run.surroundings(folder / "home"), []
    surroundings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    folder.mkdir(parents=True, exist_ok=True)
    same = ["--insecure", "--host", "127.0.0.1", "--port"]

    def start(name: str, *more: str) -> subprocess.Popen:
        with open(folder / f"{name}-{len(started)}.log", "wb") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            command = [flower(name), *same, *more]
            started.append(subprocess.Popen(command, env=surroundings, start_new_session=True, **streams))
        return started[-1]

    relay = Relay(link)
    try:
        wait_for(link, start("flower-superlink", str(link), "--disable-runtime-dependency-installation"))
        for client, (port, own) in enumerate(zip(ports, nodes, strict=True)):
            config = f'partition-id={client} num-partitions={len(nodes)} folder="{own}"'
            more = ["--superlink", f"127.0.0.1:{relay.port}", "--node-config", config]
            wait_for(port, start("flower-supernode", str(port), *more))
        yield link, relay, surroundings
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        relay.close()


def submit(folder: Path, server: Path, port: int, surroundings: dict) -> str:
    """Runs the federation in ``server`` over the network, and returns how Flower says that it has ended."""
    app, home = folder / "app", Path(surroundings["FLWR_HOME"])
    for path, text in ((app / "pyproject.toml", APP), (app / "both.py", BOTH)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )

    def ask(*words: str) -> dict:
        done = subprocess.run([flower("flwr"), *words], env=surroundings, cwd=app, capture_output=True, text=True)
        told = json.loads(done.stdout) if done.returncode == 0 else {}
        assert told.get("success"), done.stdout + done.stderr  # a failure may leave the status 0
        return told

    number = ask("run", ".", "here", "-c", f'folder="{server}"', "--format", "json")["run-id"]
    for _ in range(2 * TRIES):
        told = next(each for each in ask("ls", "here", "--format", "json")["runs"] if each["run-id"] == number)
        if told["status"].startswith("finished"):
            return told["status"]
        time.sleep(5)
    raise AssertionError(f"the run has not ended: {told}")
