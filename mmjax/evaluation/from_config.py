"""The evaluation of a config: every source, by all that its model is trained to do."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import registry, tasks
from mmjax.config.schema import RunConfig
from mmjax.data import mixture
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.evaluation import example_selection, prompts, results
from mmjax.evaluation.embedding import batched_apply, embedder, sharded_examples
from mmjax.evaluation.evaluators import attention_maps, contrastive
from mmjax.models.config import ImageTextConfig


class Evaluator:
    """The evaluation of a config; sources are opened once, and functions compiled once.

    Args:
      config: `data`, `eval`, `decoding` and `objectives` are read.
      task: the model's, see `mmjax.tasks.Task`.
      mesh: the device mesh.
      tokenizer, image_spec: preprocessing, as in training; None where the model has no use for them.

    Raises:
      UserError: an evaluation source cannot be opened, or lacks fields of what the model is trained to do.
    """

    def __init__(
        self,
        config: RunConfig,
        task: Any,
        mesh: Mesh,
        tokenizer: tokenizer_lib.Tokenizer | None,
        image_spec: transforms.ImageSpec | None,
    ):
        options = tasks.source_options(config, evaluation=True)
        sources = mixture.parse_eval(config.data.eval, options) if config.data.eval else []
        self.sources = [prompts.apply(source) for source in sources]
        self.image_spec = image_spec
        self.runner = batched_apply.BatchRunner(
            mesh, config.eval.batch_size, loss=config.loss.impl if task.is_contrastive else "dense"
        )
        self.evaluators = _make_evaluators(config, task, self.runner, tokenizer)
        # Modalities are arrays of any size, which are not sent around: every process reads all examples.
        self.shared_sources = [] if task.is_trained_with("classify") else self.sources
        self.config, self.task, self.mesh, self.tokenizer = config, task, mesh, tokenizer
        self.embedder = None
        embeds = task.num_image_embeddings and (task.is_contrastive or not self.evaluators)
        if self.sources and embeds and tokenizer is not None:
            self.embedder = embedder.MeshEmbedder(task, mesh, tokenizer, config.eval.batch_size)
        for source in self.sources:
            for evaluator in self.evaluators:
                if len(source) and (missing := evaluator.missing_fields(source[0])):
                    raise UserError(f"data.eval={config.data.eval!r}: {source.name!r} has no {missing}")

    def run(self, params: Any, *, keep_artifacts: bool = False) -> list[results.Evaluation]:
        """Evaluates parameters on every source; artifacts are for the report, of the first process alone."""
        if not self.sources:
            return []
        keep = keep_artifacts and jax.process_index() == 0
        examples = sharded_examples.make_examples(self.shared_sources, self.image_spec, self.runner)
        evaluations: list[results.Evaluation] = []
        for source in self.sources:
            if self.embedder is not None:
                evaluations += contrastive.evaluate(
                    [source], self.embedder.bind(params), examples=examples, keep_artifacts=keep
                )
            evaluations += [evaluator(params, source, examples(source), keep=keep) for evaluator in self.evaluators]
            if keep_artifacts and evaluations and (draw := self._attention_maps):
                panels = draw(params, examples(source), self._generated_text())
                if keep:
                    evaluations[-1] = _with_attention(evaluations[-1], panels)
        return evaluations

    @functools.cached_property
    def _attention_maps(self) -> attention_maps.AttentionMapRenderer | None:
        """Made for the first report, as most evaluations are for none; None for a model without attention maps."""
        model = self.config.model
        if self.tokenizer is None or not isinstance(model, ImageTextConfig) or not self.task.available_attention_maps:
            return None
        return attention_maps.AttentionMapRenderer(self.task, self.mesh, self.tokenizer, model.image.patch_size)

    def _generated_text(self) -> Callable[[int, Any], tuple[np.ndarray, int]] | None:
        """The generated text of the last source's examples, where an evaluator generates any."""
        generators = [evaluator for evaluator in self.evaluators if hasattr(evaluator, "generated_text")]
        return generators[0].generated_text if generators else None


def _make_evaluators(
    config: RunConfig, task: Any, runner: batched_apply.BatchRunner, tokenizer: tokenizer_lib.Tokenizer | None
) -> list[Any]:
    """The evaluators of what a model is trained to do, besides contrast."""
    trained = task.is_trained_with
    load = lambda name: registry.evaluations.load(name, where="objectives")
    evaluators: list[Any] = []
    if trained("classify"):
        evaluators.append(load("multimodal_classification")(task, runner))
    if trained("vqa"):
        evaluators.append(load("answer_classification")(task, runner, tokenizer))
    if trained("caption") and config.data.texts == "answers":
        evaluators.append(load("answer_generation")(task, runner, tokenizer))
    elif trained("caption"):
        evaluators.append(load("captioning")(task, runner, tokenizer, meteor=config.eval.meteor))
    if trained("itm"):
        evaluators.append(load("image_text_matching")(task, runner, tokenizer))
    if trained("mlm") or trained("mim"):
        evaluators.append(load("masked_modelling")(task, runner, tokenizer))
    return evaluators


def _with_attention(
    evaluation: results.Evaluation, panels: list[example_selection.AttentionPanels]
) -> results.Evaluation:
    artifacts = evaluation.artifacts or example_selection.Artifacts([], [])
    return dataclasses.replace(evaluation, artifacts=dataclasses.replace(artifacts, attention=panels))
