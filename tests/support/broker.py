"""A private RabbitMQ for tests: own directory, own ports, own cookie, 127.0.0.1 only.

`Broker.start(directory)` takes 5 to 8 s. The process started *is* the broker, so `kill()` hits it.
Commands go through `erl_call` (milliseconds) where it is installed, else through `rabbitmqctl`.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.certificates import Authority

#: Where Debian, Ubuntu, Fedora and the generic archive keep the scripts.
SCRIPT_DIRS = (
    Path("/usr/lib/rabbitmq/bin"),
    Path("/usr/local/lib/rabbitmq/bin"),
    Path("/opt/rabbitmq/sbin"),
)
#: A broker on a loaded machine of two cores has been seen to need 25 s.
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
PLUGINS = ("rabbitmq_auth_mechanism_ssl", "rabbitmq_federation", "rabbitmq_shovel")

MISSING = """RabbitMQ is not installed, and these tests need a real one.
Debian, Ubuntu: run .ci/need (it installs rabbitmq-server and starts no service), or
    apt-get install rabbitmq-server
Elsewhere: put its scripts into /opt/rabbitmq/sbin."""

CONFIG = """\
loopback_users = none
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 4GB
raft.wal_max_size_bytes = 67108864
log.console = false
log.file.level = info
"""

#: A password or a certificate, as a test likes.
LISTENERS = """\
listeners.tcp.1 = 127.0.0.1:{port}
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
ssl_cert_login_from = common_name
auth_mechanisms.1 = PLAIN
auth_mechanisms.2 = AMQPLAIN
auth_mechanisms.3 = EXTERNAL
"""


class BrokerMissing(AssertionError):
    """RabbitMQ is not installed: a failure of the run, never a skip."""


@dataclass(frozen=True, slots=True)
class Ports:
    amqp: int
    tls: int
    distribution: int


class Epmd:
    """The port mapper by which Erlang nodes find each other, of one node or of a cluster's."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process = subprocess.Popen(
            ["epmd", "-port", str(port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Broker:
    """One RabbitMQ node. Calls block: use `asyncio.to_thread` for the slow ones in a test."""

    def __init__(
        self,
        directory: Path,
        scripts: Path,
        *,
        epmd: Epmd,
        cookie: str,
        plugins: tuple[str, ...] = PLUGINS,
    ) -> None:
        self.directory = directory
        self.plugins = plugins
        self.ports = Ports(*free_ports(3))
        self.authority = Authority(directory / "tls")
        self.node = f"chunkq{self.ports.amqp}@localhost"
        self._scripts = scripts
        self._epmd = epmd
        self._cookie = cookie
        self._names = itertools.count(1)
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    # ------------------------------------------------------------ life

    @classmethod
    def start(cls, directory: Path, listeners: Callable[[Ports], str] | None = None) -> Broker:
        """Start a node whose files all lie in `directory`; returns once it speaks AMQP.

        `listeners` gives another configuration of what listens where, on the ports that it is told;
        without TLS there must be something at `amqp`. `stop()` ends its port mapper, too.
        """
        scripts = find_scripts()
        epmd = Epmd(*free_ports(1))
        broker = cls(directory, scripts, epmd=epmd, cookie=new_cookie())
        broker.launch(listeners=None if listeners is None else listeners(broker.ports))
        return broker

    def launch(self, more_config: str = "", *, listeners: str | None = None) -> None:
        """Write its files and start it for the first time."""
        self._write_files((listeners or self._own_listeners()) + more_config)
        self._launch()

    @property
    def running(self) -> bool:
        return self._server is not None

    @property
    def pid(self) -> int:
        assert self._server is not None, "the broker is not running"
        return self._server.pid

    def kill(self) -> None:
        """SIGKILL the broker's process, as a power cut would."""
        assert self._server is not None, "the broker is not running"
        self._dismiss_guard()
        self._server.kill()
        self._server.wait()
        self._server = None

    def shut_down(self) -> None:
        """Stop the node in order; `restart()` brings it back with what was durable."""
        if self._server is None:
            return
        self._dismiss_guard()
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server = None

    def restart(self) -> None:
        """Start the node again on its old files, shutting it down first if it runs."""
        self.shut_down()
        self._launch()

    def stop(self) -> None:
        """End everything this object started. Test data needs no orderly end."""
        if self._server is not None:
            self.kill()
        self._epmd.stop()

    def freeze(self) -> None:
        """SIGSTOP: the kernel still takes bytes, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    # ------------------------------------------------------------ use

    def url(
        self,
        user: str = "guest",
        password: str = "guest",
        vhost: str = "/",
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> str:
        name = urllib.parse.quote(vhost, safe="")
        login = f"{urllib.parse.quote(user, safe='')}:{urllib.parse.quote(password, safe='')}"
        return f"amqp://{login}@{host}:{port or self.ports.amqp}/{name}"

    def tls_url(self, vhost: str = "/", *, host: str = "localhost", login: str = "") -> str:
        """`login` is `user:password@`, or empty for EXTERNAL."""
        name = urllib.parse.quote(vhost, safe="")
        return f"amqps://{login}{host}:{self.ports.tls}/{name}"

    def version(self) -> str:
        """RabbitMQ's own, as `3.10.8`."""
        return self.eval("rabbit_misc:version().").strip('"')

    def add_vhost(self, name: str | None = None) -> str:
        """A fresh virtual host that `guest` may use; returns its name."""
        vhost = name or f"v{next(self._names)}-{secrets.token_hex(3)}"
        self.eval(
            f'rabbit_vhost:add(<<"{vhost}">>, <<"test">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{vhost}">>, '
            f'<<".*">>, <<".*">>, <<".*">>, <<"test">>).'
        )
        return vhost

    def delete_vhost(self, name: str) -> None:
        self.eval(f'rabbit_vhost:delete(<<"{name}">>, <<"test">>).')

    def add_user(
        self,
        name: str,
        password: str,
        vhost: str,
        *,
        configure: str = ".*",
        write: str = ".*",
        read: str = ".*",
        topics: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        """Create or change a user; `topics` maps an exchange to its (write, read) patterns."""
        user, host = f'<<"{name}">>', f'<<"{vhost}">>'
        patterns = ", ".join(_binary(pattern) for pattern in (configure, write, read))
        lines = [
            f'catch rabbit_auth_backend_internal:delete_user({user}, <<"test">>)',
            f'rabbit_auth_backend_internal:add_user({user}, <<"{password}">>, <<"test">>)',
            f'rabbit_auth_backend_internal:set_permissions({user}, {host}, {patterns}, <<"test">>)',
        ]
        lines += [
            f"rabbit_auth_backend_internal:set_topic_permissions({user}, {host}, "
            f'<<"{exchange}">>, {_binary(may_write)}, {_binary(may_read)}, <<"test">>)'
            for exchange, (may_write, may_read) in (topics or {}).items()
        ]
        self.eval(", ".join(lines) + ".")

    def delete_user(self, name: str) -> None:
        """If there is one."""
        user = _binary(name)
        self.eval(f'catch rabbit_auth_backend_internal:delete_user({user}, <<"test">>).')

    def queue_length(self, vhost: str, queue: str) -> int:
        """Packets in the queue now, delivered and unacknowledged ones among them."""
        # What `info` says of a quorum queue is up to five seconds old; this asks the leader.
        found = self.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, '
            f'<<"{queue}">>)), case amqqueue:get_type(Q) of '
            "rabbit_quorum_queue -> {ok, {_, N}, _} = ra:leader_query(amqqueue:get_pid(Q), "
            "fun rabbit_fifo:query_messages_total/1), N; "
            "_ -> [{messages, N}] = rabbit_amqqueue:info(Q, [messages]), N end."
        )
        return int(found)

    def set_memory_alarm(self, *, on: bool) -> None:
        """Raise the memory alarm (a watermark below what is used), or clear it."""
        self.eval(
            f"vm_memory_monitor:set_vm_memory_high_watermark({{absolute, {1 if on else 1 << 32}}})."
        )

    def set_disk_limit(self, limit_bytes: int) -> None:
        """Where the disk alarm begins; more than the disk has raises it."""
        self.eval(f"rabbit_disk_monitor:set_disk_free_limit({limit_bytes}).")

    def queues(self, vhost: str) -> list[str]:
        """The names of all queues."""
        return _words(
            self.eval(
                "[binary_to_list(element(4, amqqueue:get_name(Q))) || "
                f'Q <- rabbit_amqqueue:list(<<"{vhost}">>)].'
            )
        )

    def consumers(self, vhost: str) -> list[str]:
        """The queue of each consumer there is."""
        return _words(
            self.eval(
                "[binary_to_list(element(4, proplists:get_value(queue_name, C))) || "
                f'C <- rabbit_amqqueue:consumers_all(<<"{vhost}">>)].'
            )
        )

    def connections(self) -> int:
        """How many clients are connected, as far as the broker knows."""
        return int(self.eval("length(rabbit_networking:connections())."))

    def eval(self, expression: str) -> str:
        """Evaluate Erlang in the node; returns the printed result. Raises if it failed."""
        erl_call = shutil.which("erl_call")
        if erl_call is None:
            return self.ctl("eval", expression).strip()
        done = subprocess.run(
            [erl_call, "-sname", self.node, "-c", self._cookie, "-timeout", "30", "-e"],
            input=expression + "\n",
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        answer = done.stdout.strip()
        if done.returncode or not answer.startswith("{ok, "):
            raise RuntimeError(f"{expression!r} failed: {answer} {done.stderr.strip()}")
        return answer.removeprefix("{ok, ").removesuffix("}")

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl (one to two seconds); returns what it printed."""
        return self.run("rabbitmqctl", "-q", *arguments)

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command on this broker's host, as it were: `rabbitmqctl` is this node's there.

        Returns what it printed. Raises if it failed.
        """
        place = self.directory / "bin"
        if not place.exists():
            place.mkdir()
            tool = place / "rabbitmqctl"
            tool.write_text(f'#!/bin/sh\nexec {self._scripts}/rabbitmqctl -n {self.node} "$@"\n')
            tool.chmod(0o755)
        environment = self._environment()
        done = subprocess.run(
            command,
            env={**environment, "PATH": f"{place}:{environment['PATH']}"},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command} failed: {done.stdout}{done.stderr}")
        return done.stdout

    # ------------------------------------------------------------ inside

    def _own_listeners(self) -> str:
        pem, key = self.authority.issue("broker", host="localhost", address="127.0.0.1")
        return LISTENERS.format(
            port=self.ports.amqp,
            tls_port=self.ports.tls,
            ca=self.authority.path,
            certificate=pem,
            key=key,
        )

    def _write_files(self, more_config: str) -> None:
        home = self.directory / "home"
        home.mkdir(parents=True)
        cookie = home / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)
        (self.directory / "rabbitmq.conf").write_text(CONFIG + more_config)
        (self.directory / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].\n")

    def _environment(self) -> dict[str, str]:
        ports, directory = self.ports, self.directory
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(directory / "home"),
            # With this the script execs Erlang: the child's pid is the broker's.
            "RUNNING_UNDER_SYSTEMD": "true",
            "ERL_EPMD_PORT": str(self._epmd.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(ports.amqp),
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        }

    def _launch(self) -> None:
        with (self.directory / "console.log").open("ab") as console:
            self._server = subprocess.Popen(
                [str(self._scripts / "rabbitmq-server")],
                env=self._environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        # If the test run is killed, the pipe closes and the guard ends what it would leave behind.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$@"', "guard", str(self.pid), str(self._epmd.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _speaks_amqp(self.ports.amqp):
            ended = self._server.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(
                    f"the private RabbitMQ did not come up (exit status {ended}):\n{self._logs()}"
                )
            time.sleep(0.1)

    def _dismiss_guard(self) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None

    def _logs(self) -> str:
        paths = [self.directory / "console.log", *(self.directory / "log").glob("*.log")]
        return "\n".join(p.read_text(errors="replace")[-3000:] for p in paths if p.exists())


def _words(printed: str) -> list[str]:
    """The strings of a printed list."""
    return re.findall(r'"([^"]*)"', printed)


def _binary(pattern: str) -> str:
    escaped = pattern.replace("\\", "\\\\").replace('"', '\\"')
    return f'<<"{escaped}">>'


def find_scripts() -> Path:
    """Where RabbitMQ's own scripts are. Raises `BrokerMissing`."""
    scripts = next((p for p in SCRIPT_DIRS if (p / "rabbitmq-server").exists()), None)
    if scripts is None or shutil.which("epmd") is None:
        raise BrokerMissing(MISSING)
    return scripts


def new_cookie() -> str:
    """The secret that nodes of one cluster share."""
    return secrets.token_hex(16).upper()


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on; all are held until the last is found, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()


def _speaks_amqp(port: int) -> bool:
    """Whether Connection.Start (a method frame: byte 1) comes back for the protocol header."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"AMQP\0\0\x09\x01")
            return connection.recv(1) == b"\x01"
    except OSError:
        return False
