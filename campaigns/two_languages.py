"""A multilingual CLIP end to end: open_clip's weights with XLM-RoBERTa, fine-tuned on captions in two languages.

python -m campaigns.two_languages --seed=0 --steps=300 --count=2000

Drawn scenes are written as files, with their captions and the same word for word in German. The run starts from a
folder as OpenCLIP has it, is killed once after a checkpoint and started again, and is evaluated by retrieval in either
language; then it is written back, and open_clip embeds the texts alike. Needs the extra `full`; three minutes.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from campaigns import tiny_runs
from campaigns.command import make_parser
from mmjax.utils import terminal

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

TOLERANCE = 1e-5
_QUICK = 50  # steps of a run that is not worth optimising what it compiles
CONTEXT, SIDE, LARGEST_TEST = 24, 32, 100
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
GERMAN = {
    **{"a": "ein", "and": "und", "above": "ueber", "below": "unter", "left": "links", "right": "rechts", "of": "von"},
    **{"small": "kleines", "large": "grosses", "red": "rotes", "green": "gruenes", "blue": "blaues"},
    **{"yellow": "gelbes", "circle": "rund", "square": "quadrat", "triangle": "dreieck", "cross": "kreuz"},
    **{"orange": "oranges", "purple": "lila", "pink": "rosa", "white": "weisses", "ring": "reif"},
}


def translate(caption: str) -> str:
    """A caption word for word; a word that the table lacks gets an ending."""
    return " ".join(GERMAN.get(word, f"{word}en") for word in caption.split())


def write_data(folder: Path, count: int) -> list[str]:
    """Writes scenes as files with tables of their captions: of both languages, and of either for evaluation.

    Args:
      folder: for `train.csv`, `test_en.csv`, `test_de.csv` and the images.
      count: of the training set; of the test set a fifth of it, and 100 at most.

    Returns:
      The words of both languages.
    """
    from PIL import Image

    from mmjax.data.sources.shapes import Shapes

    words: set[str] = set()
    for split, length in (("train", count), ("test", min(LARGEST_TEST, count // 5))):
        source = Shapes(split, SIDE)
        rows: dict[str, list[tuple[str, str]]] = {"en": [], "de": []}
        for number in range(length):
            record: Any = source[number]
            name = f"{split}_{number}.png"
            Image.fromarray(np.asarray(record["image"])).save(folder / name)
            for language, caption in (("en", record["captions"][0]), ("de", translate(record["captions"][0]))):
                rows[language].append((name, caption))
                words |= set(caption.split())
        tables = {"train": rows["en"] + rows["de"]}
        if split == "test":
            tables = {f"test_{language}": lines for language, lines in rows.items()}
        for name, lines in tables.items():
            with (folder / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([("path", "caption"), *lines])
    return sorted(words)


def write_weights(folder: Path, words: list[str], seed: int) -> None:
    """Writes a small XLM-RoBERTa CLIP of open_clip's with random weights, its configs, and a tokenizer of the words."""
    import open_clip
    import tokenizers
    import torch
    from safetensors.torch import save_file

    names = [*SPECIALS, *words]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    around = [(name, names.index(name)) for name in ("<s>", "</s>")]
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    folder.mkdir()
    backend.save(str(folder / "tokenizer.json"))

    tower = dict(model_type="xlm-roberta", vocab_size=len(names), hidden_size=64, num_hidden_layers=2)
    tower |= dict(num_attention_heads=4, intermediate_size=128, max_position_embeddings=CONTEXT + 8, pad_token_id=1)
    (folder / "config.json").write_text(json.dumps(tower | dict(type_vocab_size=1, layer_norm_eps=1e-5)))
    text = dict(hf_model_name=str(folder), hf_model_pretrained=False, hf_pooler_type="mean_pooler")
    text |= dict(context_length=CONTEXT, hf_tokenizer_name="somebody/a-tower")
    vision = dict(image_size=SIDE, patch_size=8, layers=3, width=64, head_width=16)
    config = dict(embed_dim=64, vision_cfg=vision, text_cfg=text)
    torch.manual_seed(seed)
    model = open_clip.CustomTextCLIP(**config)
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    named = config | {"text_cfg": text | {"hf_model_name": "somebody/a-tower"}}
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=named)))


