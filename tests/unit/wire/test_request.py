"""TGI's checks, in TGI's order and words; ours; and what is made of a request that passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from wire.errors import TooLong, ValidationError
from wire.job import Job
from wire.request import (
    Bounds,
    GenerateRequest,
    MalformedRequest,
    RequestLimits,
    fit,
    from_call,
    from_mapping,
    parse,
    resolve,
    to_job,
)

LIMITS = RequestLimits(max_input_tokens=100, max_total_tokens=200)


def words(text: str, add_special_tokens: bool = True) -> Sequence[int]:
    return range(len(text.split()))


def request(inputs: str = "a b c", /, **parameters: Any) -> GenerateRequest:
    return from_mapping({"inputs": inputs, "parameters": parameters})


def job_of(asked: GenerateRequest, limits: RequestLimits = LIMITS, **options: Any) -> Job:
    return to_job(asked, limits, job_id="j", model="m", **{"encode": words, **options})


def refusal(asked: GenerateRequest, **options: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        job_of(asked, **options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"best_of": 3}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"temperature": -1}, "`temperature` must be strictly positive"),
        ({"temperature": 1e-46}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.01}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"frequency_penalty": -2.01}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_p": 1 - 1e-9}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"top_k": -1}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, "`seed` must not be set when `best_of` > 1"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 100. Given: 0"),
        ({"truncate": 101}, "`truncate` must be strictly positive and less than 100. Given: 101"),
        (
            {"max_new_tokens": 198},
            "`inputs` tokens + `max_new_tokens` must be <= 200. "
            "Given: 3 `inputs` tokens and 198 `max_new_tokens`",
        ),
    ],
)
def test_tgi_refuses_in_these_words(parameters: dict[str, Any], sentence: str) -> None:
    assert refusal(request(**parameters)) == sentence


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"best_of": 2}, "`best_of` != 1 is not supported when streaming tokens"),
        ({"best_of": 0}, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_a_stream_has_rules_of_its_own(parameters: dict[str, Any], sentence: str) -> None:
    assert refusal(request(**parameters), stream=True) == sentence


@pytest.mark.parametrize(
    "broken",
    [
        {"temperature": 0, "top_p": 2, "inputs": ""},
        {"repetition_penalty": 0, "frequency_penalty": 9},
        {"top_p": 2, "typical_p": 2, "top_k": 0},
        {"top_k": 0, "max_new_tokens": 0},
        {"max_new_tokens": 0, "stop": list("abcde")},
        {"stop": list("abcde"), "top_n_tokens": 9},
        {"top_n_tokens": 9, "inputs": ""},
        {"inputs": "", "truncate": 0},
        {"truncate": 0, "inputs": "a " * 101},
    ],
)
def test_the_first_of_two_errors_is_tgis_first(broken: dict[str, Any]) -> None:
    both = dict(broken)
    inputs = both.pop("inputs", "a")
    first = next(iter(broken))
    sentence = refusal(request(inputs, **both))
    assert f"`{first}`" in sentence


def test_an_empty_prompt_and_a_long_one_are_refused() -> None:
    assert refusal(request("")) == "`inputs` cannot be empty"
    assert refusal(request("a " * 101)) == "`inputs` must have less than 100 tokens. Given: 101"
    assert "tokens and 50 `max_new_tokens`" in refusal(request("a " * 160, max_new_tokens=50))
    assert "3201 bytes" in refusal(request("a" * 3201)), "not even tokenised"


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty", "frequency_penalty", "top_p", "min_p"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39])
def test_what_json_cannot_say_and_msgpack_can_is_refused(name: str, value: float) -> None:
    assert f"`{name}`" in refusal(request(**{name: value}))


def test_what_is_not_served_yet_is_refused_not_ignored() -> None:
    assert refusal(request(adapter_id="x")) == "`adapter_id` is not supported yet: leave it out"


@pytest.mark.parametrize(
    ("bias", "sentence"),
    [
        ({"x": 1.0}, "`logit_bias` must have token ids as its keys. Given: 'x'"),
        ({"-1": 1.0}, "`logit_bias` must have token ids as its keys. Given: '-1'"),
        ({"٣": 1.0}, "`logit_bias` must have token ids as its keys. Given: '٣'"),
        ({"1": 101}, "`logit_bias` values must be >= -100 and <= 100. Given: 101.0"),
        ({"1": float("nan")}, "`logit_bias` values must be >= -100 and <= 100. Given: nan"),
        ({"1": 1, "01": 1}, "`logit_bias` names a token id twice"),
        ({str(id): 1 for id in range(1025)}, "`logit_bias` supports up to 1024 token ids. Given: 1025"),
    ],
)
def test_a_bias_is_of_token_ids(bias: dict[str, float], sentence: str) -> None:
    assert refusal(request(logit_bias=bias)) == sentence


def test_a_prompt_may_be_token_ids_as_they_stand() -> None:
    asked = from_mapping({"inputs": [5, 6, 7], "parameters": {"max_new_tokens": 4, "truncate": 2}})
    assert (job_of(asked).ids, job_of(asked, encode=None).ids) == ((6, 7), (6, 7))
    with pytest.raises(TooLong, match="must have less than 100 tokens. Given: 101"):
        job_of(from_mapping({"inputs": [1] * 101, "parameters": {"max_new_tokens": 4}}))
    assert refusal(from_mapping({"inputs": []})) == "`inputs` cannot be empty"


def test_a_prompt_may_hold_its_special_tokens_already() -> None:
    def encode(text: str, add_special_tokens: bool) -> list[int]:
        return [0] * add_special_tokens + [1] * len(text)

    bare = request(add_special_tokens=False)
    assert job_of(request(), encode=encode).ids == (0, 1, 1, 1, 1, 1)
    assert job_of(bare, encode=encode).ids == (1, 1, 1, 1, 1)
    assert not job_of(bare, encode=None).add_special_tokens, "the worker is told"


def test_who_asks_too_much_is_told_how_much() -> None:
    with pytest.raises(TooLong) as told:
        job_of(request("a " * 90, max_new_tokens=150))
    assert (told.value.prompt_tokens, told.value.new_tokens, told.value.most) == (90, 150, 200)


def test_a_watermark_is_refused_where_there_is_none() -> None:
    assert "WATERMARK_GAMMA" in refusal(request(watermark=True))
    marking = RequestLimits(max_input_tokens=100, max_total_tokens=200, watermark=True)
    assert job_of(request(watermark=True), marking).params.watermark
    assert not job_of(request(), marking).params.watermark


def test_neutral_values_of_what_is_not_served_are_fine() -> None:
    job_of(request(best_of=1, top_n_tokens=0, watermark=False, grammar=None, adapter_id=None))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"priority": 10}, "priority"),
        ({"priority": -1}, "priority"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": 1e9}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"parameters": {"presence_penalty": 3}}, "presence_penalty"),
        ({"parameters": {"min_p": 1}}, "min_p"),
        ({"parameters": {"min_new_tokens": 2, "max_new_tokens": 1}}, "min_new_tokens"),
        ({"parameters": {"stop": [""]}}, "stop"),
        ({"parameters": {"stop": ["x" * 1025]}}, "stop"),
        ({"parameters": {"stop_token_ids": list(range(129))}}, "stop_token_ids"),
        ({"parameters": {"seed": 2**64}}, "seed"),
        ({"parameters": {"seed": 10**30}}, "seed"),
    ],
)
def test_our_own_fields_have_limits(fields: dict[str, Any], name: str) -> None:
    assert f"`{name}`" in refusal(from_mapping({"inputs": "a", **fields}))


def test_without_parameters_tgi_samples_and_with_empty_ones_it_is_greedy() -> None:
    assert job_of(parse(b'{"inputs":"a"}')).params.do_sample
    assert not job_of(parse(b'{"inputs":"a","parameters":{}}')).params.do_sample


@pytest.mark.parametrize("given", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"typical_p": 0.5}])
def test_what_only_sampling_uses_switches_it_on(given: dict[str, Any]) -> None:
    assert resolve(request(**given), LIMITS).do_sample


@pytest.mark.parametrize(
    "given", [{}, {"repetition_penalty": 1.5}, {"seed": 3}, {"min_p": 0.1}, {"max_new_tokens": 3}]
)
def test_what_greedy_uses_does_not(given: dict[str, Any]) -> None:
    assert not resolve(request(**given), LIMITS).do_sample


def test_every_parameter_arrives() -> None:
    given: dict[str, Any] = {
        "max_new_tokens": 5,
        "seed": 2**64 - 1,
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.5,
        "typical_p": 0.25,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "frequency_penalty": -2.0,
        "presence_penalty": 2.0,
        "stop": ["x", "y"],
        "ignore_eos": True,
        "stop_token_ids": [7, 3, 7],
        "include_stop": False,
        "min_new_tokens": 5,
        "n": 3,
        "watermark": True,
        "top_n_tokens": 5,
        "decoder_input_details": True,
        "logit_bias": {"7": -100.0, "9": 0.5},
    }
    limits = RequestLimits(max_input_tokens=100, max_total_tokens=200, watermark=True)
    params = msgspec.structs.asdict(resolve(request(**given), limits))
    assert params == {
        **{
            name: value
            for name, value in given.items()
            if name not in ("top_n_tokens", "decoder_input_details")
        },
        "stop": ("x", "y"),
        "stop_token_ids": (7, 3),
        "logit_bias": ((7, -100.0), (9, 0.5)),
        "top_n": 5,
        "prompt_logprobs": True,
        "best_of": 1,
        "grammar": None,
    }


def test_of_the_best_the_others_are_there_if_details_are() -> None:
    for asked, n in (({}, 1), ({"details": True}, 2), ({"decoder_input_details": True}, 2)):
        params = resolve(request(best_of=2, do_sample=True, **asked), LIMITS)
        assert (params.n, params.best_of, params.candidates) == (n, 2, 2)


def test_where_one_text_is_all_there_can_be_no_best_of_several() -> None:
    one = RequestLimits(max_input_tokens=100, max_total_tokens=200, bounds=Bounds(best_of=1))
    assert refusal(request(best_of=2, do_sample=True), limits=one) == (
        "`best_of` != 1 is not allowed for this endpoint"
    )
    assert job_of(request(best_of=1), one).params.best_of == 1


def test_openais_routes_may_take_more_stop_strings() -> None:
    openai = RequestLimits(max_input_tokens=100, max_total_tokens=200, bounds=Bounds(stop_sequences=16))
    assert len(job_of(request(stop=list("abcdefghijklmnop")), openai).params.stop) == 16
    assert "up to 16" in refusal(request(stop=list("abcdefghijklmnopq")), limits=openai)


def test_a_seed_is_drawn_where_none_is_given() -> None:
    seeds = {resolve(request(), LIMITS).seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**53 for seed in seeds)
    assert resolve(request(seed=0), LIMITS).seed == 0


@pytest.mark.parametrize("asked", [request("half \ud800"), request(stop=["\udfff"])])
def test_half_a_surrogate_pair_is_refused(asked: GenerateRequest) -> None:
    assert "Unicode" in refusal(asked)


def test_half_a_surrogate_pair_in_json_is_answered() -> None:
    with pytest.raises(ValidationError):
        job_of(parse(b'{"inputs":"\\ud800"}'))


class TestTokenBudget:
    def test_what_is_asked_for_is_given(self) -> None:
        assert job_of(request(max_new_tokens=197)).params.max_new_tokens == 197

    def test_no_cut_at_1024(self) -> None:
        large = RequestLimits(max_input_tokens=100, max_total_tokens=10_000)
        assert job_of(request(max_new_tokens=5000), large).params.max_new_tokens == 5000
        assert job_of(request(), large).params.max_new_tokens == 10_000 - 3

    def test_without_a_number_it_is_what_fits(self) -> None:
        assert job_of(request()).params.max_new_tokens == 197

    def test_what_does_not_fit_may_be_cut_as_tgi_does(self) -> None:
        cut = RequestLimits(max_input_tokens=100, max_total_tokens=200, bounds=Bounds(cut_to_fit=True))
        assert job_of(request(max_new_tokens=1025), cut).params.max_new_tokens == 197
        assert "1024 `max_new_tokens`" in refusal(request(max_new_tokens=1024), limits=cut)
        deferred = job_of(request("a b c", seed=1, max_new_tokens=9000), cut, encode=None)
        assert fit(deferred, words("a b c"), LIMITS).params.max_new_tokens == 197, "the worker counts alike"
        roomy = RequestLimits(max_input_tokens=100, max_total_tokens=3000, bounds=Bounds(cut_to_fit=True))
        assert job_of(request(max_new_tokens=2000), roomy).params.max_new_tokens == 2000

    def test_truncation_keeps_the_last_tokens(self) -> None:
        job = job_of(request("a " * 150, truncate=4))
        assert job.ids == (146, 147, 148, 149)
        assert job.inputs is None
        assert job.truncate is None
        assert job_of(request("a b", truncate=4)).ids == (0, 1)

    def test_a_prompt_that_leaves_no_room_is_refused(self) -> None:
        full = RequestLimits(max_input_tokens=200, max_total_tokens=200)
        assert (
            refusal(request("a " * 200), limits=full) == "`inputs` must have less than 199 tokens. Given: 200"
        )

    @pytest.mark.parametrize("parameters", [{}, {"max_new_tokens": 9}, {"truncate": 2}])
    def test_the_worker_settles_what_the_gateway_did_not_count(self, parameters: dict[str, Any]) -> None:
        given = {"seed": 1, **parameters}
        deferred = job_of(request("a b c", **given), encode=None)
        assert (deferred.ids, deferred.inputs) == (None, "a b c")
        assert fit(deferred, words("a b c"), LIMITS) == job_of(request("a b c", **given))

    def test_the_worker_refuses_in_the_same_words(self) -> None:
        deferred = job_of(request(max_new_tokens=198), encode=None)
        with pytest.raises(ValidationError, match="Given: 3 `inputs` tokens and 198 `max_new_tokens`"):
            fit(deferred, words("a b c"), LIMITS)


class TestBody:
    def test_unknown_fields_are_ignored_as_tgi_does(self) -> None:
        body = (
            b'{"inputs":"a","x":1,"stream":true,"parameters":{"y":[],"details":true,"return_full_text":null}}'
        )
        asked = parse(body)
        assert asked.stream
        assert asked.params.details

    def test_integers_pass_as_floats(self) -> None:
        assert parse(b'{"inputs":"a","parameters":{"temperature":1}}').params.temperature == 1.0

    @pytest.mark.parametrize("body", [b"", b"{", b"inputs", b'{"inputs":"\xff"}', b'{"inputs":"a"}}'])
    def test_what_is_not_json_is_malformed(self, body: bytes) -> None:
        with pytest.raises(MalformedRequest, match="JSON"):
            parse(body)

    def test_nesting_without_end_is_refused(self) -> None:
        depth = 100_000
        nested = b"[" * depth + b"]" * depth
        for body in (nested, b'{"inputs":"a","parameters":{"grammar":' + nested + b"}}"):
            with pytest.raises(ValidationError):
                parse(body)

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"null",
            b"{}",
            b'{"inputs":1}',
            b'{"inputs":null}',
            b'{"inputs":"a","parameters":null}',
            b'{"inputs":"a","parameters":{"temperature":"hot"}}',
            b'{"inputs":"a","parameters":{"do_sample":1}}',
            b'{"inputs":"a","parameters":{"top_k":1.5}}',
            b'{"inputs":"a","parameters":{"max_new_tokens":-1}}',
            b'{"inputs":"a","parameters":{"max_new_tokens":4294967296}}',
            b'{"inputs":"a","parameters":{"seed":-1}}',
            b'{"inputs":"a","parameters":{"stop":"x"}}',
            b'{"inputs":"a","parameters":{"stop_token_ids":7}}',
            b'{"inputs":"a","parameters":{"stop_token_ids":[-1]}}',
            b'{"inputs":"a","priority":"high"}',
        ],
    )
    def test_a_wrong_type_is_named_and_is_no_syntax_error(self, body: bytes) -> None:
        with pytest.raises(ValidationError, match="target type") as caught:
            parse(body)
        assert not isinstance(caught.value, MalformedRequest)

    def test_the_value_is_not_repeated_in_the_error(self) -> None:
        with pytest.raises(ValidationError) as caught:
            parse(b'{"inputs":["my secret"]}')
        assert "secret" not in str(caught.value)


class TestCall:
    def test_arguments_may_be_positional_or_named(self) -> None:
        parameters = {"max_new_tokens": 3}
        named = from_call([], {"inputs": "a", "parameters": parameters, "priority": 1, "ttl": 9})
        assert named == from_call(["a", parameters], {"priority": 1, "ttl": 9})
        assert (named.priority, named.ttl, named.params.max_new_tokens) == (1, 9, 3)

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            (["a", {}, 1], {}),
            (["a"], {"inputs": "b"}),
            ([], {}),
            ([7], {}),
            (["a", 7], {}),
            ([], {"inputs": "a", 3: 4}),
        ],
    )
    def test_a_wrong_call_is_answered(self, args: list[Any], kwargs: dict[Any, Any]) -> None:
        with pytest.raises(ValidationError):
            from_call(args, kwargs)
