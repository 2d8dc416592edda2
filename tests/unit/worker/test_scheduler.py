from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from models.plan import Bucket
from models.step import Sampling
from tests.support.scheduling import Lab, expected, sequence
from worker.scheduler import MOST_PASSED, Refused
from worker.script import EOS
from worker.sequence import NO_BOUND, Sequence


def prompt(length: int, salt: int = 0) -> list[int]:
    return [97 + (i * 7 + salt) % 26 for i in range(length)]


def test_every_sequence_gets_its_own_tokens_whoever_runs_beside_it() -> None:
    lab = Lab()
    crowd = [sequence(i, prompt(1 + 5 * i % 37, i), 3 + 4 * i % 20) for i in range(12)]
    lab.admit(*crowd[:5])
    for late in crowd[5:]:
        lab.step()
        lab.step()
        lab.admit(late)
    lab.drain()
    assert sorted(lab.left) == list(range(12))
    for each in crowd:
        assert lab.given[each.seq] == expected(each, each.max_new_tokens)


def test_preempted_sequences_start_again_and_lose_nothing() -> None:
    lab = Lab(num_blocks=17)
    crowd = [sequence(i, prompt(10, i), 40) for i in range(4)]
    lab.admit(*crowd)
    lab.drain()
    restarts = sum(len(batch.opened) for batch in lab.batches) - len(crowd)
    assert restarts > 0, "the pool was meant to run out"
    assert lab.left[0] == 0, "the oldest is never preempted, so it ends first"
    for each in crowd:
        assert lab.given[each.seq] == expected(each, 40)


def test_a_running_sequence_waits_for_one_prefill_step_at_most() -> None:
    lab = Lab(num_blocks=100)
    lab.admit(sequence(0, prompt(3), 50))
    lab.step()
    lab.step()
    lab.admit(*(sequence(i, prompt(40, i), 5) for i in range(1, 4)))
    seen = len(lab.batches)
    lab.drain()
    phases = [batch.step.bucket.phase for batch in lab.batches[seen:]]
    assert "prefill" in phases
    assert ("prefill", "prefill") not in list(pairwise(phases))


def test_prompts_are_prefilled_in_chunks_and_the_token_after_the_last_is_sampled() -> None:
    lab = Lab()
    lab.admit(sequence(0, prompt(21), 1))
    lab.drain()
    rows = [batch.step.rows[0] for batch in lab.batches]
    assert [(row.start, len(row.ids), row.sample) for row in rows] == [
        (0, 8, False),
        (8, 8, False),
        (16, 5, True),
    ]


def test_short_prompts_share_a_prefill_step() -> None:
    lab = Lab(prefill_batch=4, prefill_chunk=32, slots=8, num_blocks=200)
    lab.admit(*(sequence(i, prompt(8, i), 2) for i in range(4)))
    batch = lab.step()
    assert batch is not None
    assert [each.seq for each in batch.sequences] == [0, 1, 2, 3]


def test_a_long_chunk_does_not_pad_a_short_prompt_to_its_own_length() -> None:
    lab = Lab(
        prefill_batch=4, prefill_chunk=512, max_input_tokens=1000, max_total_tokens=1024, num_blocks=600
    )
    lab.admit(sequence(0, prompt(512), 2), sequence(1, prompt(5), 2))
    batch = lab.step()
    assert batch is not None
    assert [each.seq for each in batch.sequences] == [0]


def test_length_ends_before_end_of_sequence_is_looked_at() -> None:
    lab = Lab()
    lab.admit(sequence(0, b"!eos@4", 5), sequence(1, b"!eos@4", 9))
    lab.drain()
    assert lab.given[0] == lab.given[1]
    assert len(lab.given[0]) == 5
    assert lab.given[0][-1] == EOS


def test_ignore_eos_goes_on_to_the_length() -> None:
    lab = Lab()
    lab.admit(sequence(0, b"!eos@4", 9, ignore_eos=True))
    lab.drain()
    assert len(lab.given[0]) == 9
    assert lab.given[0][4] == EOS