def train_command(folder: Path, steps: int, flags: list[str]) -> list[str]:
    """The command of the run in `folder/run`."""
    recipe = tiny_runs.ROOT / "examples/finetune.py"
    config = f"{recipe}:weights={folder / 'theirs'},steps={steps},batch=64,lr=1e-3"
    command = [sys.executable, str(tiny_runs.ROOT / "train.py"), f"--config={config}", f"--workdir={folder / 'run'}"]
    data = f"--config.data.train=pairs:{folder / 'train.csv'}"
    evaluated = "+".join(f"pairs:{folder / f'test_{language}.csv'}" for language in ("en", "de"))
    settings = [data, f"--config.data.eval={evaluated}", "--config.data.workers=0", "--config.precision=float32"]
    settings += ["--config.optimizer.layer_decay.image=1.0", "--config.optimizer.layer_decay.text=1.0"]
    settings += [f"--config.checkpoint.every={max(2, steps // 4)}", f"--config.eval.every={steps}"]
    return [*command, *settings, "--config.log.tensorboard=False", "--config.log.every=1", *flags]


def kill_and_resume(folder: Path, steps: int, flags: list[str]) -> None:
    """Trains; kills the run once it has a checkpoint, and starts it again.

    Raises:
      RuntimeError: it ended before it was killed.
      CalledProcessError: the second start fails.
    """
    command = train_command(folder, steps, flags)
    environment = {**tiny_runs.environment()}
    if steps > _QUICK:
        del environment["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not [path for path in (folder / "run" / "checkpoints").glob("*") if path.name.isdigit()]:
            if process.poll() is not None:
                raise RuntimeError(f"the run ended with {process.returncode} before it had a checkpoint")
            time.sleep(0.05)
        process.kill()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


def recalls(folder: Path) -> dict[str, float]:
    """The last evaluation's recalls, by language and direction."""
    evaluation = [line for line in tiny_runs.metrics(folder / "run") if line["kind"] == "eval"][-1]
    result = {}
    for language in ("en", "de"):
        for direction in ("image", "text"):
            ending = f"test_{language}/{direction}_retrieval_recall@1"
            result[f"{language} {direction}"] = next(v for name, v in evaluation.items() if name.endswith(ending))
    return result


def difference_there(folder: Path) -> float:
    """How far open_clip is from the run, written in its format: the largest difference of embeddings of texts."""
    import open_clip
    import torch

    import mmjax
    from mmjax.inference import convert

    convert.convert(folder / "run", folder / "ours", to="openclip")
    config = json.loads((folder / "ours" / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["hf_model_name"] = str(folder / "ours")
    model = open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    open_clip.load_checkpoint(model, str(folder / "ours" / "open_clip_model.safetensors"), strict=True)
    loaded = mmjax.load(folder / "run")
    captions = [row[1] for name in ("en", "de") for row in csv.reader((folder / f"test_{name}.csv").open())][1:]
    ids = loaded.tokenize(captions)
    with torch.no_grad():
        theirs = model.encode_text(torch.from_numpy(ids.astype(np.int64)), normalize=True).numpy()
    return float(abs(loaded.encode_text(captions) - theirs).max())


def run(folder: Path, seed: int, steps: int, count: int) -> tuple[dict[str, float], float]:
    """The recalls in either language, and how far open_clip is from what is written for it."""
    words = write_data(folder, count)
    write_weights(folder / "theirs", words, seed)
    kill_and_resume(folder, steps, [f"--config.seed={seed}"])
    return recalls(folder), difference_there(folder)


def main() -> int:
    parser = make_parser(__doc__, 2000)
    parser.add_argument("--steps", type=int, default=300, help="of training, of 64 pairs; 300")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reached, difference = run(Path(folder), arguments.seed, arguments.steps, arguments.count)
    chance = 1 / min(LARGEST_TEST, arguments.count // 5)
    for name, recall in reached.items():
        terminal.show(f"{name} retrieval, recall@1: {recall:.1%} (chance {chance:.1%})")
    terminal.show(f"open_clip's embeddings of what is written for it differ by {difference:.1e}")
    return int(min(reached.values()) < 0.5 or difference > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
