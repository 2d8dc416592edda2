"""Every name in Redis, in one table.

| name                      | type    | written by          | holds                                     | expires                       |
|---------------------------|---------|---------------------|-------------------------------------------|-------------------------------|
| sagrada:{<id>}:job        | hash    | ledger              | the job's record (wire/ledger.py)         | RESULT_TTL after it ended     |
| sagrada:{<id>}:log        | stream  | ledger              | its events, `<attempt>-<n>` → one map     | with the record               |
| sagrada:{<id>}:tokens     | channel | ledger              | the same maps, live                       | –                             |
| sagrada:{<id>}:gone       | string  | ledger              | a deleted job's last attempt, so that a   | RESULT_TTL                    |
|                           |         |                     | late message does not run it again        |                               |
| sagrada:open              | zset    | ledger              | every job that has not ended → the Redis  | entries leave when jobs end   |
|                           |         |                     | ms at which the reconciler looks at it    |                               |
| sagrada:q:<queue>         | zset    | transport           | task id → score (submit ms + priority …)  | never; empty when idle        |
| sagrada:q:<queue>:msgs    | hash    | transport           | task id → message                         | with its zset                 |
| sagrada:q:<queue>:bell    | stream  | transport           | one entry, rung by put and restore        | never; one entry              |
| sagrada:q:<queue>:bad     | list    | transport           | the latest 1000 unreadable messages, cut  | never; bounded                |
| sagrada:q:<queue>:turns   | hash    | transport           | priority and tenant → the last turn, ms   | emptied with the queue        |
| sagrada:q:<queue>:taken   | hash    | transport           | ten seconds → messages taken in them      | seven fields                  |
| sagrada:q:<queue>:line    | zset    | gateway             | who was refused → the moment at which a   | with its last moment; bounded |
|                           |         |                     | place is kept for them, Redis ms          |                               |
| sagrada:live              | zset    | worker's boot       | boot → end of its lease, Redis ms         | entries leave when reaped     |
| sagrada:dead              | zset    | reaper              | boot → time of death; leaves when its     | entries leave when emptied    |
|                           |         |                     | unacked hash is empty                     |                               |
| sagrada:unacked:<boot>    | hash    | transport           | delivery tag → message that boot owns     | empties as messages are acked |
| sagrada:boot:<boot>       | channel | ledger's callers    | job ids to look at again (cancelled)      | –                             |
| sagrada:gateways          | zset    | gateway             | gateway process → end of its lease, ms    | entries leave with the gateway|
| sagrada:workers           | zset    | registry            | boot → end of its entry, Redis ms         | entries leave with the entry  |
| sagrada:worker:<boot>     | hash    | registry            | one msgpack map: wire/registry.py         | with the lease                |
| sagrada:blob:<sha256>     | string  | registry            | a model's tokenizer files                 | refreshed while served        |
| sagrada:totals            | zset    | who counts          | the hashes below → their last change, ms  | a week after its last change  |
| sagrada:totals:<scope>    | hash    | who counts          | metric and labels → the fleet's count     | a week after its last change  |
|                           |         |                     | (wire/totals.py)                          |                               |
| sagrada:counted:<id>      | hash    | who counts          | the same of one process, as it last said  | a day after its last change   |
| sagrada:streams:<gateway> | string  | gateway             | open streams of a gateway process         | unless said again in 15 s     |
| sagrada:secret            | string  | the first gateway   | key of the idempotency HMAC               | never                         |
| sagrada:apikeys           | hash    | `sagrada keys`      | key id → one msgpack map: wire/apikeys.py | never; bounded                |
| sagrada:rate:<key id>     | hash    | gateway             | what that key has used: wire/rates.py     | when nothing of it is used    |
| celery-task-meta-<id>     | string  | Celery              | the task's result, JSON                   | RESULT_TTL                    |

All are on one node: kombu knows no Redis Cluster, and the index of open jobs is written by the scripts of each job.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

PREFIX = "sagrada:"
QUEUE_PREFIX = "sagrada."
"""Celery queues whose name starts so are ours: sorted sets, popped in batches. All others stay kombu's lists."""

TASK_NAME = "sagrada.generate"
LIVE = PREFIX + "live"
DEAD = PREFIX + "dead"
UNACKED_PREFIX = PREFIX + "unacked:"
WORKERS = PREFIX + "workers"
OPEN = PREFIX + "open"
GATEWAYS = PREFIX + "gateways"
SECRET = PREFIX + "secret"
TOTALS = PREFIX + "totals"
API_KEYS = PREFIX + "apikeys"


def job_key(job_id: str) -> str:
    """The job's record."""
    return f"{PREFIX}{{{job_id}}}:job"


def log_key(job_id: str) -> str:
    """The job's log, the truth about its tokens."""
    return f"{PREFIX}{{{job_id}}}:log"


def gone_key(job_id: str) -> str:
    """What is left of a deleted job: the number of its last attempt."""
    return f"{PREFIX}{{{job_id}}}:gone"


def channel(job_id: str) -> str:
    """The job's pub/sub channel, the live copy of its log."""
    return f"{PREFIX}{{{job_id}}}:tokens"


def queue_keys(queue: str) -> tuple[str, str, str]:
    """The queue's sorted set, its messages and its doorbell."""
    base = f"{PREFIX}q:{queue}"
    return base, base + ":msgs", base + ":bell"


def unacked_key(boot: str) -> str:
    """The messages that a boot has taken and not acked."""
    return UNACKED_PREFIX + boot


def boot_channel(boot: str) -> str:
    """Where a boot hears which of its jobs to look at again."""
    return f"{PREFIX}boot:{boot}"


def worker_key(boot: str) -> str:
    """A boot's registry entry."""
    return f"{PREFIX}worker:{boot}"


def blob_key(digest: str) -> str:
    """A content-addressed blob; `digest` is SHA-256 in hex."""
    return f"{PREFIX}blob:{digest}"


def totals_key(scope: Sequence[str]) -> str:
    """What is counted for a model, or a model's worker, or with an empty scope for none."""
    return f"{TOTALS}:{json.dumps(scope, ensure_ascii=False, separators=(',', ':'))}"


def counted_key(process: str) -> str:
    """What one process has said of its counts."""
    return f"{PREFIX}counted:{process}"


def streams_key(gateway: str) -> str:
    """How many streams a gateway process holds."""
    return f"{PREFIX}streams:{gateway}"


def rate_key(key_id: str) -> str:
    """What an API key has used of its rates."""
    return f"{PREFIX}rate:{key_id}"


def result_key(job_id: str) -> str:
    """Where Celery keeps the task's result."""
    return f"celery-task-meta-{job_id}"


def queue_of(model: str) -> str:
    """The Celery queue of a served model: its name in letters that every tool can show."""
    return QUEUE_PREFIX + re.sub(r"[^A-Za-z0-9_.-]+", "-", model.strip("/")).strip("-").lower()
