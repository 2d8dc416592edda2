"""Every internal of celery and kombu that the queue's transport relies on: an upgrade that moves one fails here.

References are to kombu 5.7.0 and celery 5.7.0.
"""

from __future__ import annotations

import inspect
import ssl
from collections import OrderedDict
from typing import Any

import kombu.transport
import pytest
from celery import Celery
from celery.concurrency.base import BasePool
from celery.worker import request
from celery.worker.consumer import consumer
from kombu.asynchronous.hub import Hub
from kombu.connection import Connection
from kombu.messaging import Producer
from kombu.transport import redis as stock
from kombu.transport import virtual

from wire import owner as owners
from wire import transport
from wire.backend import backend_settings
from wire.job import MAX_PRIORITY
from wire.keys import DEAD, LIVE, OPEN, QUEUE_PREFIX, queue_keys, unacked_key
from wire.owner import Ask, Owner
from wire.qos import QoS
from wire.queue import STOCK_SEPARATOR, Popped, stock_lists
from wire.scripts import load
from worker.boot import Boot


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def source(thing: Any) -> str:
    return inspect.getsource(thing)


@pytest.mark.parametrize("name", [name for name, value in vars(QoS).items() if inspect.isfunction(value)])
def test_each_method_of_qos_overrides_one_of_the_same_shape(name: str) -> None:
    if name.startswith("_") and name != "__init__":
        return  # our own
    theirs = getattr(stock.QoS, name)
    ours, known = parameters(getattr(QoS, name)), parameters(theirs)
    assert "kwargs" in ours or len(ours) >= len(known) or "args" in known, (ours, known)


OVERRIDDEN = (
    "_brpop_start", "_brpop_read", "_on_connection_disconnect", "_put", "_get", "_size", "_has_queue", "_purge",
    "_delete", "basic_consume", "close",
)  # fmt: skip


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_each_overridden_method_of_channel_exists(name: str) -> None:
    assert callable(getattr(stock.Channel, name))
    assert name in vars(transport.Channel)


def test_the_aliases_lead_to_us() -> None:
    assert kombu.transport.resolve_transport("sagrada") is transport.Transport
    assert kombu.transport.resolve_transport("sagradas") is transport.SecureTransport
    assert isinstance(Connection("sagrada://localhost").transport, transport.Transport)


def test_celery_takes_us_for_redis() -> None:
    assert transport.Transport.driver_type == "redis"  # hub, events and inspect go by it


def test_a_closing_channel_asks_qos_and_nobody_else_to_restore() -> None:
    assert "self._qos.restore_unacked_once()" in source(virtual.Channel.close)
    assert "restore_unacked_once" in source(virtual.QoS.__init__), "the finalizer"
    assert "self.restore_unacked()" in source(virtual.QoS.restore_unacked_once)


def test_a_connection_error_closes_channels_and_drops_what_was_not_started() -> None:
    assert "self.connection.collect(" in source(consumer.Consumer.on_connection_error_after_connected)
    on_close = source(consumer.Consumer.on_close)
    assert "reserved_requests.clear()" in on_close
    assert "scheduled_requests" in on_close


def test_the_book_of_deliveries_is_what_we_think() -> None:
    qos = virtual.QoS(object())
    assert isinstance(qos._delivered, OrderedDict)
    assert (qos._dirty, qos.can_consume_max_estimate(), qos.can_consume()) == (set(), None, True)
    qos.append("message", "tag")
    qos.ack("tag")
    assert qos._dirty == {"tag"}, "acks are only marked"
    qos._flush()
    assert qos._delivered == {}
    qos._on_collect.cancel()


def test_the_poller_sends_a_pop_only_when_none_is_out() -> None:
    register = source(stock.MultiChannelPoller._register_BRPOP)
    assert "if not channel._in_poll:" in register
    assert "channel._brpop_start()" in register
    assert "chan.qos.can_consume()" in source(stock.MultiChannelPoller.on_readable)
    assert "channel._in_poll" in source(stock.MultiChannelPoller._update_brpop_polling)
    assert "'BRPOP': self._brpop_read" in source(stock.Channel.__init__), "handlers are bound to our method"


def test_every_way_to_lose_the_pop_connection_passes_our_hook() -> None:
    assert "channel._on_connection_disconnect(self)" in source(stock.Channel._connparams)
    assert "connection.disconnect()" in source(stock.MultiChannelPoller.maybe_check_brpop_health)


def test_a_channel_keeps_its_queues_and_callbacks_where_we_look() -> None:
    consume = source(virtual.Channel.basic_consume)
    for line in (
        "self._active_queues.append(queue)",
        "self.connection._callbacks[queue]",
        "self.qos.append(",
    ):
        assert line in consume
    assert "basic_consume" in vars(stock.Channel)
    assert parameters(virtual.Channel.basic_consume)[1:3] == ["queue", "no_ack"]


