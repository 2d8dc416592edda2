"""The ledger's commands and their replies, without Redis."""

from __future__ import annotations

import hashlib

import pytest
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from wire import commands
from wire.commands import LOAD, Outcome, append_command, entry, parse_append, parse_claim, parse_written
from wire.errors import NewerWireVersion
from wire.events import Token
from wire.keys import OPEN, channel, gone_key, job_key, log_key
from wire.record import FIELDS, parse_record
from wire.resp import pack


def test_every_script_is_loaded_under_the_name_it_is_called_by() -> None:
    known = {hashlib.sha1(str(text).encode()).hexdigest() for _, _, text in LOAD}
    calls = [
        commands.cancel_command("j", result_ttl=1),
        commands.release_command("j", 1),
        commands.claim_command("j", "b", "c", result_ttl=1),
        commands.reappend_command("j", 1, "b", "c"),
    ]
    for call in calls:
        assert call[0] == "EVALSHA"
        assert call[1] in known
        keys = [str(key) for key in call[3 : 3 + int(call[2])]]
        assert keys == [job_key("j"), log_key("j"), channel("j"), gone_key("j"), OPEN]


def test_an_append_names_attempt_and_place() -> None:
    item = entry(Token(seq=4, index=4, id=9, text="x", logprob=None, special=False))
    command = append_command("j", 3, item)
    assert command[:4] == ("XADD", "sagrada:{j}:log", "NOMKSTREAM", "3-5")
    assert command[-1] == item.data


def test_words_are_packed_by_length() -> None:
    assert pack("SET", b"\r\n", 1) == b"*3\r\n$3\r\nSET\r\n$2\r\n\r\n\r\n$1\r\n1\r\n"


def test_an_append_is_accepted_fenced_or_gone() -> None:
    stale = "The ID specified in XADD is equal or smaller than the target stream top item"
    assert parse_append(b"3-5") is Outcome.OK
    assert parse_append(None) is Outcome.GONE
    assert parse_append(ResponseError("ERR " + stale)) is Outcome.FENCED
    assert parse_append(ResponseError(stale)) is Outcome.FENCED


@pytest.mark.parametrize(
    "error", [NoScriptError("NOSCRIPT"), ReadOnlyError("READONLY"), ResponseError("OOM")]
)
def test_any_other_error_is_raised(error: Exception) -> None:
    for parse in (parse_append, parse_written, commands.parse_submit, commands.parse_stopped):
        with pytest.raises(type(error)):
            parse(error)
    with pytest.raises(type(error)):
        parse_claim(error, "c")


def test_a_newer_record_is_not_claimed() -> None:
    with pytest.raises(NewerWireVersion, match="version 9"):
        parse_claim([b"newer", 9], "c")


def test_no_record_is_none_and_a_young_one_has_gaps() -> None:
    assert parse_record([None] * len(FIELDS)) is None
    values = {"state": b"queued", "attempt": b"0", "created": b"12"}
    record = parse_record([values.get(name) for name in FIELDS])
    assert record is not None
    assert (record.state, record.created, record.started, record.result, record.terminal) == (
        "queued",
        12,
        0,
        None,
        False,
    )
