"""Redis's image without the image: its start script, configuration and users, with the server that this machine has."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from redis.retry import Retry

from sagrada.embedded import find_server, free_port
from tests.support.processes import until

DEPLOY = Path(__file__).parents[2] / "deploy" / "redis"
PASSWORDS = {"gateway": "a/b&c\\1", "worker": "w" * 64}


class Served:
    """What start.sh makes in a folder instead of a container."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        (folder / "data").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin" / "redis-server").symlink_to(find_server())
        for name in ("start.sh", "redis.conf", "users.acl"):
            text = (DEPLOY / name).read_text()
            text = text.replace("/usr/local/etc/redis", str(folder)).replace(
                "/run/redis/users.acl", str(folder / "run.acl")
            )
            (folder / name).write_text(text.replace("dir /data", f"dir {folder / 'data'}"))
        self.log = folder / "log"
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        passwords = {f"REDIS_{user.upper()}_PASSWORD": word for user, word in PASSWORDS.items()}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["sh", self.folder / "start.sh", "--port", str(self.port), "--bind", "127.0.0.1"],
                env={
                    "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                    "REDIS_MAXMEMORY": "64mb",
                    **passwords,
                },
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def restart(self) -> None:
        self.stop()
        self.process = self.start()
        self.answers()

    def answers(self) -> None:
        """Wait until it does."""

        def pong() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return bool(self.as_user("gateway", PASSWORDS["gateway"]).ping())

        until(pong, 60, "Redis", despite=RedisError)

    def as_user(self, user: str, password: str) -> Redis:
        return Redis(port=self.port, username=user, password=password, retry=Retry(NoBackoff(), 0))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("redis"))
    try:
        made.answers()
        yield made
    finally:
        made.stop()


@pytest.mark.parametrize("user", PASSWORDS)
def test_who_has_a_password_comes_in(served: Served, user: str) -> None:
    assert served.as_user(user, PASSWORDS[user]).ping()
    with pytest.raises(AuthenticationError):
        served.as_user(user, "wrong").ping()
    with pytest.raises(NoPermissionError):
        served.as_user(user, PASSWORDS[user]).execute_command("CONFIG", "GET", "*")


@pytest.mark.parametrize("user", ["producer", "subscriber", "sentinel", "replica", "default"])
def test_who_has_none_does_not_exist(served: Served, user: str) -> None:
    for password in ("", f"change-me-{user}"):
        with pytest.raises(RedisError):
            served.as_user(user, password).ping()


def test_no_password_lies_anywhere(served: Served) -> None:
    acl = served.folder / "run.acl"
    assert stat.S_IMODE(acl.stat().st_mode) == 0o600
    environment = Path(f"/proc/{served.process.pid}/environ").read_bytes()
    for password in PASSWORDS.values():
        assert password not in acl.read_text() + served.log.read_text()
        assert password.encode() not in environment


def test_the_configuration_is_what_the_queue_needs(served: Served) -> None:
    info = served.as_user("worker", PASSWORDS["worker"]).info()
    assert info["maxmemory"] == 64 * 2**20 and info["maxmemory_policy"] == "noeviction"
    assert info["aof_enabled"] == 1


def test_what_transactions_wrote_is_there_after_a_restart(served: Served) -> None:
    """Redis replays them as the user `default`, who is off: without rights on paper it drops each, with a log line."""
    worker = served.as_user("worker", PASSWORDS["worker"])
    with worker.pipeline(transaction=True) as both:
        both.set("sagrada:open", 1)
        both.set("sagrada:live", 2)
        both.execute()
    worker.eval(
        "redis.call('set', KEYS[1], 3) redis.call('set', KEYS[2], 4)", 2, "sagrada:q:a", "sagrada:q:b"
    )
    served.restart()
    assert worker.mget("sagrada:open", "sagrada:live", "sagrada:q:a", "sagrada:q:b") == [
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert "NOPERM" not in served.log.read_text()
