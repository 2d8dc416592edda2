"""kombu transport `sagrada://`: task queues are sorted sets, popped in batches into the hash of the worker's boot.

Only queues whose name starts with `sagrada.` are ours; control, reply and event traffic stays kombu's. Unacked
messages belong to the boot (`Owner`), not to the connection: whatever happens to it, nothing is queued again.
tests/unit/queue/test_contract.py holds every internal of kombu that this file relies on.
"""

# mypy: allow-untyped-calls
# kombu is typed in part only.

from __future__ import annotations

import logging
from functools import cached_property
from queue import Empty
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import kombu.transport
import redis
from kombu.transport import redis as stock
from kombu.utils.json import dumps, loads
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, OutOfMemoryError

from wire.job import DEFAULT_PRIORITY
from wire.keys import QUEUE_PREFIX, queue_keys
from wire.owner import Ask, owner, set_owner
from wire.qos import QoS
from wire.queue import POP, Delivery, Popped, Record, TaskQueue, pop_args
from wire.redis_url import address, check, is_sentinel, leaving, parse
from wire.scripts import EVEN_IF_FULL

__all__ = [
    "Channel",
    "SecureTransport",
    "Transport",
    "broker_url",
    "is_ours",
    "set_owner",
]

log = logging.getLogger(__name__)

BELL_BLOCK_MS = 100
"""How long an idle worker waits for the bell: a plain producer rings none and is noticed after at most this."""
PRIORITY_HEADER, TENANT_HEADER = "sagrada_priority", "sagrada_tenant"
"""Task headers that our own senders may set. Only the first can say 0: kombu passes on 0 where none was given,
so a message's `priority` property of 0 is read as 5 for every producer."""
MAX_REDELIVERIES = 5
"""A message that Celery's consumer raised on so often goes to the list of bad messages."""

_BIND = EVEN_IF_FULL + "for _, key in ipairs(KEYS) do redis.call('SADD', key, ARGV[1]) end"

kombu.transport.TRANSPORT_ALIASES["sagrada"] = "wire.transport:Transport"
kombu.transport.TRANSPORT_ALIASES["sagradas"] = "wire.transport:SecureTransport"
kombu.transport.TRANSPORT_ALIASES["sagrada-sentinel"] = "wire.sentinel:SentinelTransport"


def is_ours(queue: str) -> bool:
    """Whether the queue is one of Sagrada's."""
    return queue.startswith(QUEUE_PREFIX)


def _priority_of(properties: Any, headers: Any) -> int:
    given = headers.get(PRIORITY_HEADER)
    return int(given) if given is not None else int(properties.get("priority") or DEFAULT_PRIORITY)


def broker_url(redis_url: str) -> str:
    """Celery's broker URL for a Redis URL."""
    if is_sentinel(redis_url):
        first = address(*parse(redis_url).nodes[0])
        # The whole of it goes as the password: that is what kombu hides, in logs and from `celery inspect`.
        return f"sagrada-sentinel://:{quote(redis_url, safe='')}@{first}/"
    parts = urlsplit(redis_url)
    if parts.scheme == "unix":
        db = parse_qs(parts.query).get("db", ["0"])[0]
        auth = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        return f"sagrada+socket://{auth}{parts.path}?virtual_host={db}"
    schemes = {"redis": "sagrada", "rediss": "sagradas", "sagrada": "sagrada", "sagradas": "sagradas"}
    if parts.scheme not in schemes:
        check(redis_url)
    return urlunsplit(parts._replace(scheme=schemes[parts.scheme]))


