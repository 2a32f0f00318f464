"""The numbers of random streams, which runs that resume and results that repeat rely on."""

import enum

from mmjax.utils import random_streams


def test_numbers_stay_what_they_are():
    kinds = [value for value in vars(random_streams).values() if isinstance(value, type) and value is not enum.IntEnum]
    assert {kind.__name__: [int(stream) for stream in kind] for kind in kinds} == {
        "ExampleStream": [*range(9), *range(16, 21), *range(64, 69)],
        "TrainingStream": [2**31 - 1],
        "NegativeStream": [0, 1],
        "EncoderStream": [0, 1, 2, 3, 4],
        "BranchStream": [0, 2, 4, 6],
        "LSTMCaptionerStream": [0, 1, 2],
        "LSTMReadoutStream": [0],
        "ClassifierStream": [0, 2],
        "CorruptionStream": [64, 65, 66],
        "SensorStream": [1, 2],
        "MovingStream": [3, 4, 5],
        "ToneStream": [6, 7, 8],
        "ClickStream": [9, 10],
        "VideoQuestionStream": [11, 12],
        "BouncingStream": [20, 21],
        "SynchronizationStream": [22],
        "InstrumentStream": [30, 31, 32],
        "PositionStream": [1],
        "SeparationStream": [1],
    }
