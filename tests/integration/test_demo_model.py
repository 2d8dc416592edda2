"""The committed demo model, held by a fixed greedy transcript and by the limits of its folder.

The transcript is decoded in float64: there the noise of kernels cannot flip a token, so a
difference means other weights, another tokenizer or another template.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from models.demo import WEIGHTS
from models.demo.corpus import SPECIAL_TOKENS, Message, render_chat
from wire.tools import format_of

torch = pytest.importorskip("torch", reason="the demo model needs torch to run")
transformers = pytest.importorskip("transformers")

TRANSCRIPT: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("demo_transcript.json").read_text(encoding="utf-8")
)
LONGEST = 200
"""New tokens after which an answer counts as one that does not end."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The tokenizer, as transformers loads it from the folder."""
    return transformers.AutoTokenizer.from_pretrained(WEIGHTS)


@pytest.fixture(scope="module")
def model() -> Any:
    """The model in float64."""
    loaded = transformers.AutoModelForCausalLM.from_pretrained(WEIGHTS)
    return loaded.to(torch.float64).eval()


@pytest.mark.parametrize("line", TRANSCRIPT, ids=lambda line: str(line["name"]))
def test_greedy_transcript(line: dict[str, Any], tokenizer: Any, model: Any) -> None:
    prompt = line.get("prompt") or tokenizer.apply_chat_template(
        line["messages"], tokenize=False, add_generation_prompt=True
    )
    # The rendered template brings its own beginning-of-text token; a bare prompt gets one here.
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens="prompt" in line)
    output = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=LONGEST,
        do_sample=False,
    )
    new = output[0, inputs["input_ids"].shape[1] :].tolist()

    assert tokenizer.decode(new, skip_special_tokens=True) == line["text"]
    assert tokenizer.decode(new[-1:]) == line["end"]


def test_transcript_shows_what_the_card_promises() -> None:
    stories = [line for line in TRANSCRIPT if line["name"].startswith("story")]
    assert len(TRANSCRIPT) == 6
    assert stories
    assert all(line["text"].endswith("The end.") for line in stories)
    assert any("messages" in line for line in TRANSCRIPT)


def test_weights_are_small_enough_for_the_repository() -> None:
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 5_000_000


def test_context_is_long_enough_to_show_long_jobs() -> None:
    config = json.loads((WEIGHTS / "config.json").read_text(encoding="utf-8"))
    assert config["max_position_embeddings"] >= 2048
    assert config["num_key_value_heads"] < config["num_attention_heads"]


@pytest.mark.parametrize(
    "text",
    ["", "plain words", "12345", "  two  spaces\n\n\ttab ", "naïve, Brasília", "日本語", "🐱 👩‍👩‍👧 ❤️"],
)
def test_tokenizer_round_trips_utf8(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_have_the_first_ids(tokenizer: Any) -> None:
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL_TOKENS))) == list(SPECIAL_TOKENS)
    assert tokenizer("Hello")["input_ids"][0] == tokenizer.bos_token_id


def test_chat_template_renders_what_the_model_was_trained_on(tokenizer: Any) -> None:
    messages = [
        Message("system", "Be brief."),
        Message("user", " Hello! "),
        Message("assistant", "Hi there!"),
        Message("user", "Who are you?"),
    ]
    rendered = tokenizer.apply_chat_template(
        [message._asdict() for message in messages], tokenize=False, add_generation_prompt=True
    )
    assert rendered == tokenizer.bos_token + render_chat(messages) + "<|assistant|>"


def test_chat_template_refuses_a_role_that_the_model_does_not_know(tokenizer: Any) -> None:
    with pytest.raises(Exception, match="knows the roles system, user, assistant and tool"):
        tokenizer.apply_chat_template([{"role": "critic", "content": "4"}], tokenize=False)


def test_chat_template_writes_tools_as_hermes_models_do(tokenizer: Any) -> None:
    add = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    messages = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    ]
    rendered = tokenizer.apply_chat_template(
        messages, tools=[add], tokenize=False, add_generation_prompt=True
    )
    said = '<|assistant|><tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call><|end|>'
    assert f"{said}<|user|>4<|end|><|assistant|>" in rendered
    assert rendered.startswith(tokenizer.bos_token + "<|system|>Tools:\n" + json.dumps(add))
    assert format_of(tokenizer.chat_template).name == "hermes"
