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
        roster.admit(assignment, 0)
    return wanted


def test_room_is_taken_from_the_moment_of_delivery_until_the_engine_is_left() -> None:
    roster = Roster()
    assert roster.room(3) == 3
    first, second = enter(roster, 2)
    assert roster.room(3) == 1
    claim(roster)
    assert roster.release(first)
    assert not roster.release(first)
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
    numbers = {*first.numbers, *second.numbers}
    roster.engine_died()
    assert roster.admit(first, 0) not in numbers


def suspects(roster: Roster, count: int) -> list[Assignment]:
    made = enter(roster, count)
    roster.claimed(made)
    for assignment in made:
        assignment.suspect = True
    return made


def test_each_trial_is_of_twice_as_many_suspects_once_all_have_passed_the_last() -> None:
    roster = Roster()
    made = suspects(roster, 8)
    assert not any(map(roster.may_enter, made))
    assert roster.next_on_trial() == made[:1]
    assert roster.next_on_trial() == []
    made[0].suspect = False  # it has added a token
    assert roster.next_on_trial() == made[1:3]
    made[1].suspect = False
    assert roster.next_on_trial() == []
    roster.remove(made[2])  # it has ended
    assert roster.next_on_trial() == made[3:7]
    roster.engine_died()
    late = suspects(roster, 2)
    assert not any(map(roster.may_enter, late))
    assert roster.next_on_trial() == late[:1], "a new engine begins with one"


def test_who_added_nothing_before_the_engine_died_is_tried_alone() -> None:
    roster = Roster()
    made = suspects(roster, 6)
    made[2].alone = made[3].alone = True
    assert not any(map(roster.may_enter, made))
    trials = []
    while trial := roster.next_on_trial():
        trials.append(trial)
        for assignment in trial:
            assignment.suspect = False
    assert trials == [made[:1], made[1:2], made[2:3], made[3:4], made[4:]]


def test_who_is_no_suspect_waits_for_none() -> None:
    roster = Roster()
    (suspect,), (healthy,) = suspects(roster, 1), enter(roster, 1)
    assert not roster.may_enter(suspect) and roster.next_on_trial() == [suspect]
    assert roster.may_enter(healthy)


def test_an_engine_s_death_tells_the_one_on_trial_from_those_who_were_to_be() -> None:
    roster = Roster()
    tried, parked = suspects(roster, 2)
    for assignment in (tried, parked):
        roster.may_enter(assignment)
    for assignment in roster.next_on_trial():
        roster.admit(assignment, 0)
    assert roster.engine_died() == ([tried], [parked])
    assert roster.engine_died() == ([], [])


def test_a_suspect_that_leaves_while_it_waits_is_not_tried() -> None:
    roster = Roster()
    first, second = suspects(roster, 2)
    for assignment in (first, second):
        roster.may_enter(assignment)
    assert roster.next_on_trial() == [first]
    roster.remove(second)
    first.suspect = False
    assert roster.next_on_trial() == []
