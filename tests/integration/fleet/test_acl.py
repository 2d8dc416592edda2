"""The users of deploy/redis/users.acl: each can do its work, and nothing more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError

from sagrada.embedded import EmbeddedServer
from tests.support.fleet import Fleet
from tests.support.processes import until
from tests.support.sentinels import NAME, Sentinels
from wire.apikeys import ApiKeys
from wire.keys import (
    API_KEYS,
    LIVE,
    SECRET,
    channel,
    job_key,
    log_key,
    queue_keys,
    rate_key,
    unacked_key,
    worker_key,
)
from wire.redis_url import client
from wire.transport import broker_url

ACL = Path(__file__).parents[3] / "deploy" / "redis" / "users.acl"
QUEUE = "sagrada.scripted"
MASTER = "the-one"
http = httpx.Client(headers={"Authorization": f"Bearer {MASTER}"}, timeout=60)

LINES = [line.split() for line in ACL.read_text().splitlines() if line.startswith("user ")]
PASSWORDS = {words[1]: word[1:] for words in LINES for word in words if word.startswith(">")} | {
    "admin": "admin"
}


def guard(server: EmbeddedServer) -> None:
    """Give a server those users, and an administrator of the test's own."""
    admin: Any = Redis.from_url(server.url)
    admin.execute_command("ACL", "SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all")
    for words in sorted(LINES, key=lambda words: words[1] == "default"):
        admin.execute_command("ACL", "SETUSER", *words[1:])
    admin.close()