class Channel(stock.Channel):
    """A channel that consumes either task queues or others, never both."""

    QoS = QoS
    supports_batch_publish = False  # kombu's PublishBatch would LPUSH past the put script
    connection_class: Any = leaving(redis.Connection)
    connection_class_ssl: Any = leaving(redis.SSLConnection)

    _in_poll: Any = False  # kombu's: the connection that a reply is due on
    _brpop_sent_at: Any = None  # kombu's, for its health check
    pop_sent: tuple[Ask, list[str]] | None = None
    """The pop in flight and the queues it asked, in order."""
    _bells: dict[str, bytes | str] | None = None
    """Bells to wait for, and the last ring heard; None: pop."""
    _wait_sent = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.global_keyprefix:
            super().close()
            raise ValueError("sagrada:// knows no global_keyprefix: give each fleet a database of its own")

    @property
    def is_task_channel(self) -> bool:
        """Whether this channel consumes from our queues."""
        return any(is_ours(queue) for queue in self._active_queues)

    def room(self) -> int:
        """Messages to take now: the owner's room, within Celery's prefetch limit if there is one."""
        estimate = self.qos.can_consume_max_estimate()
        room: int = owner().room()
        return room if estimate is None else min(room, estimate)

    # Producers

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        if not is_ours(queue):
            super()._put(queue, message, **kwargs)
            return
        if self.closed:
            # A pooled producer keeps the channel that an earlier error closed: as a connection's loss kombu mends it.
            raise RedisConnectionError("this channel is closed")
        properties, headers = message["properties"], message.get("headers") or {}
        tag = properties["delivery_tag"]
        with self.conn_or_acquire() as client:
            TaskQueue(client, queue).put(
                headers.get("id") or tag,
                tag,
                dumps(message),
                priority=_priority_of(properties, headers),
                tenant=str(headers.get(TENANT_HEADER) or ""),
            )

    # The consumer: pop; when that brings nothing, wait for the bells, then pop again

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """As kombu; raises ValueError where ours and other queues would share a channel."""
        mixed = [q for q in self._active_queues if is_ours(q) != is_ours(queue)]
        if mixed:
            raise ValueError(f"a worker consumes Sagrada's queues or others, not {mixed[0]!r} and {queue!r}")
        if is_ours(queue):
            if no_ack:
                raise ValueError(f"messages of {queue!r} are acked: a consumer with no_ack would lose jobs")
            owner().watch(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        if not self.is_task_channel:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._bells is not None:
            bells = self._bells
            connection.send_command("XREAD", "BLOCK", BELL_BLOCK_MS, "STREAMS", *bells, *bells.values())
            self._wait_sent = True
            return
        ask = owner().ask()
        self.pop_sent = ask, queues
        args = pop_args(ask.boot, max(0, self.room()), ask.resync, queues)
        connection.send_command("EVALSHA", POP.sha, 0, *args)

    def _brpop_read(self, **options: Any) -> bool:
        if not self.is_task_channel and self.pop_sent is None and not self._wait_sent:
            return bool(super()._brpop_read(**options))
        try:
            reply = self._read_reply()
        finally:
            sent, self.pop_sent, self._in_poll = self.pop_sent, None, None
            self._bells, self._wait_sent = None, False
        if sent is None:  # the bell rang, or nothing happened for a while
            raise Empty
        ask, queues = sent
        if reply is None:
            owner().lost(ask.boot)
            self._bells = {queue_keys(queue)[2]: "$" for queue in queues}
            raise Empty
        return self._deliver_popped(ask, queues, Popped(*reply))

    def _read_reply(self) -> Any:
        connection = self.client.connection
        try:
            return connection.read_response()
        except NoScriptError:
            owner().resync()  # this may have been one
            with self.conn_or_acquire() as client:
                client.script_load(POP.text)
            raise Empty from None
        except self.connection_errors:
            connection.disconnect()
            raise
        except self.ResponseError as error:  # a replica since the failover, for one: start afresh
            connection.disconnect()
            raise RedisConnectionError(f"Redis refused to pop: {error}") from error

    def _on_connection_disconnect(self, connection: Any) -> None:
        if self.pop_sent is not None and self._in_poll is connection:
            self._lose_reply()
        super()._on_connection_disconnect(connection)

    def _lose_reply(self) -> None:
        self.pop_sent = None
        owner().resync()

    def _deliver_popped(self, ask: Ask, queues: list[str], popped: Popped) -> bool:
        errors = [self._deliver_record(ask.boot, record, fresh=False) for record in popped.owned]
        errors += [self._deliver_record(ask.boot, record, fresh=True) for record in popped.taken]
        owner().answered(ask, popped)
        for error in errors:
            if isinstance(error, self.connection_errors):
                raise error
        if popped.taken or ask.resync:
            return True
        self._bells = {queue_keys(queue)[2]: ring for queue, ring in zip(queues, popped.bells, strict=True)}
        raise Empty

    def _deliver_record(self, boot: str, raw: bytes, fresh: bool) -> Exception | None:
        """Hand one message to Celery. Its exception is returned: the rest of the batch must be taken first."""
        record = Record.parse(raw)
        message, turn = self._decode(record)
        if not owner().take(Delivery(boot, record.queue, record.task, record.tag, turn), fresh):
            return None
        callback = self.connection._callbacks.get(record.queue)
        if callback is None:  # the consumer was cancelled meanwhile
            owner().restore(record.tag)
            return None
        self._queue_cycle.rotate(record.queue)
        try:
            callback(message)
        except Exception as error:
            self._fail(record, error)
            return error
        return None

    def _decode(self, record: Record) -> tuple[Any, str]:
        """kombu's message (None: unreadable), and the delivery's turn."""
        try:
            message = loads(record.body)
            headers = message.setdefault("headers", {})
            if record.redeliveries:
                headers["redelivered"] = True
                message["properties"].setdefault("delivery_info", {})["redelivered"] = True
            return message, f"{headers.get('retries')} {headers.get('replaced_task_nesting')}"
        except (ValueError, TypeError, KeyError, AttributeError):
            return None, ""

    def _fail(self, record: Record, error: Exception) -> None:
        """Celery raised at a message: back into the queue, unless that is in vain."""
        unreadable = record.tag not in self.qos.ours  # it was not even made into a Message
        hopeless = unreadable or record.redeliveries >= MAX_REDELIVERIES
        again = isinstance(error, self.connection_errors) or not hopeless
        (owner().restore if again else owner().refuse)(record.tag)
        fate = "queued again" if again else "set aside as bad"
        # No text of the exception: it may quote the message.
        log.error("task %s could not be received (%s): %s", record.task, type(error).__name__, fate)

    def close(self) -> None:
        """As kombu, without reading the pending reply: it is in the boot's hash, and is heard of again."""
        if self.pop_sent is not None or self._wait_sent:
            self._in_poll, self._wait_sent = None, False
        if self.pop_sent is not None:
            self._lose_reply()
        super().close()

    # Management

    @cached_property
    def _refresh_binding(self) -> Any:
        return self._create_client().register_script(EVEN_IF_FULL + stock.REFRESH_BINDING)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """As kombu. Also in a full Redis: there kombu may not even say again what is bound already."""
        try:
            super()._queue_bind(exchange, routing_key, pattern, queue)
        except OutOfMemoryError:
            keys = self.keyprefix_queue % (exchange,), self.keyprefix_binding_permanent % (exchange,)
            with self.conn_or_acquire() as client:
                client.eval(_BIND, 2, *keys, self.sep.join([routing_key or "", pattern or "", queue or ""]))

    def _get(self, queue: str, timeout: Any = None) -> Any:
        if is_ours(queue):
            raise ValueError(f"no basic_get on {queue!r}: without a boot to own it a message could be lost")
        return super()._get(queue)

    def _size(self, queue: str) -> int:
        if not is_ours(queue):
            return int(super()._size(queue))
        with self.conn_or_acquire() as client:
            return TaskQueue(client, queue).size()

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return is_ours(queue) or bool(super()._has_queue(queue, **kwargs))

    def _purge(self, queue: str) -> int:
        if not is_ours(queue):
            return int(super()._purge(queue))
        with self.conn_or_acquire() as client:
            return TaskQueue(client, queue).purge()

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        if is_ours(queue):
            self._purge(queue)


class Transport(stock.Transport):
    """sagrada://, over plain TCP or a Unix socket."""

    Channel = Channel
    supports_batch_publish = False


class SecureTransport(Transport):
    """sagradas://, over TLS; certificates are checked unless the URL says ?ssl_cert_reqs=none."""

    def __init__(self, client: Any, **kwargs: Any) -> None:
        client.ssl = {"ssl_cert_reqs": "required", **(client.ssl if isinstance(client.ssl, dict) else {})}
        super().__init__(client, **kwargs)
