"""What a model embeds, recorded in one run and played back in another, in this process or in several.

In several: `python recorded_model.py MODE FILE --workdir=... --process=0`.
MODE is `record`, which writes every embedding to FILE (of the first process), or `replay`, which gives back those of
FILE whatever the model says.
"""

import contextlib
import json
import os
import sys
from unittest import mock

import numpy as np


class Recording:
    """Embeddings of images, pass by pass, and of texts by text."""

    def __init__(self):
        self.passes, self.texts = [], {}

    def save(self, path):
        texts = list(self.texts)
        arrays = {f"pass{i}": rows for i, rows in enumerate(self.passes)}
        np.savez(path, names=np.array(json.dumps(texts)), texts=np.stack([self.texts[t] for t in texts]), **arrays)

    @classmethod
    def load(cls, path):
        recording = cls()
        with np.load(path) as stored:
            recording.texts = dict(zip(json.loads(str(stored["names"])), stored["texts"], strict=True))
            recording.passes = [stored[f"pass{i}"] for i in range(len(stored.files) - 2)]
        return recording


@contextlib.contextmanager
def record():
    """Gives a `Recording` that fills while evaluations run in the block."""
    from mmjax.evaluation.embedding import embedder

    made, images, texts = Recording(), embedder.MeshEmbedder.images, embedder.MeshEmbedder.texts

    def record_images(self, stream):
        made.passes.append(images(self, stream))
        return made.passes[-1]

    def record_texts(self, wanted):
        rows = texts(self, wanted)
        made.texts.update(zip(wanted, rows, strict=True))
        return rows

    with mock.patch.multiple(embedder.MeshEmbedder, images=record_images, texts=record_texts):
        yield made


@contextlib.contextmanager
def replay(recording):
    """Evaluations in the block get the embeddings of a recording."""
    from mmjax.evaluation.embedding import embedder

    passes = iter(recording.passes)

    def images(self, stream):
        rows = next(passes)
        assert sum(1 for _ in stream) == len(rows)  # which also tells labels and captions
        return rows

    def texts(self, wanted):
        return np.stack([recording.texts[text] for text in wanted])

    with mock.patch.multiple(embedder.MeshEmbedder, images=images, texts=texts):
        yield


def main(mode, path, *argv):
    from mmjax.cli import main as main_lib
    from mmjax.report import page

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(page, "render_report", lambda **_: ""))
        made = stack.enter_context(record() if mode == "record" else replay(Recording.load(path)))
        stack.enter_context(mock.patch("mmjax.parallel.process_agreement.shutdown", lambda *_, **__: None))
        status = main_lib.main(["eval", *argv])
        import jax

        if mode == "record" and jax.process_index() == 0:
            made.save(path)
    jax.distributed.shutdown()
    return status


if __name__ == "__main__":
    sys.stdout.flush()
    status = main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
