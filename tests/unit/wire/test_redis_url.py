"""The URL of a Redis: what each form says, and what is said of one that cannot be used."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from redis import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from sagrada.__main__ import main
from wire.redis_url import check, parse, pool, public
from wire.resp import RespConnection

URL = "sentinel://u:p%3B%40@a:1;sentinel://[::1];sentinel://c:3/4?master_name=m"


def test_a_sentinel_url() -> None:
    said = parse(URL)
    assert said.nodes == (("a", 1), ("::1", 26379), ("c", 3))
    assert (said.master_name, said.db) == ("m", 4)
    assert (dict(said.login), dict(said.asking), dict(said.tls)) == (
        {"username": "u", "password": "p;@"},
        {},
        {},
    )


def test_the_sentinels_may_have_a_login_and_tls_of_their_own() -> None:
    said = parse(
        "sentinel://a?master_name=m&sentinel_username=s&sentinel_password=t&sentinel_ssl=true&ssl_ca_certs=/c"
    )
    assert said.login == {} and said.tls == {"ssl_ca_certs": "/c"}
    assert said.asking == {"username": "s", "password": "t", "ssl": True, "ssl_ca_certs": "/c"}


def test_what_is_common_may_stand_in_any_part() -> None:
    everywhere = "sentinel://:p@a/2?master_name=m;sentinel://:p@b/2?master_name=m"
    assert parse(everywhere) == parse("sentinel://a;sentinel://:p@b/2?master_name=m")
    assert parse("sentinel://a?master_name=m;sentinel://b").db == 0


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://host", "starts with redis://"),
        ("localhost:6379", "starts with redis://"),
        ("redis://host/zero", "number of a database"),
        ("redis://:secr/et@host", "no number from 1 to 65535"),
        ("sentinel://a:1", "master's name"),
        ("sentinel://a?master_name=", "master's name"),
        ("sentinel://a;b?master_name=m", "every part"),
        ("sentinel://a;redis://b?master_name=m", "every part"),
        ("sentinel://a,b:2?master_name=m", "every part"),
        ("sentinel://?master_name=m", "every part"),
        ("sentinel://a:b?master_name=m", "no number from 1 to 65535"),
        ("sentinel://a/x?master_name=m", "number of a database"),
        ("sentinel://a/1;sentinel://b/2?master_name=m", "two different things of `db`"),
        ("sentinel://:x@a;sentinel://:secret@b?master_name=m", "two different things of `password`"),
        ("sentinel://a?master_nam=m", "no `master_nam`"),
        ("sentinel://a?master_name=m&socket_timeout=1", "no `socket_timeout`"),
        ("sentinel://a?master_name=m&sentinel_ssl=perhaps", "true or false"),
        ("sentinel://a?master_name=m&ssl_check_hostname=", None),
        ("sentinel://a?master_name=m&ssl_min_version=new", "`ssl_min_version`"),
    ],
)
def test_what_cannot_be_used_is_said_and_no_secret(url: str, complaint: str | None) -> None:
    if complaint is None:
        check(url)
        return
    with pytest.raises(ValueError, match=complaint) as error:
        check(url)
    assert "secr" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["redis://", "redis://:p@h:1/2", "rediss://h/0?ssl_cert_reqs=none", "unix:///run/redis.sock?db=3", URL],
)
def test_what_can_be_used_is_passed_on(url: str) -> None:
    assert check(url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:secret@h:1/2", "redis://h:1/2"),
        ("rediss://h/2?password=secret", "rediss://h/2"),
        (
            "sentinel://:secret@a:1;sentinel://b:2/3?master_name=m&sentinel_password=secret",
            "sentinel://a:1;sentinel://b:2/3?master_name=m",
        ),
    ],
)
def test_what_people_are_shown_holds_no_secret(url: str, shown: str) -> None:
    assert public(url) == shown


@pytest.mark.parametrize(
    ("url", "kind", "wanted"),
    [
        (
            "redis://u:p@h:1/2",
            Connection,
            {"host": "h", "port": 1, "db": 2, "username": "u", "password": "p"},
        ),
        ("rediss://h?ssl_ca_certs=/c", SSLConnection, {"ssl_ca_certs": "/c"}),
        ("unix:///run/r.sock?db=3", UnixDomainSocketConnection, {"path": "/run/r.sock", "db": 3}),
        (URL, SentinelManagedConnection, {"db": 4, "username": "u", "password": "p;@"}),
        ("sentinel://a?master_name=m&ssl_ca_certs=/c", SentinelManagedSSLConnection, {"ssl_ca_certs": "/c"}),
    ],
)
@pytest.mark.parametrize("blocking", [False, True])
def test_how_it_is_spoken_to(url: str, kind: type, wanted: dict[str, Any], blocking: bool) -> None:
    more = {"timeout": 1} if blocking else {}
    made = pool(url, blocking=blocking, max_connections=7, socket_timeout=2, **more)
    found = {**made.connection_kwargs, "socket_timeout": 2}
    assert issubclass(made.connection_class, kind)
    assert {name: found.get(name) for name in wanted} == wanted
    assert made.max_connections == 7
    if issubclass(kind, SSLConnection):
        connection: Any = made.make_connection()
        assert connection.cert_reqs == ssl.CERT_REQUIRED


def test_a_raw_connection_without_a_sentinel_that_answers_is_refused_soon() -> None:
    with pytest.raises(ConnectionError, match="no sentinel names a master 'm' now"):
        RespConnection("sentinel://127.0.0.1:1?master_name=m")


def test_the_command_line_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["up", "--redis-url", "sentinel://:secret@a"])
    said = capsys.readouterr().err
    assert "--redis-url" in said and "master's name" in said and "secret" not in said