class Guarded:
    """A Redis with those users."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedServer(folder / "redis", aof=False)
        self.server.start()
        guard(self.server)

    def url(self, user: str) -> str:
        return self.server.url.replace("redis://", f"redis://{user}:{PASSWORDS[user]}@")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("acl"))
    yield made
    made.server.stop()


@pytest.fixture(scope="module")
def fleet(guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    urls = {room: guarded.url(room) for room in ("gateway", "worker")}
    folder = tmp_path_factory.mktemp("logs")
    with Fleet(guarded.url("admin"), folder, model="scripted?step=0.01", urls=urls,
               env={"SERVED_MODEL_NAME": "scripted", "API_KEY": MASTER}) as running:  # fmt: skip
        yield running.ready()


def submit(fleet: Fleet, tokens: int = 5, headers: dict[str, str] | None = None) -> str:
    body = {"inputs": "a", "parameters": {"max_new_tokens": tokens, "ignore_eos": True}}
    answer = http.post(f"{fleet.url}/jobs", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def status(fleet: Fleet, job: str) -> str:
    return str(http.get(f"{fleet.url}/jobs/{job}", params={"wait": 30}).json()["status"])


def test_gateway_and_worker_serve_cancel_and_delete(fleet: Fleet) -> None:
    job = submit(fleet)
    assert status(fleet, job) == "completed"
    assert http.delete(f"{fleet.url}/jobs/{job}").status_code == 204
    long = submit(fleet, 1000)
    assert http.post(f"{fleet.url}/jobs/{long}/cancel").status_code == 200
    assert status(fleet, long) == "cancelled"
    for path in ("info", "metrics", "health"):
        assert http.get(f"{fleet.url}/{path}").status_code == 200
    log = "\n".join(file.read_text() for file in fleet.logs.glob("*.log"))
    assert "NOPERM" not in log and "No permissions" not in log and "no permissions" not in log, log


def test_a_key_is_made_used_counted_and_revoked(fleet: Fleet, guarded: Guarded) -> None:
    with client(guarded.url("keys")) as redis:
        keys = ApiKeys(redis)
        key_id, key = keys.add("shop", requests_per_minute=5)
        assert list(keys.all()) == [key_id]
        theirs = {"Authorization": f"Bearer {key}"}
        job = submit(fleet, headers=theirs)
        assert http.get(f"{fleet.url}/jobs/{job}", headers=theirs).status_code == 200
        assert http.get(f"{fleet.url}/jobs/{job}").status_code == 404
        keys.revoke(key_id)
        assert http.get(f"{fleet.url}/jobs/{job}", headers=theirs).status_code == 401


def test_a_worker_s_messages_reach_another_when_it_is_killed(fleet: Fleet) -> None:
    job = submit(fleet, 300)
    until(lambda: http.get(f"{fleet.url}/jobs/{job}").json()["status"] == "in_progress", 30, "its start")
    fleet.workers[0].kill()
    fleet.workers.pop(0).wait()
    fleet.start_worker()
    assert status(fleet, job) in ("completed", "in_progress")
    until(lambda: status(fleet, job) == "completed", 60, "the job's end")


def test_a_producer_sends_and_reads_its_result(fleet: Fleet, guarded: Guarded) -> None:
    url = guarded.url("producer")
    app = Celery(broker=url, backend=url, set_as_current=False)
    task = app.send_task(
        "sagrada.generate", queue=QUEUE, kwargs={"inputs": "a", "parameters": {"max_new_tokens": 20}}
    )
    assert task.get(timeout=60)["finish_reason"]
    app.close()


def test_a_subscriber_follows_a_stream_and_reads_its_log(fleet: Fleet, guarded: Guarded) -> None:
    client: Any = Redis.from_url(guarded.url("subscriber"))
    job = submit(fleet, 100)
    ear = client.pubsub(ignore_subscribe_messages=True)
    ear.subscribe(channel(job))
    until(lambda: ear.get_message(timeout=1), 30, "a token")
    assert client.xrange(log_key(job), count=1)
    client.close()


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("gateway", ("FLUSHALL",)),
        ("gateway", ("CONFIG", "GET", "dir")),
        ("gateway", ("HGETALL", unacked_key("b"))),
        ("gateway", ("ZREM", LIVE, "b")),
        ("gateway", ("KEYS", "*")),
        ("gateway", ("HSET", API_KEYS, "k", "forged")),
        ("gateway", ("SUBSCRIBE", "/0.celery.pidbox")),
        ("worker", ("FLUSHALL",)),
        ("worker", ("CONFIG", "SET", "dir", "/")),
        ("worker", ("GET", "somebody-elses")),
        ("worker", ("ACL", "LIST")),
        ("producer", ("HGETALL", job_key("j"))),
        ("producer", ("XRANGE", log_key("j"), "-", "+")),
        ("producer", ("RPOP", QUEUE)),
        ("producer", ("SET", "celery-task-meta-j", "forged")),
        ("producer", ("ZADD", queue_keys(QUEUE)[0], 0, "j")),
        ("producer", ("EVAL", "return 1", 0)),
        ("keys", ("HGETALL", job_key("j"))),
        ("keys", ("GET", SECRET)),
        ("keys", ("HGETALL", rate_key("k"))),
        ("subscriber", ("HGETALL", job_key("j"))),
        ("subscriber", ("HGETALL", API_KEYS)),
        ("producer", ("HGETALL", API_KEYS)),
        ("subscriber", ("XADD", log_key("j"), "*", "e", "x")),
        ("subscriber", ("PUBLISH", channel("j"), "x")),
        ("subscriber", ("GET", SECRET)),
        ("subscriber", ("HGETALL", worker_key("b"))),
        ("subscriber", ("PSUBSCRIBE", "*")),
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(map(str, part[:2])),
)
def test_what_is_not_its_work_is_refused(guarded: Guarded, user: str, command: tuple[Any, ...]) -> None:
    with Redis.from_url(guarded.url(user)) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command)


def test_nobody_comes_in_without_a_name(guarded: Guarded) -> None:
    with (
        Redis.from_url(guarded.server.url) as client,
        pytest.raises((AuthenticationError, NoPermissionError)),
    ):
        client.ping()


@pytest.mark.full
def test_with_sentinels_each_has_a_user_too(tmp_path: Path) -> None:
    """Those of the servers, and on the sentinels one that may ask for the master and nothing more."""
    asker = re.search(r"^# +user (\S+ on >(\S+) .*)$", ACL.read_text(), re.MULTILINE)
    assert asker
    lines = [
        f"sentinel auth-user {NAME} sentinel",
        f"sentinel auth-pass {NAME} {PASSWORDS['sentinel']}",
        "user admin on >admin ~* &* +@all",
        f"user {asker[1]}",
        "user default off",
    ]
    flags = ("--masteruser", "replica", "--masterauth", PASSWORDS["replica"])
    asking = f"&sentinel_username=sagrada&sentinel_password={asker[2]}"
    logs = tmp_path / "logs"
    logs.mkdir()
    with Sentinels(
        tmp_path / "redis", 1, flags=flags, lines=lines, login=("admin", "admin"), prepare=guard
    ) as sentinels:
        urls = {
            user: sentinels.url(login=f"{user}:{PASSWORDS[user]}@", query=asking)
            for user in ("admin", "gateway", "worker")
        }
        env = {"SERVED_MODEL_NAME": "scripted", "API_KEY": MASTER}
        with Fleet(urls["admin"], logs, model="scripted?step=0.01", urls=urls, env=env) as fleet:
            fleet.ready()
            job, new = submit(fleet, 200), sentinels.replica
            until(lambda: sentinels.caught_up(new), 30, "the replica to have heard of it")
            sentinels.master.kill()
            sentinels.promoted(new)
            until(lambda: httpx.get(fleet.url + "/readyz").status_code == 200, 60, "the gateway to be back")
            assert status(fleet, job) == "completed"
            until(lambda: http.post(f"{fleet.url}/jobs", json={"inputs": "a"}).status_code == 202, 30, "more")
        with (
            client(urls["admin"].replace("sagrada", "nobody")) as stranger,
            pytest.raises(ConnectionError) as error,
        ):
            stranger.ping()
        assert "no sentinel names a master" in str(error.value) and asker[2] not in str(error.value)


def test_flower_sees_and_steers_workers_and_reads_no_job(fleet: Fleet, guarded: Guarded) -> None:
    job, seen = submit(fleet), list[dict[str, Any]]()
    with (
        Celery(broker=broker_url(guarded.url("flower")), set_as_current=False) as app,
        app.connection() as link,
    ):
        assert app.control.inspect(timeout=5).ping()
        app.control.enable_events()
        receiver = app.events.Receiver(link)

        def see(event: dict[str, Any]) -> None:
            seen.append(event)
            receiver.should_stop = True

        receiver.handlers["*"] = see
        receiver.capture(timeout=30)
        app.control.disable_events()
    assert seen[0]["type"].startswith("worker-")
    with client(guarded.url("flower")) as redis:
        for key in (job_key(job), log_key(job), f"sagrada:q:{QUEUE}:msgs", SECRET):
            with pytest.raises(NoPermissionError):
                redis.dump(key)
        with pytest.raises(NoPermissionError):
            redis.publish(channel(job), "x")
