"""Short stories for children from a small grammar: a cast, then sentences drawn slot by slot."""

from random import Random
from typing import NamedTuple

from models.demo.draw import article, words

GIRLS = words("Anna Lily Mia Eva Zoe Emma Clara Nora Ruby Alice Ella Sara Maya Ida Lucy Grace Rosa Julia Amy")
BOYS = words("Tom Ben Max Sam Leo Jack Oscar Noah Finn Hugo Paul Adam Luis Omar Eli Theo Carl Peter Tim")
SOUNDS = {
    "dog": "woof",
    "cat": "meow",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "horse": "neigh",
    "lion": "roar",
    "frog": "ribbit",
    "bird": "tweet",
    "mouse": "squeak",
    "owl": "hoot",
    "bee": "buzz",
    "wolf": "howl",
    "snake": "hiss",
    "donkey": "hee-haw",
}
SILENT = words("rabbit fox bear turtle squirrel dragon robot penguin monkey hedgehog elephant goat")
THINGS = words(
    "ball book hat kite cake apple box lamp shell flower boat drum key coin ring cup clock map "
    "coat bell bike doll train basket umbrella balloon pencil star stone feather whistle scarf"
)
LOOKS = words("red small big old shiny blue green soft yellow round golden funny new pretty")
COLORS = words("red blue green yellow orange purple black white brown")
PLACES = words("park garden forest river lake school beach market farm hill castle village")
FOODS = words("bread soup cookies berries cheese honey pancakes apples")

Slots = tuple[tuple[str, ...], ...]
"""Sentences in order; each slot holds alternatives, of which one is told."""

OPENINGS: tuple[Slots, ...] = (
    (
        ("Once upon a time, there was a little {child} named {hero}.",),
        ("{She} lived near the {place}.", "{She} loved to play in the {place}."),
        ("{Her} best friend was {friend}.", "{She} had a good friend named {friend}."),
    ),
    (
        (
            "Once upon a time, {hero} went to the {place}.",
            "One day, {hero} went to the {place} with {friend}.",
            "One sunny morning, {hero} walked to the {place}.",
        ),
    ),
    (
        ("Once upon a time, there was a {creature} who lived near the {place}.",),
        ("A {child} named {hero} lived there too.", "Every day, {hero} came to say hello."),
    ),
)
EPISODES: tuple[Slots, ...] = (
    (
        (
            "There, {she} found {a_look} {thing}.",
            "Under a tree, {she} saw {a_look} {thing}.",
            "In the grass lay {a_look} {thing}.",
        ),
        ("{hero} took the {thing} home and showed it to {friend}.",),
        ('"What {a_look} {thing}!" said {friend}.', '"It is so {look}!" said {friend}.'),
        ("They played with the {thing} all day.", "They put the {thing} on the table."),
    ),
    (
        ("There, {she} met a {animal}.", "Soon {she} saw a {animal} behind a tree."),
        ('The {animal} said "{sound}".', '"{Sound}!" said the {animal}.'),
        ("{hero} laughed and gave the {animal} some {food}.",),
        ("The {animal} became {her} friend.", "From then on, the {animal} followed {hero}."),
    ),
    (
        ("But then {hero} lost {her} {thing} and was sad.", "{hero} could not find {her} {thing}."),
        ("{friend} looked for the {thing} everywhere.", "{friend} came to help."),
        ("At last, {friend} found the {thing} under a bench.", "It was behind a big rock."),
        ('"Thank you, {friend}!" said {hero}.',),
    ),
    (
        ("Suddenly it started to rain.", "Dark clouds came and it began to rain."),
        ("{hero} had no umbrella, so {she} ran home.", "{hero} and {friend} ran home fast."),
        ("{friend} made some hot tea.", "They ate {food} by the fire."),
        ("Soon {hero} was warm and dry.",),
    ),
    (
        ("{hero} and {friend} both wanted the {look} {thing}.",),
        ("At first they were angry.", '"It is mine!" said {friend}.'),
        ('Then {hero} said, "We can share the {thing}."',),
        ("{friend} smiled, and they shared it all day.",),
    ),
    (
        ("A little {creature} was stuck in a tree.", "A small {creature} was crying."),
        ('"Please help me!" said the {creature}.', '"I am lost," said the {creature}.'),
        ("{hero} was brave and helped the {creature}.",),
        ("The {creature} was very happy.", 'The {creature} said, "You are kind."'),
    ),
    (
        ("{hero} wanted to make a gift for {friend}.",),
        ("{She} worked hard all day.", "{She} used paper, glue and paint."),
        ("It was {a_look} {thing}.", "In the end, it was {a_look} {thing}."),
        ("{friend} loved the {thing} very much.", '"I love it!" said {friend}.'),
    ),
    (
        ('"Let us have a race!" said {friend}.', "{friend} wanted to race to the {place}."),
        ("They ran as fast as they could.", "{hero} ran fast, but {friend} was faster."),
        ("{hero} fell down, and {friend} stopped to help.",),
        ("Nobody won, but both were proud.", '"A friend is better than a prize," said {hero}.'),
    ),
)
ENDINGS: tuple[Slots, ...] = (
    (("When the sun went down, they all went home.", "In the evening, {hero} went home."),),
    (("{hero} and {friend} were friends forever.", "{hero} was very happy."),),
    (("{hero} learned that it is good to {lesson}.",),),
    (("That night, {hero} slept very well.", "It was the best day ever."),),
)
LESSONS = ("share", "help a friend", "be kind", "be brave", "say thank you", "try again")
REQUESTS = (
    "Tell me a story about {topic}.",
    "Write a story about {topic}.",
    "Tell me a short story about {topic}.",
    "Can you tell me a story about {topic}?",
    "A story about {topic}, please.",
)
ANY_REQUESTS = ("Tell me a story.", "Write a short story.", "Once upon a time", "A story, please!")


