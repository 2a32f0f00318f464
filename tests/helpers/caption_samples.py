"""Captions for tests: like COCO's, with all that people write in them, and random pieces put together."""

import random

# ruff: noqa: SIM905 (lists of texts with quotation marks read better split)

_WHO = (
    "a man|two women|The woman|a young boy|Several people|a dog|the man's wife|A couple|three kids|"
    "a black-and-white cat|Mr. Smith|a U.S. soldier|a 3-year-old girl|10 zebras|A close up of a plate|a No. 5 bus|"
    "a kid's bike|"
    "an 18-wheeler truck"
).split("|")
_DOES = (
    "is riding|are standing on|sits near|doesn't like|can't reach|isn't wearing|is gonna eat|has|that's eating|and/or|"
    ", smiling, holds|- looks at|cannot see|who's jumping over|lays on top of|they're on|&|'s got"
).split("|")
_WHAT = (
    "a skateboard|the city's street|a half-eaten pizza|\"Stop\" sign|a 'no parking' sign|St. Mark's square|5th Ave.|"
    "a cell phone (iPhone)|his/her bed|a t-shirt|the 1950's car|a clock at 10:30|a $5 bill|2 1/2 pizzas|the U.K. flag|"
    "a plate of bacon, eggs, and toast|some broccoli; carrots|frisbee...|a laptop w/ a mouse|rock n' roll|a 12 oz. can|"
    "the o'clock tower|skis - snow|50% off|a #1 jersey|kites'|a PB&J sandwich|cars,trucks,buses|Dr. Pepper|6'2\" man|"
    "grey colour|the bus no. 12|a caf\u00e9|a \u201cfancy\u201d cake|the dog\u2019s bowl"
).split("|")
_WHERE = "|in the rain|next to a tree|near St. Louis|at 5 p.m.|, etc|in front of Bldg. 5|in L.A|at the u.s. open".split(
    "|"
)
_END = '.|.|.||||!|?|...| .|..|;|,|"|).|!!|.  | . |:|-|?!'.split("|")
_PIECES = (
    "a man The cat's dogs' isn't can't cannot gonna I'm u.s. mr. St. no. 5 3.5 1,000 $5 \u20ac5 \u00a310 10:30 1/2 "
    "t-shirt and/or -- - ... \u2026 .. ( ) [ ] \" ' `` '' \u201c \u201d \u2018 \u2019 "
    "/ \\ & &amp; # @ % * + = < > : ; , . ! ? "
    ":) \u00e9 caf\u00e9 \u00f1 na\u00efve \u00bd \u00b0 \u00a9 \u2022 \u2013 \u2014 \u65e5\u672c \U0001f600 5'6\" "
    "rock'n'roll 'em '90s o'clock y'all x-ray 4x4 A.C. e.g. etc. "
    "vs. Ave. b. B-52 AT&T R&B a@b.com #tag _ a_b ~ | "
    "^ {x} d'art l'x Jr. km/h 12\" 6ft 50% 's n't won't"
).split(" ")


def captions(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        words = [rng.choice(_WHO), rng.choice(_DOES), rng.choice(_WHAT), rng.choice(_WHERE)]
        text = " ".join(word for word in words if word)
        yield (text.upper() if rng.random() < 0.1 else text) + rng.choice(_END)


def nasty(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        yield "".join(rng.choice(_PIECES) + rng.choice(["", " ", " ", " "]) for _ in range(rng.randint(1, 8)))


def random_sets(count, seed):
    """Tokenised candidates and references over few words: empty, single words, duplicates, 1 to 7 references."""
    rng = random.Random(seed)
    for _ in range(count):
        words = [f"w{i}" for i in range(rng.choice([2, 5, 30]))]
        draw = lambda shortest, words=words: " ".join(rng.choices(words, k=rng.choice([shortest, 1, 2, 3, 5, 9, 14])))
        references = [[draw(rng.randint(0, 1)) for _ in range(rng.randint(1, 7))] for _ in range(rng.randint(1, 12))]
        references[0][0] = draw(1)  # pycocoevalcap fails when no reference has a word
        yield [rng.choice([draw(0), rng.choice(captions)]) for captions in references], references
