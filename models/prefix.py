"""The keys of full KV blocks: two blocks have one key only if their K/V is the same, whoever made them.

A key is BLAKE2b-128 over its parent's key and the block's tokens; the first parent stands for all else that K/V
depends on. It is cryptographic, because a collision would show one user another's text (CVE-2025-25183).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

KEY_BYTES = 16


def root_key(*parts: str) -> bytes:
    """The parent of a sequence's first block, from what its K/V depends on besides tokens.

    Model, revision, KV dtype, adapter, and the tenant's salt: different salts never share a block.
    """
    digest = blake2b(digest_size=KEY_BYTES, person=b"sagrada root")
    for part in parts:
        encoded = part.encode()
        digest.update(struct.pack("<I", len(encoded)) + encoded)  # lengths, or ("ab", "c") were ("a", "bc")
    return digest.digest()


def block_key(parent: bytes, ids: Sequence[int], images: Sequence[bytes] = ()) -> bytes:
    """The key of the block that holds these tokens after the parent's; `images`: hashes of those that begin in it."""
    digest = blake2b(parent, digest_size=KEY_BYTES, person=b"sagrada block")
    digest.update(struct.pack(f"<{len(ids)}I", *ids))
    for image in images:
        digest.update(struct.pack("<I", len(image)) + image)
    return digest.digest()
