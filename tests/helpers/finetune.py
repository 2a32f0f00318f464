"""Tiny models of transformers in folders with tokenizers, fine-tuned by the recipe, killed and resumed once."""

import signal
import subprocess
import sys
import time

from mmjax.data.text.word_vocab import EMBEDDED
from tests.helpers import runs

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
PAD, BOS, EOS, UNKNOWN, IMAGE = range(5)


def write_tokenizer(folder, more=()):
    """A tokenizer.json of undisturbed words, those of the drawn scenes and `more`; returns how many ids it has."""
    import tokenizers
    from tokenizers import AddedToken, models, pre_tokenizers, processors

    words = [*SPECIALS, *more, *EMBEDDED["shapes"].decode().split()]
    backend = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIALS])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    backend.save(str(folder / "tokenizer.json"))
    return len(words)


def _command(model, workdir, arg, flags):
    recipe = f"--config={runs.ROOT}/configs/finetune.py:model={model},steps=30,batch=4{arg}"
    common = ["--config.checkpoint.every=5", "--config.data.workers=0", "--config.log.every=1"]
    common += ["--config.schedule.warmup=1", "--config.optimizer.learning_rate=1e-2"]
    return [recipe, f"--workdir={workdir}", *common, *flags]


def train(model, folder, arg="", flags=()):
    """Trains as `killed_once` does, by the recipe."""
    return killed_once(lambda workdir: _command(model, workdir, arg, flags), folder, 30)


def killed_once(arguments, folder, steps):
    """Trains twice, once with a kill after the first checkpoint; returns the workdir, whose parameters are equal.

    Args:
      arguments: those of the command line, of a workdir.
      folder: for both workdirs.
      steps: of the run.
    """
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    assert runs.train_cli(*arguments(undisturbed)) == 0
    command = [sys.executable, f"{runs.ROOT}/train.py", *arguments(killed)]
    process = subprocess.Popen(command, env=runs.environment(), cwd=runs.ROOT, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 300
    while process.poll() is None and not runs.steps(killed) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    printed = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL and 0 < max(runs.steps(killed)) < steps, printed
    assert runs.train_cli(*arguments(killed)) == 0
    runs.assert_same_arrays(runs.arrays(undisturbed, steps), runs.arrays(killed, steps))
    return killed