def test_a_stop_token_ends_its_own_sequence_whatever_it_does_about_the_end() -> None:
    whole = expected(sequence(0, prompt(9), 20), 20)
    stop = Sampling(stop_token_ids=(999, whole[6]))
    at = whole.index(whole[6]) + 1
    lab = Lab(depth=2)
    lab.admit(
        sequence(0, prompt(9), 20, sampling=stop, ignore_eos=True),
        sequence(1, prompt(9), 20),
        sequence(2, prompt(9), at, sampling=stop),
    )
    lab.drain()
    assert lab.given == {0: whole[:at], 1: whole, 2: whole[:at]}
    assert sorted(lab.left) == [0, 1, 2]


def test_a_resumed_sequence_continues_where_the_log_ends() -> None:
    seeded = Sampling(do_sample=True, seed=7)
    whole = expected(sequence(0, prompt(9), 20, sampling=seeded), 20)
    lab = Lab()
    lab.admit(sequence(0, prompt(9), 20, sampling=seeded, output=whole[:11]))
    lab.drain()
    assert lab.given[0] == whole
    sampled = [row.position for batch in lab.batches for row in batch.step.rows if row.sample]
    assert sampled == list(range(11, 20))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (sequence(0, [], 5), "no tokens"),
        (sequence(0, prompt(41), 5), "has 41 tokens, this model takes 40"),
        (sequence(0, prompt(40), 21), "exceed 60 in all"),
        (sequence(0, prompt(4), 2, output=[97, 98]), "nothing is left"),
    ],
)
def test_what_can_never_fit_is_refused_with_a_sentence(asked: Sequence, why: str) -> None:
    lab = Lab()
    with pytest.raises(Refused, match=why):
        lab.scheduler.admit(asked)
    assert not lab.scheduler.busy


def test_the_longest_sequence_runs_to_its_end_in_the_smallest_pool() -> None:
    lab = Lab(num_blocks=16)
    lab.admit(*(sequence(i, prompt(40, i), 20) for i in range(3)))
    lab.drain()
    assert [len(tokens) for tokens in lab.given.values()] == [20, 20, 20]


@pytest.mark.parametrize("steps", [0, 1, 3, 6, 40])
def test_an_abort_frees_everything_in_every_phase(steps: int) -> None:
    lab = Lab(num_blocks=17)
    crowd = [sequence(i, prompt(30, i), 30) for i in range(6)]
    lab.admit(*crowd)
    for _ in range(steps):
        lab.step()
    for each in crowd:
        if each.seq not in lab.left:
            lab.scheduler.abort(each)
            lab.check_books()
    assert not lab.scheduler.busy
    lab.drain()


def test_a_step_that_raises_costs_one_sequence_and_no_bystander() -> None:
    lab = Lab(num_blocks=100)
    poison = sequence(1, b"!raise@3", 10)
    others = [sequence(i, prompt(6 + i, i), 10) for i in (0, 2, 3)]
    lab.admit(others[0], poison, *others[1:])
    lab.drain()
    assert len(lab.given[1]) == 3
    for each in others:
        assert lab.given[each.seq] == expected(each, 10)


def test_the_rows_of_a_step_that_raised_run_alone_until_they_have_passed() -> None:
    lab = Lab(num_blocks=100)
    crowd = [sequence(0, prompt(1), 12), sequence(1, b"!raise@3", 12), sequence(2, prompt(1, 1), 12)]
    lab.admit(*crowd)
    lab.drain()
    rows = [len(batch.sequences) for batch in lab.batches]
    assert crowd[0].suspect is crowd[2].suspect is False
    assert 2 in rows[rows.index(1) :], "those who passed run together again"


@pytest.mark.parametrize("poison", [b"!raise@2", b"!raise@0 "])
def test_who_may_be_to_blame_joins_nobody(poison: bytes) -> None:
    """The first raises beside a long prompt's chunks; of the second, one token is left after a chunk: it decodes."""
    lab = Lab(num_blocks=100)
    lab.admit(
        sequence(0, prompt(40), 3), sequence(1, poison, 9), sequence(2, prompt(8), 12), sequence(3, [97], 12)
    )
    lab.drain()
    assert [len(lab.given[seq]) for seq in (0, 2, 3)] == [3, 12, 12]
    assert any(not batch.step.rows[0].sample for batch in lab.batches), "the long prompt was in chunks"


