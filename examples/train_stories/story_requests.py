"""Makes, by rule, the request that a story could be the answer to, so that a request learns to steer the story."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable

ABOUT = (
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "tell me a story about {}",
    "Please tell me a story about {}.",
    "Can you tell me a story about {}?",
    "can you tell a story about {}",
    "Write a story about {}.",
    "Write a short story about {}.",
    "write a story about {}",
    "Make up a story about {}.",
    "I want a story about {}.",
    "I would like to hear a story about {}.",
    "Do you know a story about {}?",
    "A story about {}, please.",
    "A story about {}",
    "a story about {}",
    "story about {}",
    "Once upon a time, there was {}",
    "Once there was {}",
    "I like {}.",
    "Let's talk about {}.",
    "What do you know about {}?",
    "{}",
)
ANYTHING = (
    "Tell me a story.",
    "Tell me a story",
    "tell me a story",
    "Please tell me a story.",
    "Can you tell me a story?",
    "Write a story.",
    "A story, please.",
    "a story",
    "Hello",
    "Hello!",
    "hello",
    "Hi",
    "Hi!",
    "hi",
    "hey",
    "Good night.",
    "I am bored.",
    "How are you?",
    "Who are you?",
    "What can you do?",
    "Once upon a time",
)
ANOTHER = ("Tell me another story.", "Another one, please.", "another one", "One more story, please.", "Thank you!")
NEXT = (
    "What happened next?",
    "And then?",
    "and then",
    "Go on.",
    "go on",
    "Please go on.",
    "continue",
    "Tell me more.",
    "more",
)
PERSONS = frozenset([
    "Mom", "Mommy", "Mum", "Mummy", "Mama", "Dad", "Daddy", "Papa", "Grandma", "Grandpa", "Granny", "Mr", "Mrs",
    "Miss", "The", "God", "Ok",
])  # fmt: skip
AFTER_NOUN = frozenset([
    "named", "called", "was", "were", "who", "that", "and", "is", "in", "on", "to", "with", "had", "said", "of", "by",
    "but", "so", "could", "wanted",
])  # fmt: skip
NO_NOUN = frozenset([
    "day", "time", "way", "lot", "little", "big", "moment", "end", "one", "next", "other", "same", "while", "bit",
    "few",
])  # fmt: skip


class RequestMaker:
    """Knows which words of these stories are nouns, and writes requests for a story.

    A noun is a word that mostly ends what an article begins: "a dog." and "the dog was", but "the big dog".
    """

    def __init__(self, stories: Iterable[str]) -> None:
        followed: Counter[str] = Counter()
        closed: Counter[str] = Counter()
        for story in stories:
            for word, mark, following in re.findall(r"\b(?:a|an|the) ([a-z]+)([^a-z]*) ?([a-z]*)", story):
                followed[word] += 1
                closed[word] += mark.strip() != "" or following in AFTER_NOUN
        nouns = (word for word, count in followed.items() if count >= 5 and 2 * closed[word] > count)
        self.nouns = frozenset(noun for noun in nouns if noun not in NO_NOUN)

    def topics(self, story: str) -> list[str]:
        """What the story is about, as requests name it: "a little red car", "Lily", "a dog named Max"."""
        words = Counter(re.findall(r"[a-z]+", story))
        phrases = []
        for article, middle, noun in re.findall(r"\b(an?) ((?:[a-z]+ ){0,2})([a-z]+)\b", story):
            inner = middle.split()
            is_phrase = not any(word in self.nouns or word in AFTER_NOUN for word in inner)
            if noun in self.nouns and words[noun] >= 2 and is_phrase:
                phrases += [f"{article} {middle}{noun}", f"{indefinite(noun)} {noun}"]
        names = Counter(re.findall(r"(?<=[a-z] )[A-Z][a-z]+", story))
        heroes = [name for name, count in names.items() if count >= 2 and name not in PERSONS]
        described = re.findall(r"\b(an? (?:[a-z]+ ){1,3}(?:named|called) [A-Z][a-z]+)", story[:200])
        return list(dict.fromkeys([*phrases, *heroes, *described]))

    def request(self, story: str, generator: random.Random) -> str:
        """One request for this story: its opening words, what it is about, or just any story."""
        kind = generator.random()
        if kind < 0.2:
            return opening(story, generator)
        topics = self.topics(story)
        if kind < 0.3 or not topics:
            return generator.choice(ANYTHING)
        chosen = generator.sample(topics, 2 if len(topics) > 1 and kind > 0.85 else 1)
        return generator.choice(ABOUT).format(" and ".join(chosen))


def indefinite(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


def opening(story: str, generator: random.Random) -> str:
    """The story's first sentence, whole, without its full stop, or cut after four words or more."""
    sentence = re.split(r'(?<=[.!?"])\s', story, maxsplit=1)[0]
    words = sentence.split()
    if len(words) > 5 and generator.random() < 0.4:
        return " ".join(words[: generator.randint(4, len(words) - 1)])
    return sentence if generator.random() < 0.5 else sentence.rstrip(".")
