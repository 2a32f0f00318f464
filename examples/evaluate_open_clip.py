"""Weights of open_clip, evaluated by open_clip and by mmjax.

Command:
  python examples/evaluate_open_clip.py FOLDER

FOLDER holds `open_clip_config.json` and the weights, as the Hugging Face Hub has them and `mmjax convert --to=openclip`
writes them. Both libraries embed the digits of the test split and the same prompts; the last lines are what
`mmjax eval --model=FOLDER --config.data.eval=digits/test --output=FILE` writes. open_clip is not needed for those:
pip install open_clip_torch torch.
"""

import sys

import numpy as np
import open_clip
import torch
from PIL import Image

import mmjax
from mmjax.data.sources.digits import CLASS_NAMES, EVAL_TEMPLATES, Digits
from mmjax.inference.eval_model import open_model
from mmjax.inference.evaluate import evaluate_model

folder = sys.argv[1]
source = Digits("test")
records = [source[i] for i in range(len(source))]
images, labels = [Image.fromarray(record["image"]) for record in records], np.array([r["label"] for r in records])
prompts = [template.replace("{c}", name) for name in CLASS_NAMES for template in EVAL_TEMPLATES]


def accuracy(image_embeddings, prompt_embeddings):
    """Top-1 of the nearest class, the mean of its prompts."""
    classes = prompt_embeddings.reshape(len(CLASS_NAMES), len(EVAL_TEMPLATES), -1).mean(axis=1)
    return np.mean(
        np.argmax(image_embeddings @ (classes / np.linalg.norm(classes, axis=1, keepdims=True)).T, 1) == labels
    )


model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
with torch.no_grad():
    pixels = torch.stack([transform(image) for image in images])
    theirs = [model.encode_image(pixels, normalize=True), model.encode_text(tokenize(prompts), normalize=True)]
theirs = [embeddings.numpy() for embeddings in theirs]

model = mmjax.load(folder)
ours = [model.encode_image(images), model.encode_text(prompts)]

for name, a, b in zip(("images", "texts"), theirs, ours, strict=True):
    print(f"{len(a)} {name}: the largest difference of an embedding is {np.abs(a - b).max():.1e}")
print(f"zero-shot top-1: open_clip {accuracy(*theirs):.2%}, mmjax {accuracy(*ours):.2%}")
evaluate_model(open_model(folder, [("data.eval", "digits/test")]), output="open_clip_digits.json")