def test_who_starts_leaves_the_running_room_to_grow() -> None:
    lab = Lab(num_blocks=11, max_input_tokens=20, max_total_tokens=24, prefill_batch=3)
    lab.admit(*(sequence(i, prompt(16, i), 4) for i in range(2)), sequence(2, prompt(8), 4))
    lab.drain()
    opened = [each.seq for batch in lab.batches for each in batch.opened]
    assert opened == [0, 1, 2], "nobody was started only to be preempted"


class TestPrefixes:
    """What is in the cache is taken from there; a hit never covers the last token, and salts never meet."""

    def started(self, lab: Lab, each: Sequence, salt: str = "") -> int:
        """Where the first step of the sequence begins."""
        seen = len(lab.batches)
        lab.admit(each, salt=salt)
        lab.drain()
        return lab.batches[seen].step.rows[0].start

    def test_a_known_prompt_is_not_run_again_but_for_its_last_block(self) -> None:
        lab = Lab()
        assert self.started(lab, sequence(0, prompt(21), 5)) == 0
        assert self.started(lab, sequence(1, prompt(21), 5)) == 20
        assert self.started(lab, sequence(2, prompt(20), 5)) == 16, "its last token must run"
        assert self.started(lab, sequence(3, [*prompt(9), 1, 2, 3], 5)) == 8
        assert (lab.scheduler.hit_tokens, lab.scheduler.prompt_tokens) == (44, 74)

    def test_the_next_turn_of_a_chat_finds_what_was_generated(self) -> None:
        lab = Lab()
        first = sequence(0, prompt(10), 12)
        self.started(lab, first)
        assert self.started(lab, sequence(1, [*first.prompt, *first.output, 97, 98], 5)) == 20

    def test_salts_share_nothing(self) -> None:
        lab = Lab()
        assert self.started(lab, sequence(0, prompt(21), 5), salt="ann") == 0
        assert self.started(lab, sequence(1, prompt(21), 5), salt="bob") == 0
        assert self.started(lab, sequence(2, prompt(21), 5), salt="ann") == 20

    def test_those_who_share_a_prefix_run_side_by_side(self) -> None:
        lab = Lab(num_blocks=24)
        lab.admit(sequence(0, prompt(21), 12))
        for _ in range(5):
            lab.step()
        crowd = [sequence(i, [*prompt(20), 100 + i], 12) for i in (1, 2, 3)]
        lab.admit(*crowd)
        lab.drain()
        assert lab.scheduler.hit_tokens == 60
        for each in crowd:
            assert lab.given[each.seq] == expected(each, 12)

    def test_a_preempted_sequence_finds_its_own_blocks_again(self) -> None:
        lab = Lab(num_blocks=17)
        lab.admit(*(sequence(i, prompt(10, i), 40) for i in range(4)))
        lab.drain()
        assert lab.scheduler.hit_tokens > 0

    def test_after_a_step_that_raised_nothing_cached_is_trusted(self) -> None:
        lab = Lab(num_blocks=100)
        assert self.started(lab, sequence(0, prompt(21), 5)) == 0
        self.started(lab, sequence(1, [*b"a long prompt in chunks !raise@0"], 5))
        assert lab.left == [0, 1] and not lab.given[1]
        assert self.started(lab, sequence(2, prompt(21), 5)) == 0
        assert self.started(lab, sequence(3, prompt(21), 5)) == 20

    def test_it_can_be_switched_off(self) -> None:
        lab = Lab(prefix_cache=False)
        assert self.started(lab, sequence(0, prompt(21), 5)) == 0
        assert self.started(lab, sequence(1, prompt(21), 5)) == 0


