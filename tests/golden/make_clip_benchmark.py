"""Makes clip_benchmark.npz: CLIP_benchmark's own metric functions on random embeddings.

  python -m tests.golden.make_clip_benchmark          needs torch and clip-benchmark==1.6.1 (pip install --no-deps)

Only its functions on arrays are called, as its `evaluate` calls them; the embeddings are stored with what they gave.
"""

from pathlib import Path

import numpy as np
import torch
from clip_benchmark.metrics import image_caption_selection, zeroshot_classification, zeroshot_retrieval
from sklearn.metrics import top_k_accuracy_score


class Fixed:
    """A model whose inputs are its embeddings, and a tokenizer that looks texts up."""

    def __init__(self, texts):
        self.texts = texts

    def encode_image(self, images):
        return images.reshape(len(images), -1)

    def encode_text(self, rows):
        return rows

    def __call__(self, texts):
        return torch.from_numpy(np.stack([self.texts[text] for text in texts]))


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def main():
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(60, 24)))
    text_image = np.repeat(np.arange(60), rng.integers(4, 8, 60))
    texts = unit(images[text_image] + 0.4 * rng.normal(size=(len(text_image), 24)))
    named = {str(i): row for i, row in enumerate(texts)}
    batches, start = [], 0
    for size in (25, 25, 10):
        captions = [[str(t) for t in np.flatnonzero(text_image == i)] for i in range(start, start + size)]
        batches.append((torch.from_numpy(images[start : start + size]).reshape(size, 24, 1, 1), captions))
        start += size
    model = Fixed(named)
    result = zeroshot_retrieval.evaluate(model, batches, model, "cpu", amp=False, recall_k_list=[1, 5, 10])

    prompts = {f"{c} {t}": rng.normal(size=24).astype(np.float32) for c in range(7) for t in "abc"}
    names, model = [str(c) for c in range(7)], Fixed(prompts)
    per_class = {c: [f"{c} {t}" for t in "abc"[: 1 + int(c) % 3]] for c in names}
    labels, targets = rng.integers(0, 7, 60), rng.random((60, 7)) < 0.3
    for kind, templates in (("shared", ["{c} a", "{c} b", "{c} c"]), ("own", per_class)):
        classifier = zeroshot_classification.zero_shot_classifier(model, model, names, templates, "cpu", amp=False)
        pictures = unit(images + 0.25 * classifier.T.numpy()[labels])
        logits, target = zeroshot_classification.run_classification(
            model, classifier, [(torch.from_numpy(pictures), torch.from_numpy(labels))], "cpu", amp=False
        )
        # Its `accuracy` fails under NumPy 2.4 (float() of an array of one); scikit-learn's is the same.
        acc1, acc5 = (top_k_accuracy_score(target, logits, k=k, labels=range(7)) for k in (1, 5))
        recall = zeroshot_classification.balanced_accuracy_score(target, logits.argmax(axis=1))
        precision = zeroshot_classification.average_precision_per_class(logits, torch.from_numpy(targets)).mean()
        result |= {f"{kind} acc1": acc1, f"{kind} acc5": acc5, f"{kind} mean_per_class_recall": recall}
        result |= {f"{kind} mean_average_precision": float(precision)}

    pairs = unit(rng.normal(size=(80, 2, 24)))
    captions = unit(pairs + 0.9 * rng.normal(size=(80, 2, 24)) / 24**0.5 * 3)
    model = Fixed({f"{i} {j}": captions[i, j] for i in range(80) for j in range(2)})
    batch = torch.from_numpy(pairs).reshape(80, 2, 24, 1, 1), [[f"{i} 0", f"{i} 1"] for i in range(80)]
    chosen = image_caption_selection.evaluate(model, [batch], model, "cpu", amp=False)
    crepe = image_caption_selection.evaluate(model, [(batch[0][:, 0], batch[1])], model, "cpu", amp=False)
    result |= {f"winoground {name}": value for name, value in chosen.items()} | {"sugarcrepe": crepe["text_acc"]}

    np.savez_compressed(
        Path(__file__).parent / "clip_benchmark.npz",
        images=images,
        texts=texts,
        text_image=text_image,
        prompt_names=np.array(list(prompts)),
        prompts=np.stack(list(prompts.values())),
        labels=labels,
        targets=targets,
        pairs=pairs,
        captions=captions,
        metric_names=np.array(list(result)),
        metric_values=np.array([float(value) for value in result.values()]),
    )
    print(result)


if __name__ == "__main__":
    main()
