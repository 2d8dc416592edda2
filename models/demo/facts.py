"""The facts that the demo model is taught: a few hundred questions, each with one answer."""

from itertools import pairwise
from random import Random
from typing import NamedTuple

from models.demo.draw import article, weighted, words
from models.demo.stories import SOUNDS


class Fact(NamedTuple):
    """An answer, as a whole sentence, and the questions that ask for it."""

    questions: tuple[str, ...]
    answer: str


CAPITALS = {
    "Argentina": "Buenos Aires",
    "Australia": "Canberra",
    "Austria": "Vienna",
    "Belgium": "Brussels",
    "Brazil": "Brasília",
    "Canada": "Ottawa",
    "Chile": "Santiago",
    "China": "Beijing",
    "Colombia": "Bogotá",
    "Croatia": "Zagreb",
    "Cuba": "Havana",
    "Denmark": "Copenhagen",
    "Egypt": "Cairo",
    "Finland": "Helsinki",
    "France": "Paris",
    "Germany": "Berlin",
    "Greece": "Athens",
    "Hungary": "Budapest",
    "Iceland": "Reykjavík",
    "India": "New Delhi",
    "Indonesia": "Jakarta",
    "Ireland": "Dublin",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Kenya": "Nairobi",
    "Mexico": "Mexico City",
    "Morocco": "Rabat",
    "Nepal": "Kathmandu",
    "New Zealand": "Wellington",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Poland": "Warsaw",
    "Portugal": "Lisbon",
    "Romania": "Bucharest",
    "Russia": "Moscow",
    "Serbia": "Belgrade",
    "South Korea": "Seoul",
    "Spain": "Madrid",
    "Sweden": "Stockholm",
    "Switzerland": "Bern",
    "Thailand": "Bangkok",
    "Turkey": "Ankara",
    "Ukraine": "Kyiv",
    "the United Kingdom": "London",
    "the United States": "Washington, D.C.",
    "Vietnam": "Hanoi",
}
COLORS = {
    "the sky": "blue",
    "the sea": "blue",
    "the sun": "yellow",
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "milk": "white",
    "blood": "red",
    "gold": "yellow",
    "chocolate": "brown",
    "a lemon": "yellow",
    "a carrot": "orange",
    "a tomato": "red",
    "a banana": "yellow",
    "a plum": "purple",
    "a cucumber": "green",
    "an elephant": "gray",
    "a flamingo": "pink",
    "a strawberry": "red",
}
OPPOSITES = words(
    "hot cold big small fast slow up down day night happy sad open closed full empty "
    "old new hard soft light dark wet dry high low early late left right rich poor "
    "good bad long short near far loud quiet strong weak true false first last inside outside"
)
"""Pairs: each word at an even place with the one behind it."""
BABIES = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "sheep": "lamb",
    "duck": "duckling",
    "horse": "foal",
    "pig": "piglet",
    "lion": "cub",
    "frog": "tadpole",
    "kangaroo": "joey",
}
EMOJI = {
    "a cat": "🐱",
    "a dog": "🐶",
    "a heart": "❤️",
    "the sun": "☀️",
    "a smile": "🙂",
    "a rocket": "🚀",
    "a tree": "🌳",
    "a fish": "🐟",
    "a star": "⭐",
    "a pizza": "🍕",
}
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
NUMBERS = words("zero one two three four five six seven eight nine ten")

