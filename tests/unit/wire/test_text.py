"""Text as readers see it: whole characters, stop strings, ends, and the same again after a replay."""

from __future__ import annotations

import json
import os
import random
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tests.support.memory import resident
from wire.detokenizer import Detokenizer
from wire.job import SamplingParams
from wire.stop import StopMatcher
from wire.text import TextStream
from wire.tokenizer import Tokenizer, TokenizerError

TEXT = "Hello  world, naïve café! 日本語 text, 👩‍👩‍👧 family; <b>tags</b>\n\tUser: ok Ünïcödé 한국어."
EOS = 2


def _files(backend: tokenizers.Tokenizer, **config: object) -> dict[str, bytes]:
    return {"tokenizer.json": backend.to_str().encode(), "tokenizer_config.json": json.dumps(config).encode()}


def _byte_level() -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["Hello world, text tags User ok family"] * 20, trainer)
    return Tokenizer.from_files(_files(backend, bos_token="<s>", eos_token={"content": "</s>"}))


def _byte_fallback() -> Tokenizer:
    words = ["▁", "▁Hello", "▁world", "▁text", "User", ":", ",", "a", "b", "c", "e", "f", "l", "o", "ï", "!"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab={t: i for i, t in enumerate(tokens)},
            merges=[],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return Tokenizer.from_files(_files(backend))


TOKENIZERS = {"byte level": _byte_level(), "byte fallback": _byte_fallback()}
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


@each_tokenizer
def test_pieces_join_to_the_whole_text_wherever_the_prompt_was_cut(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(TEXT)
    for cut in range(len(ids) + 1):
        detokenizer = Detokenizer(tokenizer, ids[:cut])
        pieces = [detokenizer.push(id) for id in ids[cut:]] + [detokenizer.flush()]
        assert not any("\ufffd" in piece for piece in pieces)
        prompts = (tokenizer.decode(ids[: max(0, cut - inside)]) for inside in range(4))
        prompt = next(text for text in prompts if not text.endswith("\ufffd"))
        assert prompt + "".join(pieces) == tokenizer.decode(ids)


def test_invalid_bytes_are_released_and_lose_no_later_text() -> None:
    tokenizer = TOKENIZERS["byte level"]
    rng = random.Random(7)
    for _ in range(200):
        ids = [rng.randrange(3, tokenizer.vocab_size) for _ in range(40)]
        detokenizer = Detokenizer(tokenizer)
        text = "".join([detokenizer.push(id) for id in ids]) + detokenizer.flush()
        assert text.replace("\ufffd", "") == tokenizer.decode(ids).replace("\ufffd", "")


def test_an_endless_run_of_broken_bytes_is_not_held_for_ever() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    detokenizer = Detokenizer(tokenizer)
    broken = 3 + 0xC3
    assert any(detokenizer.push(broken) for _ in range(20))


def test_special_tokens_have_no_text_and_break_no_character() -> None:
    tokenizer = TOKENIZERS["byte level"]
    first, *rest = tokenizer.encode("é")
    detokenizer = Detokenizer(tokenizer)
    assert "".join(detokenizer.push(id) for id in (first, EOS, *rest)) == "é"
    assert tokenizer.token_text(EOS) == "</s>"
    assert tokenizer.is_special(EOS)


def test_unknown_ids_have_no_text() -> None:
    assert Detokenizer(TOKENIZERS["byte level"]).push(10**6) == ""


@given(
    text=st.text("ab<|>", max_size=30),
    stops=st.lists(st.text("ab<|>", min_size=1, max_size=4), max_size=16),
    include=st.booleans(),
    cuts=st.lists(st.integers(0, 30), max_size=12),
    passed=st.integers(0, 6),
)
@settings(max_examples=200, deadline=None)
def test_stop_strings_are_found_however_the_text_is_cut(
    text: str, stops: list[str], include: bool, cuts: list[int], passed: int
) -> None:
    """However many pieces come before the one that may end it: stop strings that end in those are passed over."""
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    matcher, shown, stopped = StopMatcher(stops, include), "", False
    for number, (start, end) in enumerate(pairwise(edges)):
        released, stopped = matcher.feed(text[start:end], may_end=number >= passed)
        shown += released
        if stopped:
            break
    shown += matcher.flush()
    least = edges[min(passed, len(edges) - 1)]
    at = [(text.find(stop, max(0, least + 1 - len(stop))), stop) for stop in stops]
    ends = [(start + len(stop), start) for start, stop in at if start >= 0]
    assert stopped == bool(ends)
    end, start = min(ends, default=(len(text), len(text)))
    assert shown == text[: end if include else start]


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(["User:"], include=False)
    assert matcher.feed("hi Us") == ("hi ", False)
    assert matcher.feed("e") == ("", False)
    assert matcher.feed("d car") == ("Used car", False)
    assert StopMatcher(["User:"], include=True).feed("hi Us") == ("hi Us", False)


def _stream(**params: Any) -> TextStream:
    known = SamplingParams(**{"max_new_tokens": 100, "seed": 0, **params})
    return TextStream(TOKENIZERS["byte level"], [], known, {EOS})


def _ids(text: str) -> list[int]:
    return TOKENIZERS["byte level"].encode(text)


def test_ends_by_length_before_end_of_sequence_before_stop_string() -> None:
    assert _stream(max_new_tokens=1).push(EOS).finish == "length"
    assert _stream(max_new_tokens=1, stop=("a",)).push(_ids("a")[0]).finish == "length"
    assert _stream().push(EOS) == ("", True, "eos_token")
    assert _stream(stop=("a",)).push(_ids("a")[0]) == ("a", False, "stop_sequence")
    assert _stream(ignore_eos=True).push(EOS) == ("", True, None)
    assert _stream(stop_token_ids=(EOS,)).push(EOS).finish == "eos_token"
    assert _stream(stop_token_ids=(EOS,), ignore_eos=True).push(EOS) == ("", True, "stop_sequence")
    assert _stream(stop_token_ids=_ids("a"), max_new_tokens=1).push(_ids("a")[0]).finish == "length"


@pytest.mark.parametrize(("include", "text"), [(True, "bye <en!"), (False, "bye <en")])
def test_a_stop_token_ends_the_text_and_is_its_end_if_that_is_wanted(include: bool, text: str) -> None:
    stream = _stream(stop=("<end>",), stop_token_ids=_ids("!"), include_stop=include)
    pieces = [stream.push(id) for id in _ids("bye <en!")]
    assert (stream.text, pieces[-1].finish) == (text, "stop_sequence")
    assert not any(piece.finish for piece in pieces[:-1])


def test_a_stop_token_within_a_character_leaves_no_half_of_it() -> None:
    first, second = _ids("é")
    for include, text in ((True, "\ufffd"), (False, "")):
        stream = _stream(stop_token_ids=(first,), include_stop=include)
        assert stream.push(first) == (text, False, "stop_sequence")
    stream = _stream(stop_token_ids=(second,), include_stop=False)
    assert [stream.push(id) for id in (first, second)][-1] == ("\ufffd", False, "stop_sequence")


def test_so_many_tokens_come_before_the_one_that_may_end_it() -> None:
    ids = _ids("a-a-a-a")
    assert len(ids) == 7
    for least in range(7):
        stream = _stream(stop=("a",), min_new_tokens=least)
        stream.replay(ids)
        assert (stream.count, stream.finish) == (least + 1 + least % 2, "stop_sequence")


@each_tokenizer
@given(
    text=st.text("ab éï👩日", max_size=12),
    stops=st.lists(st.text("ab éï👩日", min_size=1, max_size=3), max_size=16),
    include=st.booleans(),
    resumed=st.integers(0, 12),
)
@settings(max_examples=100, deadline=None)
def test_a_stop_is_found_with_the_token_that_completes_it_and_from_any_resume_point(
    name: str, text: str, stops: list[str], include: bool, resumed: int
) -> None:
    """Inside characters of several tokens, too: until a character is whole, it is no text."""
    tokenizer = TOKENIZERS[name]
    prompt, ids = tokenizer.encode("a:"), tokenizer.encode("a:" + text)
    ids = ids[len(prompt) :]
    before = len(tokenizer.decode(prompt))
    texts = [tokenizer.decode([*prompt, *ids[:count]])[before:] for count in range(len(ids) + 1)]
    wholes = [each.rstrip("\ufffd") for each in texts]
    ends = [count for count, each in enumerate(wholes) if any(stop in each for stop in stops)]
    params = SamplingParams(max_new_tokens=99, seed=0, stop=tuple(stops), include_stop=include)
    first = TextStream(tokenizer, prompt, params, {EOS})
    at = first.replay(ids[:resumed]) and first.count
    stream = TextStream(tokenizer, prompt, params, {EOS})
    stream.replay(ids[:resumed])
    for id in ids[resumed:] if stream.finish is None else ():
        if stream.push(id).finish:
            break
    assert (stream.finish, stream.count) == (("stop_sequence", ends[0]) if ends else (None, len(ids)))
    assert at is None or at == ends[0]
    if ends:
        whole = wholes[ends[0]]
        end, start = min((whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole)
        assert stream.text == whole[: end if include else start]


def test_what_was_held_is_released_at_the_end() -> None:
    stream = _stream(stop=("<end>",), include_stop=False)
    for id in [*_ids("bye <en"), EOS]:
        last = stream.push(id)
    assert (stream.text, last.finish) == ("bye <en", "eos_token")
    half = _stream(max_new_tokens=1)
    assert half.push(_ids("é")[0]).text == "\ufffd"


@pytest.mark.parametrize("include", [True, False])
def test_a_replay_continues_as_if_nothing_had_happened(include: bool) -> None:
    ids = _ids(TEXT + " <end> and more")
    whole = _stream(stop=("<end>",), include_stop=include)
    pieces = []
    for id in ids:
        pieces.append(whole.push(id))
        if whole.finish:
            break
    for cut in range(len(pieces)):
        resumed = _stream(stop=("<end>",), include_stop=include)
        assert resumed.replay(ids[:cut]) is None
        assert [resumed.push(id) for id in ids[cut : len(pieces)]] == pieces[cut:]
        assert resumed.text == whole.text
    again = _stream(stop=("<end>",), include_stop=include)
    assert again.replay(ids) == "stop_sequence"
    assert again.text == whole.text


def test_begin_tokens_are_added_as_the_model_expects() -> None:
    tokenizer = TOKENIZERS["byte fallback"]
    assert tokenizer.encode("Hello")[0] == 1
    assert 1 not in tokenizer.encode("Hello", add_special_tokens=False)
    backend = tokenizers.Tokenizer.from_str(_byte_level()._backend.to_str())
    names = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
    both = Tokenizer.from_files(_files(backend, add_eos_token=True, **names))
    assert both.encode("Hello")[0] == 1
    assert both.encode("Hello")[-1] == EOS
    neither = Tokenizer.from_files(_files(backend, add_bos_token=False, **names))
    assert neither.encode("Hello")[0] != 1


def test_tokens_known_to_the_configuration_alone_are_added() -> None:
    backend = tokenizers.Tokenizer.from_str(_byte_level()._backend.to_str())
    id = backend.get_vocab_size()
    entry = {
        "content": "<|turn|>",
        "special": True,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
    }
    tokenizer = Tokenizer.from_files(_files(backend, added_tokens_decoder={str(id): entry}))
    assert tokenizer.encode("a<|turn|>")[-1] == id
    assert tokenizer.is_special(id)


def test_broken_files_are_refused_with_a_sentence(tmp_path: object) -> None:
    with pytest.raises(TokenizerError, match="holds no tokenizer"):
        Tokenizer.from_folder(str(tmp_path))
    with pytest.raises(TokenizerError, match="cannot be read"):
        Tokenizer.from_files({"tokenizer.json": b"{}"})
    with pytest.raises(TokenizerError, match="lack"):
        Tokenizer.from_files({})


def test_a_tokenizer_keeps_few_of_the_words_it_has_seen() -> None:
    """By default 10,000 in each thread that ever used it: a gateway would grow by hundreds of MB."""
    tokenizer, letters = _byte_level(), str.maketrans("0123456789", "abcdefghij")
    for number in range(2_000):
        tokenizer.encode(f"{number:0100}".translate(letters))
    before = resident(os.getpid())
    for number in range(2_000, 10_000):
        tokenizer.encode(f"{number:0100}".translate(letters))
    assert resident(os.getpid()) - before < 3, "MB"
