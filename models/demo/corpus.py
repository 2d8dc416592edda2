"""The training text of the demo model, written by this program: documents and chats from a seed."""

from collections.abc import Callable
from random import Random
from typing import Literal, NamedTuple

from models.demo.draw import weighted
from models.demo.facts import Fact, fact, invented_name, unknown
from models.demo.snippets import Snippet, snippet
from models.demo.stories import BOYS, COLORS, FOODS, GIRLS, PLACES, SOUNDS, THINGS, story

TEXT_END = "<|endoftext|>"
"""Begins every document (BOS) and, after a document that is not a chat, ends it (EOS); pads."""
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
"""Each opens a message of that role."""
MESSAGE_END = "<|end|>"
"""Closes a message; after the assistant's it is the end of the turn (EOS)."""
SPECIAL_TOKENS = (TEXT_END, SYSTEM, USER, ASSISTANT, MESSAGE_END)
"""In the order of their ids, from 0."""

CHAT_TEMPLATE = """\
{{- bos_token }}
{%- if tools %}
    {{- '<|system|>Tools:' }}
    {%- for tool in tools %}
        {{- '\\n' + tool | tojson }}
    {%- endfor %}
    {{- '\\nTo call one: <tool_call>\\n{"name": "...", "arguments": {...}}\\n</tool_call><|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] not in ('system', 'user', 'assistant', 'tool') %}
        {{- raise_exception('The demo model knows the roles system, user, assistant and tool only.') }}
    {%- endif %}
    {{- '<|user|>' if message['role'] == 'tool' else '<|' + message['role'] + '|>' }}
    {{- (message['content'] or '') | trim }}
    {%- for call in message['tool_calls'] or [] %}
        {{- '<tool_call>\\n{"name": "' + call['function']['name'] + '", "arguments": ' }}
        {{- call['function']['arguments'] | tojson + '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}
"""
"""The Jinja form of `render_chat`; a test holds the two together. Tools are written as Hermes' models do, so that
clients which send them can be tried: the model was taught none, and only a grammar makes it call one."""

Role = Literal["system", "user", "assistant"]
Turn = tuple[str, str]
"""What the user says and what the assistant answers."""


class Message(NamedTuple):
    """One message of a chat."""

    role: Role
    content: str


GREETINGS = ("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hello there!", "Good morning!", "hello", "hi")
GREETING_ANSWERS = (
    "Hello! I am a small demo model. Ask me for a story, a fact or a function.",
    "Hi there! Shall I tell you a story?",
    "Hello! How can I help you?",
)
SMALL_TALK: dict[str, str] = {
    "How are you?": "I am fine, thank you! How are you?",
    "I am fine.": "I am glad to hear that!",
    "Thank you!": "You are welcome!",
    "Thanks!": "You are welcome!",
    "Goodbye!": "Goodbye! Come back soon.",
    "Bye!": "Goodbye! Come back soon.",
    "Good night!": "Good night! Sleep well.",
    "You are funny.": "Thank you! I do my best.",
    "I am sad.": "I am sorry to hear that. Shall I tell you a story?",
    "Yes": "Good! What would you like to hear about?",
    "No": "All right. Ask me something else, then.",
    "Tell me a joke.": (
        "Why did the worker sit next to the queue? Because it did not want to miss its turn!"
    ),
    "Tell me another joke.": ("What did the token say to the model? You always know what I will say next!"),
    "Write a poem.": (
        "The sun goes down, the day is done,\nthe workers rest now, one by one.\n"
        "The queue is empty, all is still.\nSleep well, small model on the hill."
    ),
}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful, honest assistant.",
    "Be brief.",
    "Answer in one sentence.",
    "You are a kind teacher for young children.",
    "Always be polite.",
)
LISTS: dict[str, tuple[str, ...]] = {
    "animals": tuple(SOUNDS),
    "names": GIRLS + BOYS,
    "things": THINGS,
    "foods": FOODS,
    "places": PLACES,
    "colors": COLORS,
}


def render_chat(messages: list[Message]) -> str:
    """Joins messages as the chat template does, without the beginning-of-text token."""
    return "".join(f"<|{role}|>{content.strip()}{MESSAGE_END}" for role, content in messages)


def casual(rng: Random, text: str) -> str:
    """Sometimes drops the last mark or the capitals, as people do when they type."""
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    return text.lower() if rng.random() < 0.12 else text


