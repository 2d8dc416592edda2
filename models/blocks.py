"""The pool of KV blocks, as block numbers: who holds what, and which full blocks can be found again by their key.

A block is *held* (one reference or more), *cached* (nobody holds it, but its key finds it: evicted when room is
needed, the least recently used first) or *free*. The tensors are elsewhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence


class BlockPool:
    """Blocks 1 … num_blocks - 1, of `block_size` tokens; block 0, padding's scratch, is never handed out."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, 0, -1))
        self._references: dict[int, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._key_of: dict[int, bytes] = {}
        self._by_key: dict[bytes, int] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds, those included whose content could still be found."""
        return len(self._free) + len(self._cached)

    def can_allocate(self, count: int, found: Sequence[int] = ()) -> bool:
        """Whether `count` new blocks can be had while `found` ones are taken from the cache."""
        return count <= self.free_blocks - sum(block in self._cached for block in found)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks of unknown content, the caller's until freed; ask `can_allocate` first, else ValueError."""
        if not self.can_allocate(count):
            raise ValueError(f"{count} KV blocks wanted, {self.free_blocks} are free: ask can_allocate first")
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(count)]
        self._references.update(dict.fromkeys(blocks, 1))
        return blocks

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks of the longest run of keys that are all known; `share` them before anything else happens."""
        found = []
        for key in keys:
            if (block := self._by_key.get(key)) is None:
                break
            found.append(block)
        return found

    def share(self, blocks: Iterable[int]) -> None:
        """Hold these blocks once more; ValueError for one that is neither held nor cached."""
        for block in blocks:
            if block in self._cached:
                del self._cached[block]
                self._references[block] = 1
            elif block in self._references:
                self._references[block] += 1
            else:
                raise ValueError(f"KV block {block} is shared, but its content is gone: share what was found")

    def publish(self, block: int, key: bytes) -> None:
        """The held block is full and its K/V is final: it can be found from now on, unless an equal one can."""
        if block not in self._references:
            raise ValueError(f"KV block {block} is published, but nobody holds it")
        if block not in self._key_of and key not in self._by_key:
            self._key_of[block] = key
            self._by_key[key] = block

    def writable(self, block: int) -> bool:
        """Whether its holder may write to it: one that others hold, or can find, never changes."""
        return self._references.get(block) == 1 and block not in self._key_of

    def free(self, blocks: Sequence[int]) -> None:
        """Drop one reference of each; ValueError for one that is not held, such as one freed twice.

        Of what can be found the end of a sequence is forgotten first: without its beginning it is of no use.
        """
        for block in reversed(blocks):
            if block not in self._references:
                raise ValueError(f"KV block {block} is freed, but nobody holds it")
            self._references[block] -= 1
            if self._references[block]:
                continue
            del self._references[block]
            if block in self._key_of:
                self._cached[block] = None
            else:
                self._free.append(block)

    def forget(self) -> None:
        """Find nothing from now on: what is in the blocks cannot be trusted."""
        self._free.extend(self._cached)
        self._cached.clear()
        self._key_of.clear()
        self._by_key.clear()

    def _evict(self) -> int:
        """The cached block that was used longest ago, its key forgotten."""
        block, _ = self._cached.popitem(last=False)
        del self._by_key[self._key_of.pop(block)]
        return block
