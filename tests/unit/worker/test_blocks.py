"""The pool of blocks: nothing leaks, nothing is freed twice, nothing that two hold or the cache knows is written."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from models.blocks import BlockPool
from models.prefix import KEY_BYTES, block_key, root_key


def keys(count: int, salt: int = 0) -> list[bytes]:
    return [bytes([salt, number]) for number in range(count)]


class TestPool:
    def test_scratch_is_never_handed_out(self) -> None:
        pool = BlockPool(5, 16)
        assert sorted(pool.allocate(4)) == [1, 2, 3, 4]
        assert not pool.can_allocate(1)

    def test_more_than_there_is_is_refused_with_a_sentence(self) -> None:
        with pytest.raises(ValueError, match="5 KV blocks wanted, 4 are free"):
            BlockPool(5, 16).allocate(5)

    def test_a_block_freed_twice_or_never_held_is_found_out(self) -> None:
        pool = BlockPool(5, 16)
        blocks = pool.allocate(2)
        pool.free(blocks)
        for wrong in (blocks[:1], [0], [99]):
            with pytest.raises(ValueError, match="nobody holds it"):
                pool.free(wrong)
        with pytest.raises(ValueError, match="its content is gone"):
            pool.share(blocks)

    def test_what_was_published_is_found_after_it_was_freed(self) -> None:
        pool = BlockPool(9, 16)
        blocks = pool.allocate(3)
        for block, key in zip(blocks, keys(3), strict=True):
            pool.publish(block, key)
        pool.free(blocks)
        assert pool.free_blocks == 8
        assert pool.find(keys(5)) == blocks
        assert pool.find([b"unknown", *keys(3)]) == []

    def test_the_least_recently_used_goes_first_and_of_a_sequence_its_end(self) -> None:
        pool = BlockPool(5, 16)
        old, new = pool.allocate(2), pool.allocate(2)
        for blocks, salt in ((old, 0), (new, 1)):
            for block, key in zip(blocks, keys(2, salt), strict=True):
                pool.publish(block, key)
            pool.free(blocks)
        assert pool.allocate(1) == [old[1]]
        assert pool.find(keys(2, 0)) == [old[0]]
        assert pool.allocate(2) == [old[0], new[1]]
        assert pool.find(keys(2, 1)) == [new[0]]

    def test_found_blocks_are_not_counted_as_room_for_new_ones(self) -> None:
        pool = BlockPool(4, 16)
        blocks = pool.allocate(2)
        for block, key in zip(blocks, keys(2), strict=True):
            pool.publish(block, key)
        pool.free(blocks)
        found = pool.find(keys(2))
        assert pool.can_allocate(3)
        assert pool.can_allocate(1, found)
        assert not pool.can_allocate(2, found)

    def test_a_shared_or_published_block_is_not_writable(self) -> None:
        pool = BlockPool(4, 16)
        first, second = pool.allocate(2)
        assert pool.writable(first)
        pool.share([first])
        assert not pool.writable(first)
        pool.free([first])
        assert pool.writable(first)
        pool.publish(second, b"key")
        assert not pool.writable(second)

    def test_of_two_equal_blocks_one_is_found_and_the_other_is_simply_free(self) -> None:
        pool = BlockPool(4, 16)
        first, second = pool.allocate(2)
        pool.publish(first, b"key")
        pool.publish(second, b"key")
        assert pool.find([b"key"]) == [first]
        pool.free([second, first])
        assert pool.find([b"key"]) == [first]
        assert pool.free_blocks == 3

    def test_forget_finds_nothing_more_and_loses_nothing(self) -> None:
        pool = BlockPool(4, 16)
        first, second = pool.allocate(2)
        pool.publish(first, b"a")
        pool.publish(second, b"b")
        pool.free([first])
        pool.forget()
        assert pool.find([b"a"]) == pool.find([b"b"]) == []
        pool.free([second])
        assert pool.free_blocks == 3


class TestKeys:
    def test_a_key_depends_on_everything_before_it(self) -> None:
        root = root_key("model", "")
        first, other = block_key(root, [1, 2]), block_key(root, [1, 3])
        assert len(first) == KEY_BYTES
        assert first != other
        assert block_key(first, [7, 8]) != block_key(other, [7, 8])
        assert block_key(first, [7, 8]) == block_key(block_key(root, [1, 2]), [7, 8])

    def test_salt_images_and_the_cut_between_parts_count(self) -> None:
        assert root_key("ab", "c") != root_key("a", "bc")
        root = root_key("model", "ann")
        assert root != root_key("model", "bob")
        assert block_key(root, [1]) != block_key(root, [1], images=[b"cat"])
        assert block_key(root, [1], images=[b"cat", b"s"]) != block_key(root, [1], images=[b"cats"])


SIZE = 2


class Holder:
    """A sequence that owns blocks, and what it wrote to them."""

    def __init__(self, blocks: list[int], tokens: list[int]) -> None:
        self.blocks, self.tokens = blocks, tokens


class Pool(RuleBasedStateMachine):
    """Allocate, append, fork, free, evict, preempt in any order, beside a model that knows what each block holds."""

    @initialize(blocks=st.integers(2, 9))
    def begin(self, blocks: int) -> None:
        self.blocks = blocks
        self.pool = BlockPool(blocks, SIZE)
        self.holders: list[Holder] = []
        self.content: dict[int, tuple[int, ...]] = {}
        """Block → all tokens up to its end: what its K/V depends on."""

    def key_of(self, tokens: list[int]) -> bytes:
        return repr(tokens).encode()

    def write(self, holder: Holder, position: int) -> None:
        block = holder.blocks[position // SIZE]
        assert self.pool.writable(block), "somebody else would read this"
        self.content[block] = tuple(holder.tokens[: position + 1])

    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=6))
    def start(self, tokens: list[int]) -> None:
        """Prefill, from the cache as far as it goes."""
        full = (len(tokens) - 1) // SIZE
        found = self.pool.find(self.key_of(tokens[: (i + 1) * SIZE]) for i in range(full))
        need = -(-len(tokens) // SIZE) - len(found)
        if not self.pool.can_allocate(need, found):
            return
        self.pool.share(found)
        holder = Holder([*found, *self.pool.allocate(need)], tokens)
        for index, block in enumerate(found):
            assert self.content[block] == tuple(tokens[: (index + 1) * SIZE]), "it holds something else"
        self.holders.append(holder)
        for position in range(len(found) * SIZE, len(tokens)):
            self.write(holder, position)
        self.publish(holder)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), token=st.integers(0, 1))
    def append(self, data: st.DataObject, token: int) -> None:
        """Decode: a new block where one begins; a shared one is copied before it is written."""
        holder = data.draw(st.sampled_from(self.holders))
        position = len(holder.tokens)
        fresh = position % SIZE == 0
        if fresh or not self.pool.writable(holder.blocks[-1]):
            if not self.pool.can_allocate(1):
                return
            (block,) = self.pool.allocate(1)
            if fresh:
                holder.blocks.append(block)
            else:
                self.content[block] = self.content[holder.blocks[-1]]
                self.pool.free([holder.blocks[-1]])
                holder.blocks[-1] = block
        holder.tokens = [*holder.tokens, token]
        self.write(holder, position)
        self.publish(holder)

    def publish(self, holder: Holder) -> None:
        for index in range(len(holder.tokens) // SIZE):
            self.pool.publish(holder.blocks[index], self.key_of(holder.tokens[: (index + 1) * SIZE]))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        self.pool.share(holder.blocks)
        self.holders.append(Holder(list(holder.blocks), list(holder.tokens)))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """Ended or preempted: the pool knows no difference."""
        holder = data.draw(st.sampled_from(self.holders))
        self.holders.remove(holder)
        self.pool.free(holder.blocks)

    @rule()
    def forget(self) -> None:
        self.pool.forget()

    @invariant()
    def every_block_is_somewhere_once(self) -> None:
        held = {block for holder in self.holders for block in holder.blocks}
        assert len(held) + self.pool.free_blocks == self.blocks - 1
        assert 0 not in held

    @invariant()
    def every_holder_reads_what_it_wrote(self) -> None:
        for holder in self.holders:
            for index, block in enumerate(holder.blocks):
                end = min(len(holder.tokens), (index + 1) * SIZE)
                assert self.content[block] == tuple(holder.tokens[:end])

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for holder in self.holders:
                self.pool.free(holder.blocks)
            assert self.pool.can_allocate(self.blocks - 1), "somebody can always have it all"


TestStates = Pool.TestCase
TestStates.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