class Story(NamedTuple):
    """A told story and a request that it answers."""

    request: str
    text: str


def cast(rng: Random) -> dict[str, str]:
    """Draws the words that every sentence of one story shares."""
    girl = rng.random() < 0.5
    hero = rng.choice(GIRLS if girl else BOYS)
    friend = rng.choice([name for name in GIRLS + BOYS if name != hero])
    animal, sound = rng.choice(list(SOUNDS.items()))
    look = rng.choice(LOOKS)
    return {
        "hero": hero,
        "friend": friend,
        "child": "girl" if girl else "boy",
        "she": "she" if girl else "he",
        "She": "She" if girl else "He",
        "her": "her" if girl else "his",
        "Her": "Her" if girl else "His",
        "animal": animal,
        "sound": sound,
        "Sound": sound.capitalize(),
        "creature": rng.choice([animal, *SILENT]),
        "thing": rng.choice(THINGS),
        "look": look,
        "a_look": article(look),
        "place": rng.choice(PLACES),
        "food": rng.choice(FOODS),
        "lesson": rng.choice(LESSONS),
    }


def story(rng: Random) -> Story:
    """Tells a story of one or two episodes (60 to 180 tokens) that ends with "The end."."""
    roles = cast(rng)
    parts = [rng.choice(OPENINGS), *rng.sample(EPISODES, rng.choice((1, 1, 2)))]
    parts += rng.sample(ENDINGS, rng.choice((1, 2)))
    sentences = [rng.choice(slot).format_map(roles) for part in parts for slot in part]
    text = " ".join([*sentences, "The end."])
    return Story(_request(rng, roles, text), text)


def _request(rng: Random, roles: dict[str, str], text: str) -> str:
    """Asks for a story about something that this text really speaks of."""
    topics = [article(roles[role]) for role in ("animal", "creature", "thing")]
    topics = [topic for topic in topics if topic.split()[1] in text]
    topics.append(roles["hero"])
    if roles["friend"] in text:
        topics.append(f"{roles['hero']} and {roles['friend']}")
    if rng.random() < 0.2:
        return rng.choice(ANY_REQUESTS)
    return rng.choice(REQUESTS).format(topic=rng.choice(topics))