GENERAL: tuple[Fact, ...] = (
    Fact(("How many days are in a week?",), "There are seven days in a week."),
    Fact(("How many months are in a year?",), "There are twelve months in a year."),
    Fact(("How many hours are in a day?",), "There are 24 hours in a day."),
    Fact(("How many minutes are in an hour?",), "There are 60 minutes in an hour."),
    Fact(("How many seconds are in a minute?",), "There are 60 seconds in a minute."),
    Fact(("How many legs does a spider have?",), "A spider has eight legs."),
    Fact(("How many legs does a dog have?",), "A dog has four legs."),
    Fact(("How many legs does a bee have?",), "A bee has six legs."),
    Fact(("How many sides does a triangle have?",), "A triangle has three sides."),
    Fact(("How many sides does a square have?",), "A square has four sides."),
    Fact(("How many planets are in the solar system?",), "The solar system has eight planets."),
    Fact(("How many continents are there?",), "There are seven continents."),
    Fact(("What is the largest planet?",), "The largest planet is Jupiter."),
    Fact(("What is the smallest planet?",), "The smallest planet is Mercury."),
    Fact(("What is the red planet?",), "The red planet is Mars."),
    Fact(("What is the largest ocean?",), "The largest ocean is the Pacific Ocean."),
    Fact(("What is the highest mountain?",), "The highest mountain is Mount Everest."),
    Fact(("What is the largest animal?",), "The largest animal is the blue whale."),
    Fact(("What is the tallest animal?",), "The tallest animal is the giraffe."),
    Fact(("What is the fastest land animal?",), "The fastest land animal is the cheetah."),
    Fact(("What is the largest country?",), "The largest country is Russia."),
    Fact(("What is ice made of?", "What is ice?"), "Ice is frozen water."),
    Fact(("What do bees make?",), "Bees make honey."),
    Fact(("What do cows eat?",), "Cows eat grass."),
    Fact(("What do cows give us?",), "Cows give us milk."),
    Fact(("What do birds use to fly?",), "Birds use their wings to fly."),
    Fact(("Where do fish live?",), "Fish live in water."),
    Fact(("What is bread made of?",), "Bread is made of flour, water, salt and yeast."),
    Fact(("What is paper made of?",), "Paper is made of wood."),
    Fact(("When does water freeze?",), "Water freezes at 0 degrees Celsius."),
    Fact(("When does water boil?",), "Water boils at 100 degrees Celsius."),
    Fact(("Who wrote Hamlet?",), "William Shakespeare wrote Hamlet."),
    Fact(("Who wrote Don Quixote?",), "Miguel de Cervantes wrote Don Quixote."),
    Fact(("Who painted the Mona Lisa?",), "Leonardo da Vinci painted the Mona Lisa."),
    Fact(("Who invented the telephone?",), "Alexander Graham Bell invented the telephone."),
    Fact(("Who was the first person on the Moon?",), "Neil Armstrong walked on the Moon first."),
    Fact(("What is the Moon?",), "The Moon is a ball of rock that circles the Earth."),
    Fact(("What is the sun?",), "The sun is a star."),
    Fact(
        ("Who was Antoni Gaudí?", "Who was Gaudi?", "Who designed the Sagrada Família?"),
        "Antoni Gaudí was the architect of the Sagrada Família in Barcelona.",
    ),
)
COMPUTING: tuple[Fact, ...] = (
    Fact(
        ("Who are you?", "What are you?", "What is your name?", "Are you a robot?"),
        "I am the demo model of Sagrada. I am very small, but I can tell stories.",
    ),
    Fact(
        ("What can you do?", "Help", "What do you know?", "How can you help me?"),
        "I can tell short stories, answer simple questions and write small functions.",
    ),
    Fact(
        ("Who made you?", "How were you made?", "How were you trained?"),
        "I was trained in a few minutes on text that a small program wrote.",
    ),
    Fact(
        ("How big are you?", "How many parameters do you have?"),
        "I have about one million parameters. Large models have a thousand times more.",
    ),
    Fact(
        ("What is Sagrada?", "What does Sagrada do?", "Tell me about Sagrada."),
        "Sagrada is a fleet of workers that serves language models from a message queue.",
    ),
    Fact(
        ("What is deep learning?", "What is Deep Learning?", "Explain deep learning."),
        "Deep learning is a way to teach computers with many layers of simple units.",
    ),
    Fact(
        ("What is machine learning?", "Explain machine learning."),
        "Machine learning is when a computer learns from examples.",
    ),
    Fact(
        ("What is a language model?", "What is an LLM?"),
        "A language model is a program that guesses the next word, again and again.",
    ),
    Fact(
        ("What is a message queue?", "What is a queue?"),
        "A message queue keeps jobs in order until a worker takes them.",
    ),
    Fact(("What is Redis?",), "Redis is a fast database that lives in memory."),
    Fact(("What is Celery?",), "Celery is a task queue for Python."),
    Fact(("What is Flask?",), "Flask is a small web framework for Python."),
    Fact(("What is Python?",), "Python is a programming language."),
    Fact(("What is a token?",), "A token is a piece of text, often a short word."),
    Fact(("What is Gaudi?", "What is Intel Gaudi?"), "Gaudi is an AI accelerator made by Intel."),
    Fact(("What is a computer?",), "A computer is a machine that follows instructions."),
)


def _capitals() -> list[Fact]:
    return [
        Fact(
            (f"What is the capital of {country}?", f"Which city is the capital of {country}?"),
            f"The capital of {country} is {city}.",
        )
        for country, city in CAPITALS.items()
    ]


def _colors() -> list[Fact]:
    return [
        Fact(
            (f"What color is {thing}?", f"What colour is {thing}?"),
            f"{thing[0].upper()}{thing[1:]} is {color}.",
        )
        for thing, color in COLORS.items()
    ]