class TestScores:
    """A prompt's log-probabilities come from steps of their own, each token once."""

    @pytest.mark.parametrize("length", [1, 2, 8, 9, 21])
    @pytest.mark.parametrize("depth", [1, 2])
    def test_every_token_but_the_first_is_scored(self, length: int, depth: int) -> None:
        lab = Lab(depth=depth)
        lab.admit(sequence(0, prompt(length), 3), sequence(1, prompt(12, 1), 3))
        lab.drain()
        lab.admit(sequence(2, prompt(length), 3, prompt_logprobs=True), sequence(3, prompt(12, 1), 3))
        lab.drain()
        assert lab.given[2] == lab.given[0]
        assert len(lab.scores.get(2, [])) == length - 1
        assert len(set(lab.scores.get(2, []))) == min(length - 1, 16), "each position has its own"

    def test_a_scored_sequence_that_is_preempted_gives_its_scores_once(self) -> None:
        lab = Lab(num_blocks=17)
        lab.admit(*(sequence(i, prompt(10, i), 40, prompt_logprobs=True) for i in range(4)))
        lab.drain()
        assert sum(len(batch.opened) for batch in lab.batches) > 4, "somebody was preempted"
        assert {seq: len(scores) for seq, scores in lab.scores.items()} == dict.fromkeys(range(4), 9)


class TestOrder:
    """First come, first served; who fits may pass who does not, but not for ever."""

    def fill(self, lab: Lab) -> None:
        """Two that hold most of the pool for long."""
        lab.admit(sequence(0, prompt(30), 20), sequence(1, prompt(30, 1), 20))
        lab.step()

    def test_a_small_one_passes_a_big_one_that_does_not_fit(self) -> None:
        lab = Lab(num_blocks=24)
        self.fill(lab)
        lab.admit(sequence(2, prompt(40, 2), 2), sequence(3, prompt(3, 3), 2))
        lab.drain()
        assert lab.left.index(3) < lab.left.index(2)

    def test_a_big_one_is_passed_only_so_often(self) -> None:
        lab = Lab(num_blocks=16, slots=8)
        lab.admit(sequence(0, prompt(8), 2))
        lab.step()
        lab.admit(sequence(1, prompt(40, 1), 20))
        for number in range(2, 80):  # there are always small ones about
            lab.admit(sequence(number, prompt(6, number), 12))
            lab.step()
        passed = lab.scheduler._waiting[0].passed if 1 not in lab.left else 0
        lab.drain()
        assert passed <= MOST_PASSED
        assert lab.left.index(1) < 40


@pytest.mark.parametrize("layout", ["gather", "flat"])
@pytest.mark.parametrize("depth", [2, 3])
def test_steps_launched_ahead_change_no_token(layout: str, depth: int) -> None:
    def run(depth: int, **changes: Any) -> dict[int, list[int]]:
        lab = Lab(depth=depth, num_blocks=24, **changes)
        lab.admit(*(sequence(i, [*prompt(4 * i), *b"!eos@7"], 9 + i) for i in range(8)))
        lab.drain()
        return lab.given

    assert run(depth, layout=layout) == run(1)


def test_a_step_ahead_of_one_that_raised_is_run_again() -> None:
    lab = Lab(depth=3, num_blocks=100)
    others = [sequence(i, prompt(6 + i, i), 10) for i in (0, 2, 3)]
    lab.admit(others[0], sequence(1, b"!raise@3", 10), *others[1:])
    lab.drain()
    assert len(lab.given[1]) == 3
    for each in others:
        assert lab.given[each.seq] == expected(each, 10)


@pytest.mark.parametrize("depth", [1, 3])
def test_one_that_waits_to_be_allowed_more_keeps_its_place_and_delays_nobody(depth: int) -> None:
    lab = Lab(depth=depth, num_blocks=100)
    held, other = sequence(0, prompt(5), 30, allowed=7), sequence(1, prompt(6, 1), 30)
    lab.admit(held, other)
    while lab.step():
        pass
    assert (len(lab.given[0]), len(lab.given[1])) == (7, 30)
    assert lab.scheduler.busy and held.slot is not None and lab.scheduler.schedule() is None
    slot, blocks = held.slot, list(held.blocks)
    held.allowed = 9
    while lab.step():
        pass
    assert len(lab.given[0]) == 9 and (held.slot, list(held.blocks)[: len(blocks)]) == (slot, blocks)
    held.allowed = 30
    lab.drain()
    assert lab.given[0] == expected(held, 30)


def test_one_that_is_held_can_be_preempted_and_dropped() -> None:
    lab = Lab(num_blocks=17)
    older, held = sequence(0, prompt(10), 40), sequence(1, prompt(20, 1), 20, allowed=3)
    lab.admit(older, held)
    while lab.step():
        pass
    assert lab.given[0] == expected(older, 40) and lab.scheduler.preemptions
    assert len(lab.given[1]) == 3
    lab.scheduler.abort(held)
    lab.drain()


