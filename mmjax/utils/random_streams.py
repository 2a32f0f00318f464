"""The numbers of all random streams, one enumeration for what is folded into one kind of key.

Runs resume and results repeat because these numbers never change: a new stream takes a number that its level does not
have. Layers, steps and samples are folded in by their index; those levels have no names.
"""

import enum


@enum.unique
class ExampleStream(enum.IntEnum):
    """Streams of an example's key, for the noise of layers (below `DRAW_MASKED_WORDS`) and what objectives draw."""

    IMAGE = 0
    TEXT = 1
    FUSION = 2
    DECODER = 3
    MASKED_TEXT = 4
    MASKED_TEXT_FUSION = 5
    MASKED_IMAGE = 6
    MASKED_IMAGE_FUSION = 7
    MATCHING = 8  # and the two after it: of the pair, with another text, with another image
    VIDEO = 16
    AUDIO = 17
    SERIES = 18
    TABLE = 19
    SYNC_WINDOWS = 20  # each window's number is folded in
    DRAW_MASKED_WORDS = 64
    DRAW_MASKED_PATCHES = 65
    DRAW_HIDDEN_MODALITIES = 66
    DRAW_NEGATIVES = 67
    DRAW_CAPTION = 68


@enum.unique
class TrainingStream(enum.IntEnum):
    """Streams of the key that parameters are drawn from, beside the model's own: adapters, each by its path."""

    ADAPTERS = 2**31 - 1


@enum.unique
class NegativeStream(enum.IntEnum):
    """Streams of `ExampleStream.DRAW_NEGATIVES`: the negatives of each kind."""

    TEXT_FOR_IMAGE = 0
    IMAGE_FOR_TEXT = 1


@enum.unique
class EncoderStream(enum.IntEnum):
    """Streams of one encoder or decoder: its embedded tokens, its layers, its learned queries, a video's frames,
    the layers that read a question for it.
    """

    EMBEDDING = 0
    LAYERS = 1
    QUERIES = 2
    FRAMES = 3  # each frame's number is folded in
    QUESTION = 4


@enum.unique
class BranchStream(enum.IntEnum):
    """Streams of one layer: the dropout of each residual branch; the number after it is the branch's drop path."""

    ATTENTION = 0
    MLP = 2
    CROSS_ATTENTION = 4
    CROSS_MLP = 6


@enum.unique
class LSTMCaptionerStream(enum.IntEnum):
    """Streams of the LSTM captioner: embedded words, steps of the LSTM, what the logits are read from."""

    WORDS = 0
    STEPS = 1
    READOUT = 2


@enum.unique
class LSTMReadoutStream(enum.IntEnum):
    """Streams of `LSTMCaptionerStream.READOUT`, which itself is the noise of the LSTM's output."""

    SUM = 0


@enum.unique
class ClassifierStream(enum.IntEnum):
    """Streams of the classifier of several modalities: its encoders, which have a number each, and its fusion."""

    ENCODERS = 0
    FUSION = 2


@enum.unique
class CorruptionStream(enum.IntEnum):
    """Seeds of the corruption of held-out examples; the modality's number of `ExampleStream` is hashed in."""

    NOISE = 64
    DROP = 65
    CHARACTERS = 66


@enum.unique
class SensorStream(enum.IntEnum):
    """Seeds of the synthetic `sensors:` source, by split."""

    TRAIN = 1
    TEST = 2


@enum.unique
class MovingStream(enum.IntEnum):
    """Seeds of the embedded `moving` and `actions`; apart from `SensorStream`'s and `ToneStream`'s."""

    TRAIN = 3
    TEST = 4
    TEST_SCENES = 5


@enum.unique
class ToneStream(enum.IntEnum):
    """Seeds of the embedded `tones`; apart from `SensorStream`'s and `MovingStream`'s."""

    TRAIN = 6
    TEST = 7
    TEST_TRANSCRIPTS = 8


@enum.unique
class ClickStream(enum.IntEnum):
    """Seeds of the embedded `clicks`; apart from those of the other embedded sources."""

    TRAIN = 9
    TEST = 10


@enum.unique
class VideoQuestionStream(enum.IntEnum):
    """Seeds of the embedded `video_questions`; apart from those of the other embedded sources."""

    TRAIN = 11
    TEST = 12


@enum.unique
class BouncingStream(enum.IntEnum):
    """Seeds of the embedded `bouncing`; apart from those of the other sources."""

    TRAIN = 20
    TEST = 21


@enum.unique
class SynchronizationStream(enum.IntEnum):
    """Seed of the shifts by which evaluation moves the sounds of its clips; apart from those of sources."""

    SHIFT = 22


@enum.unique
class InstrumentStream(enum.IntEnum):
    """Seeds of the embedded `instruments`; apart from those of other embedded sources."""

    TRAIN = 30
    TEST = 31
    TEST_TUNES = 32


@enum.unique
class PositionStream(enum.IntEnum):
    """Streams of a position of training, beside that of its example, which is numbered by the attempt alone."""

    PARTNERS = 1  # and the attempt, the partner's number and its attempt


@enum.unique
class SeparationStream(enum.IntEnum):
    """Streams of the evaluation `source_separation`, of its seed."""

    PARTNERS = 1
