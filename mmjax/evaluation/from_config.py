"""The evaluation of a config: every source, by what `eval.tasks` names or by all that its model is trained to do."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from mmjax import registry, tasks
from mmjax.config.schema import RunConfig
from mmjax.data import mixture
from mmjax.data.source_protocols import Source, SourceOptions
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, example_selection, prompts, results, task_choice
from mmjax.evaluation.corrupted import checked_sweeps
from mmjax.evaluation.embedding import embedder, sharded_examples
from mmjax.evaluation.evaluation_task import EvaluatedModel, EvaluatedSource
from mmjax.evaluation.evaluators import attention_maps
from mmjax.evaluation.views import view_specs
from mmjax.parallel import log
from mmjax.tasks import capabilities, config_queries


@dataclasses.dataclass(frozen=True)
class _Plan:
    """A source, the evaluations that are run on it, and what probes learn from."""

    source: Source
    names: list[str]
    train: Source | None = None


class Evaluator:
    """The evaluation of a config; sources are opened once, and functions compiled once.

    Args:
      config: `data`, `eval`, `decoding` and `objectives` are read.
      task: the model's, see `mmjax.tasks.Task`.
      mesh: the device mesh.
      tokenizer: as in training; None where the model has no use for it.

    Raises:
      UserError: an evaluation source cannot be opened, or lacks fields of what the model is trained to do; or
        `eval.tasks` names what there is not, or what is not for the model or any source.
    """

    def __init__(
        self,
        config: RunConfig,
        task: tasks.Task,
        mesh: Mesh,
        tokenizer: tokenizer_lib.Tokenizer | None,
    ):
        task_choice.check_model(config.eval.tasks, task, f"eval.tasks={config.eval.tasks!r}")
        self.config, self.task, self.mesh, self.tokenizer = config, task, mesh, tokenizer
        options = tasks.source_options(config, evaluation=True)
        sources = mixture.parse_eval(config.data.eval, options) if config.data.eval else []
        self.sources = [prompts.apply(source) for source in sources]
        self.specs, self.views = task.input_specs, view_specs(task, config.eval)
        self.plans = self._with_train(self._named() if config.eval.tasks else self._default(), options)
        model = EvaluatedModel.make(task, mesh, config, config.eval)
        self.runner = model.runner
        names = dict.fromkeys(name for plan in self.plans for name in plan.names)
        loaded = {name: evaluation_task.load(name) for name in names}
        self.evaluators = {name: evaluation_task.make_evaluator(name, model) for name in names}
        self.sweeps = checked_sweeps(task, config.eval)
        if self.sweeps and not any(info.curves for info in loaded.values()):
            others = ", ".join(name for name in registry.evaluations if evaluation_task.load(name).curves)
            raise UserError(
                f"eval.corrupt={config.eval.corrupt!r}: {', '.join(loaded) or 'nothing'} is evaluated, and not run on"
                f" corrupted examples; leave it empty, or evaluate one of {others}"
            )
        self.embedder = None
        if any(info.embeds for info in loaded.values()):
            self.embedder = embedder.MeshEmbedder(task, mesh, model.tokenizer, config.eval.batch_size)
            self.embedder.specs = self.views or self.specs

    @property
    def metric_groups(self) -> list[str]:
        """What metrics stand under in a run's log: sources, and evaluations of theirs, see `results.log_group`."""
        groups = (results.log_group(plan.source.name, name) for plan in self.plans for name in plan.names)
        return list(dict.fromkeys((*(source.name for source in self.sources), *groups)))

    def run(self, params: Any, *, keep_artifacts: bool = False) -> list[results.Evaluation]:
        """Evaluates parameters on every source; artifacts are for the report, of the first process alone."""
        if not self.sources:
            return []
        if self.embedder is not None:
            self.embedder.bind(params)
        shared = [source for plan in self.plans for source in (plan.source, plan.train) if source is not None]
        examples = sharded_examples.make_examples(shared, self.specs, self.runner)
        evaluations: list[results.Evaluation] = []
        for plan in self.plans:
            data = EvaluatedSource(
                plan.source,
                params,
                examples,
                specs=self.specs,
                views=self.views,
                bound_embedder=self.embedder,
                train=plan.train,
                has_report=keep_artifacts,
                sweeps=self.sweeps,
            )
            outcomes = [evaluation_task.evaluate(name, self.evaluators[name], data) for name in plan.names]
            if keep_artifacts and outcomes and (draw := self._attention_maps):
                panels = draw(params, data.examples, self._generated_text(plan.names))
                if data.keep:
                    outcomes[-1] = _with_attention(outcomes[-1], panels)
            evaluations += outcomes
        return evaluations

    def _default(self) -> list[_Plan]:
        """All that the model is trained to do.

        Raises:
          UserError: a source lacks the fields of it.
        """
        for name, remedy in registry.evaluations.absent().items():
            log.info(f"note: the evaluation {name!r} is not run; it is {remedy}")
        plans = []
        for source in self.sources:
            chosen: list[str] = []
            for name in task_choice.default_names(self.task, source):
                info = evaluation_task.load(name)
                if info.fallback_for in chosen:
                    continue
                missing = task_choice.lacking_classes(info, source) or task_choice.lacking_fields(
                    name, source, task_choice.seen_by(self.task)
                )
                if missing and info.by_default == "always":
                    raise UserError(
                        f"data.eval={self.config.data.eval!r}: {source.name!r} has no {missing}, which"
                        f" {capabilities.describe_model(self.config)} is evaluated by; leave it out, or name what is to"
                        " be run in eval.tasks"
                    )
                if not missing and (self.config.eval.train or not info.needs_train):
                    self._check(name, source)
                    chosen.append(name)
            if not chosen:
                model = capabilities.describe_model(self.config)
                raise UserError(
                    f"data.eval={self.config.data.eval!r}: {source.name!r} has nothing that {model} is evaluated by;"
                    " leave it out"
                )
            plans.append(_Plan(source, chosen))
        return plans

    def _named(self) -> list[_Plan]:
        """What `eval.tasks` names, on the sources that have what it needs.

        Raises:
          UserError: none of them has.
        """
        names: dict[str, list[str]] = {source.name: [] for source in self.sources}
        for name in dict.fromkeys(self.config.eval.tasks):
            info, field = evaluation_task.load(name), f"eval.tasks={self.config.eval.tasks!r}"
            lacking = {}
            for source in self.sources:
                missing = task_choice.lacking_classes(info, source) or task_choice.lacking_fields(
                    name, source, task_choice.seen_by(self.task)
                )
                if missing:
                    lacking[source.name] = missing
                else:
                    self._check(name, source)
                    names[source.name].append(name)
            if lacking and len(lacking) == len(self.sources):
                raise UserError(
                    f"{field}: {name} needs {next(iter(lacking.values()))}, and nothing of"
                    f" data.eval={self.config.data.eval!r} has that; leave it out, or name other data"
                )
            for dataset, missing in lacking.items():
                log.info(f"note: {name} is not run on {dataset}, which has no {missing}")
        return [_Plan(source, names[source.name]) for source in self.sources]

    def _check(self, name: str, source: Source) -> None:
        evaluation_task.check(name, source, self.config.eval, self.task)

    def _with_train(self, plans: list[_Plan], options: SourceOptions) -> list[_Plan]:
        """The plans with the sources that probes learn from, which are opened.

        Raises:
          UserError: there are not as many of `eval.train` as probes need, or one cannot be opened or has other classes.
        """
        learns = [any(evaluation_task.load(name).needs_train for name in plan.names) for plan in plans]
        chosen = [plan.source.name for plan, is_learning in zip(plans, learns, strict=True) if is_learning]
        text = self.config.eval.train
        specs = mixture.split_sources(text) if text else []
        if not chosen:
            return plans
        if len(specs) != len(chosen):
            raise UserError(
                f"eval.train={text!r} names {len(specs)} sources to learn from, and probes are run on"
                f" {len(chosen)} of data.eval ({', '.join(chosen)}); name one for each, joined by '+'"
            )
        result, remaining = [], iter(specs)
        every = mixture.options_by_source(options, len(plans))
        for plan, is_learning, of_source in zip(plans, learns, every, strict=True):
            if is_learning:
                spec = next(remaining)
                train = mixture.open_source(spec, of_source, field="eval.train")
                train.name = f"{plan.source.name}/train"
                task_choice.check_train(train, plan.source, f"eval.train={spec!r}")
                plan = dataclasses.replace(plan, train=train)
            result.append(plan)
        return result

    @functools.cached_property
    def _attention_maps(self) -> Any:
        """Made for the first report, as most evaluations are for none; None for a model without attention maps."""
        if self.task.shown_modalities:
            return attention_maps.ModalityAttentionRenderer(self.task, self.mesh)
        patch = config_queries.patch_size(self.config) if self.task.seen == "image" else 0
        has_places = patch or self.task.seen != "image"
        if self.tokenizer is None or not has_places or not self.task.available_attention_maps:
            return None
        return attention_maps.AttentionMapRenderer(self.task, self.mesh, self.tokenizer, patch)

    def _generated_text(self, names: Sequence[str]) -> Any:
        """The generated text of the last source's examples, where one of its evaluations generates any."""
        generators = [self.evaluators[name] for name in names if hasattr(self.evaluators[name], "generated_text")]
        return getattr(generators[0], "generated_text", None) if generators else None


def _with_attention(
    evaluation: results.Evaluation, panels: list[example_selection.AttentionPanels]
) -> results.Evaluation:
    artifacts = evaluation.artifacts or example_selection.Artifacts([], [])
    return dataclasses.replace(evaluation, artifacts=dataclasses.replace(artifacts, attention=panels))
