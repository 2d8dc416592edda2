"""Room, and the probation after an engine's death."""

from __future__ import annotations

from worker.assignment import Assignment
from worker.roster import Roster


def enter(roster: Roster, count: int) -> list[Assignment]:
    made = [Assignment(job_id=str(i), settle=lambda _: None) for i in range(count)]
    for assignment in made:
        roster.expect()
        roster.add(assignment)
        roster.queue(assignment)
    return made


def claim(roster: Roster) -> list[Assignment]:
    wanted = roster.claimable()
    roster.claimed(wanted)
    for assignment in wanted:
        roster.admit(assignment)
    return wanted


def test_room_is_taken_from_the_moment_of_delivery_until_the_engine_is_left() -> None:
    roster = Roster()
    assert roster.room(3) == 3
    first, second = enter(roster, 2)
    assert roster.room(3) == 1
    claim(roster)
    assert roster.leave_engine(first)
    assert not roster.leave_engine(first)
    assert roster.room(3) == 2
    assert not roster.remove(first)
    assert roster.remove(second)
    assert (roster.room(3), list(roster.held)) == (3, [])


def test_all_that_wait_are_claimed_together_in_order() -> None:
    roster = Roster()
    made = enter(roster, 4)
    roster.remove(made[1])
    assert claim(roster) == [made[0], made[2], made[3]]
    assert roster.claimable() == []


def test_numbers_are_never_used_again() -> None:
    roster = Roster()
    first, second = enter(roster, 2)
    claim(roster)
    numbers = {first.number, second.number}
    roster.engine_died()
    claim(roster)
    assert first.number not in numbers


def test_suspects_run_one_at_a_time_and_before_all_others() -> None:
    roster = Roster()
    old = enter(roster, 3)
    claim(roster)
    (young,) = enter(roster, 1)
    assert roster.engine_died() == old
    assert claim(roster) == [old[0]]
    assert roster.claimable() == []
    old[0].suspect = False  # it has added a token
    assert claim(roster) == [old[1]]
    roster.remove(old[1])  # it has ended
    assert claim(roster) == [old[2]]
    old[2].suspect = False
    assert claim(roster) == [young]


def test_one_suspect_that_kills_again_is_alone_to_blame() -> None:
    roster = Roster()
    old = enter(roster, 2)
    claim(roster)
    roster.engine_died()
    claim(roster)
    assert roster.engine_died() == [old[0]]
    assert [assignment.suspect for assignment in old] == [True, True]
    assert claim(roster) == [old[0]]
