"""The pool of KV blocks, as block numbers: who holds what; the tensors are elsewhere."""

from __future__ import annotations

from collections.abc import Iterable


class BlockPool:
    """Blocks 1 … num_blocks - 1, of `block_size` tokens; block 0, padding's scratch, is never handed out."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, 0, -1))
        self._held: set[int] = set()

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def can_allocate(self, count: int) -> bool:
        """Whether `count` blocks are free."""
        return count <= len(self._free)

    def allocate(self, count: int) -> list[int]:
        """`count` blocks, the caller's until freed; ask `can_allocate` first, else ValueError."""
        if not self.can_allocate(count):
            raise ValueError(f"{count} KV blocks wanted, {len(self._free)} are free: ask can_allocate first")
        blocks = [self._free.pop() for _ in range(count)]
        self._held.update(blocks)
        return blocks

    def free(self, blocks: Iterable[int]) -> None:
        """Take the blocks back; ValueError for one that is not held, such as one freed twice."""
        for block in blocks:
            if block not in self._held:
                raise ValueError(f"KV block {block} is freed, but nobody holds it")
            self._held.remove(block)
            self._free.append(block)
