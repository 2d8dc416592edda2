"""The registry: what every worker says of itself, and the tokenizer files of the models they serve."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec
from redis import Redis

from wire.codec import WIRE_VERSION
from wire.keys import WORKERS, blob_key, worker_key
from wire.queue import milliseconds
from wire.scripts import EVEN_IF_FULL, load

WorkerState: TypeAlias = Literal["loading", "serving", "draining", "failed"]

BLOB_TTL = 24 * 3600.0
"""Seconds that a blob outlives its last touch."""

log = logging.getLogger(__name__)


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One boot of a worker. All counts are of now, `counters` since the process began."""

    boot: str
    """Its boot id; a lost lease brings a new one."""
    name: str
    """The Celery node name."""
    place: str = ""
    """The host, or the host and the card: the same after a restart."""
    model: str
    """The served model's name."""
    queue: str
    """The Celery queue it consumes."""
    state: WorkerState
    revision: str = ""
    wire: int = WIRE_VERSION
    """The newest wire version it reads."""
    stage: str = ""
    """While loading: what it does now."""
    progress: float = 0.0
    """Of that stage, 0 … 1."""
    error: str = ""
    """Why it failed, in a sentence."""
    device: str = ""
    dtype: str = ""
    slots: int = 0
    """Sequences that it runs at once."""
    running: int = 0
    max_tokens: int = 0
    """Tokens that those may come to, prompts included."""
    free: int = 0
    """Jobs it would take now."""
    most_unlogged: int = 0
    """Tokens of one job that the engine was ahead of its log, at most since the process began."""
    kv_blocks: int = 0
    kv_free: int = 0
    block_size: int = 0
    """Tokens per block."""
    max_input_tokens: int = 0
    max_total_tokens: int = 0
    eos_ids: tuple[int, ...] = ()
    watermark: bool = False
    """Whether jobs may ask for one."""
    plan_hash: str = ""
    buckets: int = 0
    tokenizer: str = ""
    """Digest of the blob with the tokenizer files; empty until published."""
    started: float = 0.0
    """Unix time of the process's start."""
    counters: dict[str, float] = {}
    """Only ever growing: tokens, steps, compilations, …"""


class Registry:
    """Who serves what. Entries expire by Redis time unless they are published again."""

    def __init__(self, redis: Redis) -> None:
        """`redis` must return bytes."""
        self._redis: Any = redis
        self._publish = self._redis.register_script(EVEN_IF_FULL + load("registry_publish"))
        self._put = self._redis.register_script(EVEN_IF_FULL + load("registry_put"))

    def publish(self, info: WorkerInfo, ttl: float) -> None:
        """Write or renew an entry for `ttl` seconds."""
        entry = msgspec.msgpack.encode(info)
        keys = [worker_key(info.boot), WORKERS]
        self._publish(keys=keys, args=[info.boot, max(1, round(ttl * 1000)), WIRE_VERSION, entry])

    def remove(self, boot: str) -> None:
        """Forget a boot at once."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.zrem(WORKERS, boot).unlink(worker_key(boot)).execute()

    def list(self) -> list[WorkerInfo]:
        """All living entries, by boot. One that a newer Sagrada wrote is read as far as it can be, or left out."""
        time, boots = self._redis.pipeline(transaction=False).time().zrange(WORKERS, 0, -1).execute()
        pipe = self._redis.pipeline(transaction=False)
        pipe.zremrangebyscore(WORKERS, "-inf", f"({milliseconds(time)}")
        for boot in boots:
            pipe.hget(worker_key(boot.decode()), "info")
        _, *entries = pipe.execute()
        infos = [_decode(entry) for entry in entries if entry]
        return sorted((info for info in infos if info), key=lambda info: info.boot)

    def put_blob(self, files: Mapping[str, bytes]) -> str:
        """Store files under the digest of their names and contents; the digest."""
        data = msgspec.msgpack.encode(dict(sorted(files.items())))
        digest = hashlib.sha256(data).hexdigest()
        self._put(keys=[blob_key(digest)], args=[data, round(BLOB_TTL * 1000)])
        return digest

    def get_blob(self, digest: str) -> dict[str, bytes] | None:
        """The files by name; None if they are gone or are not what the digest says."""
        data = self._redis.get(blob_key(digest))
        if data is None or hashlib.sha256(data).hexdigest() != digest:
            return None
        return msgspec.msgpack.decode(data, type=dict[str, bytes])

    def touch_blob(self, digest: str) -> bool:
        """Keep a blob for another BLOB_TTL; False: it is gone, put it again."""
        return bool(self._redis.pexpire(blob_key(digest), round(BLOB_TTL * 1000)))


def _decode(entry: bytes) -> WorkerInfo | None:
    try:
        return msgspec.msgpack.decode(entry, type=WorkerInfo)
    except msgspec.DecodeError as error:
        log.warning("a worker's registry entry cannot be read, maybe a newer Sagrada wrote it: %s", error)
        return None
