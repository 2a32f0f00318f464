"""Images found by words, and a map of their embeddings.

Command:
  python examples/search_and_plot.py runs/quickstart found.png "a red circle above a blue square"
  python examples/search_and_plot.py runs/clip found.png --images=PHOTOS "a dog in the snow"

The model is whatever `mmjax.load` reads. Without a folder of images, the 1,000 held-out scenes are searched.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image
from sklearn.decomposition import PCA

import mmjax
from mmjax.data.sources.shapes import Shapes

TOP = 6

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("output")
parser.add_argument("queries", nargs="+")
parser.add_argument("--images", help="a folder, with its sub-folders")
args = parser.parse_args()

if args.images:
    paths = sorted(path for path in Path(args.images).rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    images, names = [Image.open(path).convert("RGB") for path in paths], [path.name for path in paths]
else:
    records = list(map(Shapes("test").__getitem__, range(1000)))
    images, names = (
        [Image.fromarray(record["image"]) for record in records],
        [record["captions"][0] for record in records],
    )

model = mmjax.load(args.model)
gallery = model.encode_image(images)  # [N, E], rows of unit length
queries = model.encode_text(args.queries)  # [Q, E]
similarity = queries @ gallery.T  # [Q, N]
nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :TOP]

for query, row, scores in zip(args.queries, nearest, similarity, strict=True):
    print(query)
    for i in row:
        print(f"  {scores[i]:.3f}  {names[i]}")

# The images that were found, a row a query; below, a map on which those near one another look alike to the model.
figure = Figure(figsize=(1.4 * TOP, 1.6 * len(args.queries) + 4.5), layout="constrained")
parts = figure.subfigures(2, 1, height_ratios=[1.6 * len(args.queries), 4.5])
for query, row, scores, axes in zip(
    args.queries, nearest, similarity, parts[0].subplots(len(args.queries), TOP, squeeze=False), strict=True
):
    axes[0].set_title(query, loc="left", fontsize=9)
    for i, axis in zip(row, axes, strict=False):
        axis.imshow(images[i])
        axis.set_xlabel(f"{scores[i]:.3f}", fontsize=8)
    for axis in axes:
        axis.set(xticks=[], yticks=[])

axis = parts[1].subplots()
points = PCA(2, random_state=0).fit_transform(gallery)
axis.scatter(*points.T, s=0)
for point, image in list(zip(points, images, strict=True))[:200]:
    axis.add_artist(AnnotationBbox(OffsetImage(image.resize((32, 32)), zoom=0.5), point, frameon=False))
axis.set(xticks=[], yticks=[])
axis.set_title("two principal components of the embeddings", fontsize=9)
figure.savefig(args.output, dpi=80)
print(f"written: {args.output}")
