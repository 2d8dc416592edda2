"""The bytes that a token stands for, in each kind of vocabulary."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from wire.tokenizer import Tokenizer


def made(backend: Backend) -> Tokenizer:
    backend.add_tokens([AddedToken("<tool_call>", special=False)])
    return Tokenizer.from_files({"tokenizer.json": backend.to_str().encode()})


def test_byte_level() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE(vocab={letter: id for id, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = made(backend)
    text = " größe 🙂\x00\xad"
    assert b"".join(map(tokenizer.token_bytes, tokenizer.encode(text))) == text.encode()
    assert {tokenizer.token_bytes(id) for id in range(256)} == {bytes([byte]) for byte in range(256)}
    assert tokenizer.token_bytes(256) == b"<tool_call>" and tokenizer.token_bytes(9999) == b""


def test_byte_fallback() -> None:
    vocab = {"<unk>": 0, "▁a": 1, "b": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    backend = Backend(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = made(backend)
    assert [tokenizer.token_bytes(id) for id in (1, 2, 3 + 0xE2)] == [b" a", b"b", b"\xe2"]


def test_words() -> None:
    backend = Backend(models.WordLevel({"<unk>": 0, "größe": 1}, unk_token="<unk>"))
    assert made(backend).token_bytes(1) == "größe".encode()