def test_a_flat_step_lists_no_more_blocks_than_its_bucket_whoever_shares_them() -> None:
    lab = Lab(layout="flat", num_blocks=16, slots=4)
    lab.admit(sequence(0, prompt(36), 2))
    lab.drain()
    crowd = [sequence(i, [*prompt(35), 100 + i], 16) for i in range(1, 5)]
    lab.admit(*crowd)
    lab.drain()
    for each in crowd:
        assert lab.given[each.seq] == expected(each, 16)
    flat = [batch for batch in lab.batches if batch.step.bucket.phase == "decode"]
    assert max(sum(len(row.blocks) for row in batch.step.rows) for batch in flat) > 8
    turns = [[each.seq for each in batch.sequences] for batch in flat[2:]]
    assert {seq for turn in turns for seq in turn} == {1, 2, 3, 4}


class TestDeterministic:
    """A sequence is computed in the same shapes, whoever runs beside it and however often it starts."""

    @staticmethod
    def shapes(lab: Lab, seq: int) -> dict[int, tuple[Bucket, int]]:
        """What the sequence's tokens were computed in when they were last: by first position, bucket and count."""
        rows = [
            (row, batch.step.bucket)
            for batch in lab.batches
            for each, row in zip(batch.sequences, batch.step.rows, strict=True)
            if each.seq == seq
        ]
        return {row.start: (bucket, row.count) for row, bucket in rows}

    def alone(self, length: int, count: int) -> dict[int, tuple[Bucket, int]]:
        lab = Lab(deterministic=True)
        lab.admit(sequence(0, prompt(length), count))
        lab.drain()
        return self.shapes(lab, 0)

    @pytest.mark.parametrize("depth", [1, 3])
    def test_in_a_crowd_that_preempts_it(self, depth: int) -> None:
        lab = Lab(deterministic=True, depth=depth, num_blocks=17)
        crowd = [sequence(i, prompt(3 + 9 * i % 20), 12 + 9 * i % 30) for i in range(6)]
        lab.admit(*crowd)
        lab.drain()
        assert lab.scheduler.preemptions
        for each in crowd:
            assert lab.given[each.seq] == expected(each, each.max_new_tokens)
            ours, alone = self.shapes(lab, each.seq), self.alone(len(each.prompt), each.max_new_tokens)
            # What it lacks was found in the prefix cache.
            assert ours == {start: shape for start, shape in alone.items() if start >= min(ours)}

    def test_resumed_it_computes_what_is_known_anew_and_gives_only_what_is_not(self) -> None:
        lab = Lab(deterministic=True)
        known = expected(sequence(0, prompt(21), 30), 13)
        resumed = sequence(0, prompt(21), 30, output=list(known))
        lab.admit(resumed)
        lab.given[0].clear()
        lab.drain()
        assert [*known, *lab.given[0]] == resumed.output == expected(resumed, 30)
        assert self.shapes(lab, 0) == self.alone(21, 30)

    def test_a_known_prompt_saves_whole_chunks_and_generated_tokens_are_not_shared(self) -> None:
        lab = Lab(deterministic=True)
        first = sequence(0, prompt(22), 12)
        lab.admit(first)
        lab.drain()
        said = lab.given[0]
        lab.admit(sequence(1, prompt(22), 12), sequence(2, [*prompt(22), *said], 3))
        lab.drain()
        for seq in (1, 2):
            assert min(self.shapes(lab, seq)) == 16, "two chunks of eight are known, and 22 and more are not"
        assert self.alone(22, 12).items() >= self.shapes(lab, 1).items()

    @pytest.mark.parametrize("depth", [1, 3])
    def test_one_that_comes_out_otherwise_goes_on_from_the_tokens_that_are_known(self, depth: int) -> None:
        lab = Lab(deterministic=True, depth=depth)
        fresh = sequence(0, prompt(9), 20)
        known = [*expected(fresh, 4), 120, 120]
        resumed = sequence(1, prompt(9), 20, output=list(known))
        lab.admit(fresh, resumed)
        lab.given[1].clear()
        lab.drain()
        assert lab.given[0] == expected(fresh, 20)
        assert [*known, *lab.given[1]] == resumed.output == [*known, *expected(fresh, 20)[6:]]

    def test_every_width_gets_its_turn(self) -> None:
        lab = Lab(deterministic=True, num_blocks=40)
        lab.admit(sequence(0, prompt(40), 20), sequence(1, prompt(2), 20))
        for _ in range(60):
            lab.step()
        assert lab.given[0] and lab.given[1]
        widths = {b.step.bucket.blocks for b in lab.batches if b.step.bucket.phase == "decode"}
        assert len(widths) > 1