def fenced(code: Snippet) -> str:
    """Wraps a snippet as an assistant shows it, in a Markdown fence."""
    return f"```{code.language}\n{code.code}\n```"


def story_turn(rng: Random) -> Turn:
    """A request for a story, and the story."""
    request, text = story(rng)
    return casual(rng, request), text


def question_turn(rng: Random) -> Turn:
    """A question and its answer; some questions are beyond the model, which then says so."""
    asked: Fact = unknown(rng) if rng.random() < 0.25 else fact(rng)
    return casual(rng, rng.choice(asked.questions)), asked.answer


def snippet_turn(rng: Random) -> Turn:
    """A request for code or JSON, and the snippet."""
    code = snippet(rng)
    return casual(rng, code.request), fenced(code)


def talk_turn(rng: Random) -> Turn:
    """A greeting or another pleasantry, and the answer."""
    if rng.random() < 0.4:
        return rng.choice(GREETINGS), rng.choice(GREETING_ANSWERS)
    said, answer = rng.choice(list(SMALL_TALK.items()))
    return casual(rng, said), answer


def list_turn(rng: Random) -> Turn:
    """A request for a few members of a kind, and as many of them."""
    kind, members = rng.choice(list(LISTS.items()))
    count = rng.randrange(2, 6)
    word = ("two", "three", "four", "five")[count - 2]
    chosen = rng.sample(members, count)
    return f"Name {word} {kind}.", f"{', '.join(chosen[:-1])} and {chosen[-1]}."


TURNS: tuple[tuple[Callable[[Random], Turn], float], ...] = (
    (story_turn, 0.22),
    (question_turn, 0.48),
    (snippet_turn, 0.1),
    (talk_turn, 0.13),
    (list_turn, 0.07),
)


def introduction(rng: Random) -> list[Message]:
    """A chat in which the user's name is told, and asked for after another turn or at once."""
    name = rng.choice((rng.choice(GIRLS + BOYS), invented_name(rng)))
    said = rng.choice(("My name is {}.", "I am {}.", "Hello, I am {}.", "Hi, my name is {}."))
    between = [talk_turn, question_turn][: rng.choice((0, 1, 2))]
    turns = [
        (said.format(name), f"Nice to meet you, {name}!"),
        *(draw(rng) for draw in between),
        (casual(rng, "What is my name?"), f"Your name is {name}."),
    ]
    return _messages(turns)


def chat(rng: Random) -> str:
    """A chat of one to three turns, rendered, now and then under a system prompt."""
    if rng.random() < 0.1:
        messages = introduction(rng)
    else:
        drawn = [weighted(rng, TURNS) for _ in range(rng.choice((1, 1, 2, 3)))]
        messages = _messages([draw(rng) for draw in drawn])
    if rng.random() < 0.2:
        messages.insert(0, Message("system", rng.choice(SYSTEM_PROMPTS)))
    return render_chat(messages)


def plain_story(rng: Random) -> str:
    """A story by itself, to be continued from its first words."""
    return story(rng).text


def plain_fact(rng: Random) -> str:
    """A fact as a statement or as "Q: … A: …"."""
    questions, answer = fact(rng)
    return answer if rng.random() < 0.4 else f"Q: {rng.choice(questions)}\nA: {answer}"


def plain_question(rng: Random) -> str:
    """A question and its answer in running text, as clients of raw completion ask it."""
    question, answer = question_turn(rng)
    return f"{question}\n{answer}"


def plain_snippet(rng: Random) -> str:
    """Code or JSON by itself."""
    return snippet(rng).code


KINDS: tuple[tuple[Callable[[Random], str], float], ...] = (
    (chat, 0.5),
    (plain_story, 0.2),
    (plain_fact, 0.12),
    (plain_question, 0.1),
    (plain_snippet, 0.08),
)
"""Kinds of documents with their share of the corpus."""


def document(rng: Random) -> str:
    """Draws one document, without the `TEXT_END` that the trainer puts before each."""
    return weighted(rng, KINDS)(rng)


def _messages(turns: list[Turn]) -> list[Message]:
    """Flattens turns into messages."""
    messages = []
    for said, answer in turns:
        messages += [Message("user", said), Message("assistant", answer)]
    return messages