def test_the_stock_lists_are_named_as_we_absorb_them() -> None:
    assert stock.Channel.sep == STOCK_SEPARATOR
    assert "self.sep}{pri}" in source(stock.Channel._q_for_pri)
    steps = stock.Channel.priority_steps
    assert {f"q{STOCK_SEPARATOR}{step}" if step else "q" for step in steps} <= set(stock_lists("q"))
    assert virtual.Channel.max_priority == MAX_PRIORITY


def test_kombu_cannot_tell_priority_zero_from_none() -> None:
    assert inspect.signature(Producer.publish).parameters["priority"].default == 0


def test_a_binding_is_written_where_and_how_we_write_it() -> None:
    bind = source(stock.Channel._queue_bind)
    assert "key = self.keyprefix_queue % (exchange,)" in bind
    assert "self.sep.join([routing_key or '', pattern or '', queue or ''])" in bind
    assert (
        "pipe.sadd(key, member)" in bind
        and "pipe.sadd(self.keyprefix_binding_permanent % (exchange,)" in bind
    )
    assert "self._refresh_binding(" in bind
    assert "register_script(REFRESH_BINDING)" in source(stock.Channel._refresh_binding.func)


def test_no_batch_may_bypass_the_put_script() -> None:
    assert "supports_batch_publish" in vars(stock.Channel)
    assert "supports_batch_publish" in vars(stock.Transport)
    assert transport.Channel.supports_batch_publish is False
    assert transport.Transport.supports_batch_publish is False


def test_what_a_pool_relies_on() -> None:
    assert parameters(BasePool.on_apply) == ["self", "args", "kwargs"]
    execute = source(request.create_request_cls)
    for argument in ("accept_callback=self.on_accepted", "callback=self.on_success", "timeout_callback="):
        assert argument in execute
    assert "_already_revoked" in source(request.Request)
    assert hasattr(request.Request, "_payload") or "_payload" in source(request.Request)
    assert {"call_soon", "fire_timers", "_pop_ready"} <= set(dir(Hub))


def test_the_scripts_use_the_names_of_the_table() -> None:
    lua = load("queue_lib")
    zset, msgs, bell = queue_keys("")
    assert f"return '{zset}' .. queue" in lua
    assert f"'{unacked_key('')}' .. boot" in lua
    assert f"LIVE, DEAD, OPEN = '{LIVE}', '{DEAD}', '{OPEN}'" in lua
    assert (msgs, bell) == (zset + ":msgs", zset + ":bell")


def test_a_boot_is_an_owner() -> None:
    verbs = {name for name in vars(Owner) if not name.startswith("_")}
    assert verbs <= set(dir(Boot)) | {"room"}
    boot: Owner = Boot("redis://127.0.0.1:1/0", 5)
    assert boot.room() == 0


def test_more_in_redis_than_is_known_asks_for_a_resync() -> None:
    boot = Boot("redis://127.0.0.1:1/0", 5)
    boot.answered(Ask(boot.id, False, 3), Popped(4, 0, [], [b"new"], []))
    assert not boot.ask().resync
    boot.answered(Ask(boot.id, False, 3), Popped(5, 0, [], [b"new"], []))
    assert boot.ask().resync
    assert not boot.ask().resync, "asked once"


@pytest.mark.parametrize(
    ("redis", "broker"),
    [
        ("redis://u:p@host:1/2", "sagrada://u:p@host:1/2"),
        ("rediss://host/0?ssl_cert_reqs=none", "sagradas://host/0?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock?db=3", "sagrada+socket:///run/redis.sock?virtual_host=3"),
    ],
)
def test_broker_urls(redis: str, broker: str) -> None:
    assert transport.broker_url(redis) == broker


@pytest.mark.parametrize(
    ("redis", "wanted"),
    [
        ("redis://u:p@host:1/2", {"host": "host", "port": 1, "db": 2, "username": "u", "password": "p"}),
        ("rediss://host/0", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "db": 0}),
        ("rediss://host/3?ssl_ca_certs=/ca", {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca"}),
        ("rediss://host/0?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3}),
    ],
)
def test_celery_s_result_backend_is_the_same_redis(redis: str, wanted: dict[str, Any]) -> None:
    with Celery(set_as_current=False, changes=backend_settings(redis)) as app:
        options = app.backend.connparams
    assert {name: options.get(name) for name in wanted} == wanted


def test_a_broker_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with redis://"):
        transport.broker_url("amqp://host")


def test_tls_checks_certificates_unless_told_otherwise() -> None:
    checked = Connection("sagradas://host").transport.client.ssl
    loose = Connection("sagradas://host?ssl_cert_reqs=none").transport.client.ssl
    assert checked == {"ssl_cert_reqs": "required"}
    assert loose["ssl_cert_reqs"] != "required"


def test_a_process_without_an_owner_only_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "_owner", None)
    with pytest.raises(ValueError, match=QUEUE_PREFIX):
        owners.owner()