class Chaos(RuleBasedStateMachine):
    """Anything in any order: books stay balanced, tokens right, and it always comes to an end."""

    depth, layout, deterministic = 1, "gather", False

    def __init__(self) -> None:
        super().__init__()
        limits: dict[str, Any] = {"num_blocks": 18, "slots": 3, "layout": self.layout}
        self.lab = Lab(depth=self.depth, deterministic=self.deterministic, **limits)
        self.all: list[Sequence] = []

    @rule(
        length=st.integers(1, 40),
        alike=st.integers(0, 2),
        count=st.integers(1, 20),
        done=st.integers(0, 5),
        poison=st.integers(0, 9),
        scored=st.booleans(),
        choices=st.sampled_from([1, 1, 2, 4]),
    )
    def admit(
        self, length: int, alike: int, count: int, done: int, poison: int, scored: bool, choices: int
    ) -> None:
        words = list(b"!raise@2") if poison == 0 else prompt(length, alike)
        group = len(self.all) + 1 if choices > 1 else 0
        for choice in range(choices):
            sampling = Sampling(seed=10 * group + choice, do_sample=True)
            fresh = sequence(len(self.all), words, count, sampling=sampling, group=group)
            fresh.prompt_logprobs = scored and not choice
            fresh.output += expected(fresh, min(done, count - 1) if choice % 2 == 0 else 0)
            self.lab.admit(fresh)
            self.all.append(fresh)

    @rule(count=st.integers(1, 12))
    def step(self, count: int) -> None:
        for _ in range(count):
            busy = self.lab.scheduler.busy
            stepped = self.lab.step() is not None
            assert stepped == busy or (busy and any(each.held for each in self.alive()))
            self.lab.check_books()

    @precondition(lambda self: self.alive())
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.alive()))
        self.lab.scheduler.abort(each)
        self.lab.left.append(each.seq)

    @precondition(lambda self: self.alive())
    @rule(data=st.data(), more=st.integers(0, 5))
    def allow(self, data: st.DataObject, more: int) -> None:
        each = data.draw(st.sampled_from(self.alive()))
        each.allowed = len(each.output) + each.unread + more

    @invariant()
    def nobody_goes_beyond_what_is_allowed(self) -> None:
        for each in self.all:
            assert len(each.output) + each.unread <= each.allowed

    def alive(self) -> list[Sequence]:
        return [each for each in self.all if each.seq not in self.lab.left]

    @invariant()
    def tokens_are_right(self) -> None:
        for each in self.all:
            given = self.lab.given[each.seq]
            assert given == expected(each, len(given))

    def teardown(self) -> None:
        unfinished = self.alive()
        for each in unfinished:
            each.allowed = NO_BOUND
        self.lab.drain()
        for each in unfinished:
            poisoned = each.prompt == tuple(b"!raise@2")
            assert poisoned or len(self.lab.given[each.seq]) == each.max_new_tokens


class Ahead(Chaos):
    """The same with steps launched ahead."""

    depth = 2


class FlatAhead(Chaos):
    """The same with blocks in one list."""

    depth, layout = 3, "flat"


class Deterministic(Chaos):
    """The same where known tokens are computed anew."""

    depth, deterministic = 2, True


TestChaos, TestAhead, TestFlatAhead = Chaos.TestCase, Ahead.TestCase, FlatAhead.TestCase
TestDeterministicChaos = Deterministic.TestCase
for _machine in (TestChaos, TestAhead, TestFlatAhead, TestDeterministicChaos):
    _machine.settings = settings(
        max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
