"""The book of deliveries: what is held, adopted, settled, and still to be told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wire.queue import Delivery
from worker.deliveries import REMEMBERED, Deliveries, Notice

ONE = Delivery("boot", "sagrada.q", "task", "tag", "0")


@pytest.fixture
def book() -> Deliveries:
    book = Deliveries()
    assert book.take(ONE, True, "boot")
    return book


def told(book: Deliveries) -> list[tuple[str, str, str]]:
    return [(what, delivery.tag, delivery.boot) for what, delivery in book.notices(100)]


def test_an_ack_is_told_until_redis_has_heard(book: Deliveries) -> None:
    assert book.known("boot") == 1
    assert book.settle("tag", "ack")
    assert not book.holds("tag")
    assert not book.settle("tag", "ack"), "only once"
    assert book.notices(1) == book.notices(1) == [Notice("ack", ONE)]
    assert book.known("boot") == 1
    book.told(1)
    assert (book.notices(1), book.known("boot")) == ([], 0)


def test_a_second_delivery_is_adopted(book: Deliveries) -> None:
    assert not book.take(replace(ONE, boot="new"), True, "new")
    assert (book.adopted, book.known("new"), book.known("boot")) == (1, 1, 0)


def test_an_acked_message_that_comes_again_is_acked_again(book: Deliveries) -> None:
    book.settle("tag", "ack")
    assert not book.take(replace(ONE, boot="new"), True, "new"), "Redis has not heard"
    assert told(book) == [("ack", "tag", "boot"), ("ack", "tag", "new")]
    book.told(2)
    assert not book.take(replace(ONE, boot="new"), True, "new"), (
        "its answer may be older than what it has heard"
    )


def test_a_message_whose_ack_redis_has_lost_runs_again(book: Deliveries) -> None:
    book.settle("tag", "ack")
    book.told(1)
    book.asked()
    assert book.take(ONE, False, "boot"), "what else was lost, the ledger knows"


def test_no_ack_is_told_to_a_redis_that_lost_what_it_stands_on(book: Deliveries) -> None:
    book.settle("tag", "ack")
    book.doubt()
    assert told(book) == [("restore", "tag", "boot")], "who claims it sees whether it has ended"
    book.told(1)
    book.doubt()
    assert told(book) == []
    assert book.take(ONE, True, "boot"), "it may be this worker"


def test_a_message_sent_twice_runs_once_and_both_are_acked(book: Deliveries) -> None:
    assert not book.take(replace(ONE, tag="twin"), True, "boot")
    book.settle("tag", "ack")
    assert told(book) == [("ack", "tag", "boot"), ("ack", "twin", "boot")]
    assert len(book) == 0


def test_a_restored_message_stands_for_its_twin(book: Deliveries) -> None:
    book.take(replace(ONE, tag="twin"), True, "boot")
    book.settle("tag", "restore")
    assert told(book) == [("restore", "tag", "boot"), ("ack", "twin", "boot")]


def test_a_retry_is_no_twin(book: Deliveries) -> None:
    assert book.take(replace(ONE, tag="retry", turn="1"), True, "boot")


def test_what_was_given_back_may_come_again(book: Deliveries) -> None:
    book.settle("tag", "restore")
    assert not book.take(ONE, False, "boot"), "heard in a resync that Redis answered too early"
    book.told(1)
    assert not book.take(ONE, False, "boot"), "the answer in flight may still be older"
    book.asked()
    assert book.take(ONE, False, "boot")


def test_what_was_given_back_and_taken_again_runs(book: Deliveries) -> None:
    book.settle("tag", "restore")
    assert book.take(ONE, True, "boot")


def test_a_message_popped_under_the_old_boot_is_reclaimed(book: Deliveries) -> None:
    late = replace(ONE, task="late", tag="late")
    assert book.take(late, True, "new")
    assert told(book) == [("reclaim", "late", "boot")]
    assert book.foreign("new") == [ONE, late]
    book.move([late], "new")
    assert book.foreign("new") == [ONE]
    assert len(book.foreign(None)) == 2


def test_a_lost_connection_forgets_only_what_does_not_run(book: Deliveries) -> None:
    book.take(replace(ONE, task="idle", tag="idle"), True, "boot")
    book.run("tag")
    book.forget_idle(["tag", "idle", "unheard of"])
    assert book.holds("tag")
    assert not book.holds("idle")
    assert book.take(replace(ONE, task="idle", tag="idle"), False, "boot"), "the resync delivers it again"


def test_dropping_tells_nothing(book: Deliveries) -> None:
    book.take(replace(ONE, tag="twin"), True, "boot")
    book.drop("tag")
    assert (len(book), book.notices(10)) == (0, [])


def test_the_memory_of_settled_messages_is_bounded() -> None:
    book = Deliveries()
    for number in range(REMEMBERED + 10):
        book.take(replace(ONE, task=str(number), tag=str(number)), True, "boot")
        book.settle(str(number), "ack")
    assert len(book._settled) == REMEMBERED