def _animals() -> list[Fact]:
    sounds = [
        Fact(
            (f"What does the {animal} say?", f"What sound does {article(animal)} make?"),
            f"The {animal} says {sound}.",
        )
        for animal, sound in SOUNDS.items()
    ]
    babies = [
        Fact((f"What is a baby {animal} called?",), f"A baby {animal} is called a {baby}.")
        for animal, baby in BABIES.items()
    ]
    return sounds + babies


def _opposites() -> list[Fact]:
    return [
        Fact((f"What is the opposite of {a}?",), f"The opposite of {a} is {b}.")
        for one, other in zip(OPPOSITES[::2], OPPOSITES[1::2], strict=True)
        for a, b in ((one, other), (other, one))
    ]


def _sequences() -> list[Fact]:
    """What comes after each day, month and small number."""
    pairs = [(DAYS[i], DAYS[(i + 1) % 7]) for i in range(7)]
    pairs += [(MONTHS[i], MONTHS[(i + 1) % 12]) for i in range(12)]
    pairs += pairwise(NUMBERS)
    return [Fact((f"What comes after {a}?",), f"After {a} comes {b}.") for a, b in pairs]


def _emoji() -> list[Fact]:
    """Emoji: here so that a stream shows characters that span several tokens."""
    return [
        Fact(
            (f"Show me an emoji of {thing}.", f"What is the emoji for {thing}?"),
            f"Here is {thing}: {emoji}",
        )
        for thing, emoji in EMOJI.items()
    ]


def _sums() -> list[Fact]:
    """All sums of two digits: a table to remember, not arithmetic."""
    return [
        Fact((f"What is {a} + {b}?", f"What is {a} plus {b}?"), f"{a} + {b} = {a + b}")
        for a in range(10)
        for b in range(10)
    ]


TOPICS: tuple[tuple[tuple[Fact, ...], float], ...] = (
    (tuple(_capitals()), 0.25),
    (tuple(_colors()), 0.1),
    (tuple(_animals()), 0.12),
    (tuple(_opposites()), 0.1),
    (tuple(_sequences()), 0.06),
    (tuple(_emoji()), 0.05),
    (tuple(_sums()), 0.12),
    (GENERAL, 0.14),
    (COMPUTING, 0.16),
)
"""Every fact, by topic, with the topic's relative weight in the corpus."""


def fact(rng: Random) -> Fact:
    """Draws a fact: its topic by weight, then one of the topic at random."""
    return rng.choice(weighted(rng, TOPICS))


UNKNOWN_ANSWER = "I do not know that. I am only a small demo model."
UNKNOWN_QUESTIONS = (
    "What is the capital of {name}?",
    "Who is {name}?",
    "Who was {name}?",
    "Where is {name}?",
    "What is {noun}?",
    "What do you think about {noun}?",
    "How does {noun} work?",
    "Who invented {noun}?",
    "Why do people like {noun}?",
    "Explain {noun}.",
    "Explain {noun} to me.",
    "Tell me about {noun}.",
    "Tell me about {name}.",
    "Write an essay about {noun}.",
    "Translate {noun} to French.",
    "What is the meaning of {noun}?",
    "When was {name} born?",
    "How old is {name}?",
    "How do I learn about {noun}?",
    "What is the history of {noun}?",
    "What is the population of {name}?",
    "Can you help me with {noun}?",
    "What is {big} times {large}?",
    "What is {big} plus {large}?",
    "What is {big} + {large}?",
)
UNKNOWN_NOUNS = words(
    "life love money physics gravity music history politics football chess philosophy cancer "
    "democracy transformers blockchain electricity energy war peace art jazz weather news time "
    "algebra chemistry economics biology viruses cars phones networks contracts recipes homework "
    "theorems evolution religion brains DNA atoms inflation novels poetry Linux Java Kubernetes "
    "Docker JavaScript databases tennis taxes happiness consciousness climate fusion insurance "
    "marketing astronomy dinosaurs volcanoes gardening cooking fashion travel dreams shoes"
)
SYLLABLES = words("ba ca dor el fin gar ho is jo kal lu mor nar nia or pan qui ran sil to ul vo wen xi zan")


def invented_name(rng: Random) -> str:
    """Makes up a name of two or three syllables, so that names are copied, not remembered."""
    return "".join(rng.choices(SYLLABLES, k=rng.choice((2, 3)))).capitalize()


def unknown(rng: Random) -> Fact:
    """Draws a question that the model shall decline, because it was taught nothing about it."""
    question = rng.choice(UNKNOWN_QUESTIONS).format(
        name=invented_name(rng),
        noun=rng.choice(UNKNOWN_NOUNS),
        big=rng.randrange(12, 1000),
        large=rng.randrange(12, 1000),
    )
    return Fact((question,), UNKNOWN_ANSWER)
