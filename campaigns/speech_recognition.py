"""Speech recognition trained from scratch with a seed: what docs/recipes.md says that the recipe reaches.

python -m campaigns.speech_recognition --seed=0
python -m campaigns.speech_recognition --workdir=runs/asr

The second only measures a run that is there. It takes six minutes of processor time to train, and one to measure.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import mmjax
from campaigns.tiny_runs import ROOT
from mmjax.data.sources.tones import SAMPLE_RATE, Tones
from mmjax.inference.transcription import join
from mmjax.metrics.word_errors import score_transcripts
from mmjax.utils import terminal

# What word error rates are said to be at most: of either task, and of long sounds that are cut into windows.
MOST = {"test": 0.1, "test-translations": 0.1, "long": 0.1}
LENGTH, UTTERANCES = 1000, 10  # sounds of a split; of them in a long sound


def train(seed: int, workdir: Path) -> float:
    """Trains the recipe; gives the minutes of processor time that it took, evaluation and compilation included.

    Raises:
      CalledProcessError: the run fails.
    """
    config = f"--config={ROOT / 'configs' / 'asr.py'}"
    command = [sys.executable, str(ROOT / "train.py"), config, f"--workdir={workdir}", f"--config.seed={seed}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (usage.ru_utime + usage.ru_stime) / 60


def word_errors(workdir: Path) -> dict[str, float]:
    """Word error rates of held-out sounds, and of long ones made of them, with pauses of 40 to 240 ms between them."""
    model, rates = mmjax.load(workdir), {}
    for split, task in (("test", "transcribe"), ("test-translations", "translate")):
        records = [Tones(split, length=LENGTH)[i] for i in range(LENGTH)]
        texts = model.transcribe([r["modalities"]["audio"] for r in records], rate=SAMPLE_RATE, task=task)
        rates[split] = score_transcripts([r["captions"][0] for r in records], texts).metrics["wer"]
    records = [Tones("test", length=LENGTH)[i] for i in range(LENGTH)]
    trimmed = [_trimmed(record, np.random.default_rng(i)) for i, record in enumerate(records)]
    starts = range(0, LENGTH, UTTERANCES)
    segments = model.transcribe(
        [np.concatenate(trimmed[start : start + UTTERANCES]) for start in starts], rate=SAMPLE_RATE, timestamps=True
    )
    spoken = [" ".join(r["captions"][0] for r in records[start : start + UTTERANCES]) for start in starts]
    rates["long"] = score_transcripts(spoken, [join(parts) for parts in segments]).metrics["wer"]
    return rates


def _trimmed(record, rng: np.random.Generator) -> np.ndarray:
    """An utterance with 20 to 120 ms before its first word and after its last."""
    words, samples = record["annotation"]["words"], record["modalities"]["audio"]
    before, after = 0.02 + 0.1 * rng.random(2)
    start, stop = words[0]["start"] - before, words[-1]["end"] + after
    return samples[max(0, round(start * SAMPLE_RATE)) : round(stop * SAMPLE_RATE)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="of parameters and order; 0")
    parser.add_argument("--workdir", default="", help="of a run that is measured; none: one is trained")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(arguments.workdir) if arguments.workdir else Path(folder) / "run"
        if not arguments.workdir:
            terminal.show(f"{train(arguments.seed, workdir):.1f} minutes of processor time")
        rates = word_errors(workdir)
    for name, rate in rates.items():
        terminal.show(f"{name}: WER {rate:.2%}{'' if rate <= MOST[name] else '; more than it is said to be'}")
    return int(any(rate > MOST[name] for name, rate in rates.items()))


if __name__ == "__main__":
    sys.exit(main())
