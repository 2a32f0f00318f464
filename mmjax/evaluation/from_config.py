"""The evaluation of a config: every source, by all that its model is trained to do."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from mmjax.data import mixture
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.evaluation import example_selection, prompts, results
from mmjax.evaluation.embedding import batched_apply, embedder, sharded_examples
from mmjax.evaluation.evaluators import (
    attention_maps,
    captioning,
    contrastive,
    image_text_matching,
    masked_modelling,
    multimodal_classification,
    question_answering,
)


class Evaluator:
    """Sources opened once, functions compiled once.

    Args:
      config: `data`, `eval`, `decoding` and `objectives` are read.
      task: what the model can do: see `mmjax.tasks.Task`.
      mesh: the device mesh.
      tokenizer, image_spec: preprocessing, as in training; None where the model has no use for them.

    Raises:
      UserError: an evaluation source cannot be opened, or has not what the model is trained to do.
    """

    def __init__(
        self,
        config: Any,
        task: Any,
        mesh: Mesh,
        tokenizer: tokenizer_lib.Tokenizer | None,
        image_spec: transforms.ImageSpec | None,
    ):
        options = mixture.make_options(config, evaluation=True)
        opened = mixture.parse_eval(config.data.eval, options) if config.data.eval else []
        self.sources = [prompts.apply(source) for source in opened]
        self.image_spec = image_spec
        feeder = batched_apply.Feeder(
            mesh, config.eval.batch_size, loss=config.loss.impl if task.is_contrastive else "dense"
        )
        self.feeder = feeder
        self.reads_all = task.is_trained_with("classify")
        self.parts: list[Callable[..., results.Evaluation]] = []
        if task.is_trained_with("classify"):
            self.parts.append(multimodal_classification.FusedEvaluation(task, feeder))
        if task.is_trained_with("vqa"):
            self.parts.append(question_answering.AnswerEvaluation(task, feeder, tokenizer))
        if task.is_trained_with("caption") and config.data.texts == "answers":
            self.parts.append(question_answering.WrittenAnswers(task, feeder, tokenizer))
        elif task.is_trained_with("caption"):
            self.parts.append(captioning.CaptionEvaluation(task, feeder, tokenizer, meteor=config.eval.meteor))
        if task.is_trained_with("itm"):
            self.parts.append(image_text_matching.MatchEvaluation(task, feeder, tokenizer))
        if task.is_trained_with("mlm") or task.is_trained_with("mim"):
            self.parts.append(masked_modelling.MaskEvaluation(task, feeder, tokenizer))
        self.inside = attention_maps.InsideView(task, mesh, tokenizer) if task.available_attention_maps else None
        self.embedder = None
        if task.num_image_embeddings and (task.is_contrastive or not self.parts):
            self.embedder = embedder.MeshEmbedder(task, mesh, tokenizer, config.eval.batch_size)
        for source in self.sources:
            for part in self.parts:
                if len(source) and (lacking := part.lacking(source[0])):
                    raise UserError(f"data.eval={config.data.eval!r}: {source.name!r} has no {lacking}")

    def run(self, params: Any, *, keep_artifacts: bool = False) -> list[results.Evaluation]:
        """Evaluates parameters on every source; artifacts are what the report shows, for the first process alone."""
        keep = keep_artifacts and jax.process_index() == 0
        # Modalities are arrays of any size, which are not sent around: every process reads all examples.
        shared = [] if self.reads_all else self.sources
        examples = sharded_examples.make_examples(shared, self.image_spec, self.feeder)
        found = []
        for source in self.sources:
            if self.embedder is not None:
                found += contrastive.evaluate(
                    [source], self.embedder.bind(params), examples=examples, keep_artifacts=keep
                )
            found += [part(params, source, examples(source), keep=keep) for part in self.parts]
            if keep_artifacts and self.inside is not None and found:
                writes = [part.written for part in self.parts if hasattr(part, "written")]
                images = self.inside(params, examples(source), writes[0] if writes else None)
                if keep:
                    kept = found[-1].artifacts or example_selection.Artifacts([], [])
                    found[-1] = dataclasses.replace(found[-1], artifacts=dataclasses.replace(kept, inside=images))
        return found


def flat_metrics(evaluations: list[results.Evaluation]) -> dict[str, float]:
    """All metrics as `DATASET/METRIC`."""
    return {f"{e.dataset}/{name}": value for e in evaluations for name, value in e.metrics.items()}
