"""Faults of a plugin's code: one line with its kind, its name, its file and line, before anything is made."""

import itertools
from unittest import mock

import numpy as np
import pytest

from mmjax import plugin_imports, tasks
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.mixture import open_source
from mmjax.errors import UserError
from mmjax.evaluation import evaluation_task, task_choice
from mmjax.parallel import mesh as mesh_lib
from mmjax.training import train
from tests.helpers import plugin_files, runs

PLUGIN = """
import jax
import jax.numpy as jnp
import numpy as np
import optax

from mmjax.plugin import *  # noqa: F403
from mmjax.plugin import (
    Objective, Record, TokenLoss, Tokenizer, UpdateRule, log_writers, objectives, optimizers, sources, tokenizers,
)

def mean(inputs):
    return jnp.zeros(()), {}

def sums(features, settings):
    x = features.embeddings["image"].sum(-1)
    return TokenLoss(x, jnp.ones_like(x), {})

def batch(function):
    objectives.register("foo")(Objective(function, scope="batch", needs=("embeddings",), features=("embeddings",)))

def example(function):
    objectives.register("foo")(Objective(function, scope="example", needs=("embeddings",)))

def rule(make):
    optimizers.register("foo")(UpdateRule(make))

class Writer:
    def __init__(self, workdir, *, settings, name, fields): pass
    def resume(self, step, *, evaluated): pass
    def write(self, step, kind, metrics): pass
    def flush(self): pass
    def close(self): pass

class Data:
    name = "foo"
    class_names = templates = None
    def __init__(self, split, *, options, field): pass
    def __len__(self): return 50
    def __getitem__(self, index):
        return Record(id=index, image=np.zeros((32, 32, 3), np.uint8), captions=["a"])
"""
OBJECTIVE, RULE = {"objectives__foo": 1.0}, {"optimizer__name": "foo"}
SOURCE, TOKENIZER, WRITER = {"data__train": "foo"}, {"data__tokenizer": "foo"}, {"log__writers": ("foo",)}
# Code of a plugin, what uses it, and the end of the line that it ends in.
FAULTS = {
    "batch(lambda i: jnp.zeros(3))": (OBJECTIVE, "gives float32[3]; an objective of scope='batch' gives (loss [], {me"),
    "batch(lambda i: (jnp.zeros(3), {}))": (OBJECTIVE, "gives loss float32[3]; an objective of scope='batch'"),
    "batch(lambda i: (jnp.zeros(()), {'m': jnp.ones(2)}))": (OBJECTIVE, "gives metrics['m'] float32[2]"),
    "batch(lambda i: (jnp.zeros(()), {'loss': 1.0}))": (
        OBJECTIVE,
        "a metric 'loss', which is the run's own; rename it",
    ),
    "batch(lambda i, j: 0)": (OBJECTIVE, "argument: 'j'; it is called as function(GlobalBatch) -> (loss, metrics)"),
    "batch(lambda i: 1 / 0)": (OBJECTIVE, "ZeroDivisionError: division by zero"),
    "example(lambda f, s: (f.embeddings['image'].sum(-1), {}))": (
        OBJECTIVE,
        "gives (float32[16], dict); an objective of sc",
    ),
    "example(lambda f, s: TokenLoss(f.embeddings['image'], 1.0, {}))": (
        OBJECTIVE,
        "gives total float32[16, 32] for 16 exam",
    ),
    "example(lambda f: sums(f, None))": (OBJECTIVE, "were given; it is called as function(BatchFeatures, Settings)"),
    "rule(lambda s, p: None)": (RULE, "make(settings, params) gives NoneType, not an optax.GradientTransformation"),
    "rule(lambda s: optax.sgd(1))": (RULE, "it is called as make(settings, params) -> optax.GradientTransformation"),
    "rule(lambda s, p: optax.GradientTransformation(lambda p: 'x', None))": (RULE, "a leaf of type str; a state is a"),
    "rule(lambda s, p: optax.stateless(lambda u, p: jax.tree.map(lambda x: x[None], u)))": (RULE, "its gradient's"),
    "rule(lambda s, p: optax.stateless(lambda u, p: {}))": (RULE, "it gives no update of"),
    "sources.register('foo')(type('S', (Data,), {'__init__': lambda self: None}))": (
        SOURCE,
        "it is called as Source(split, options=..., field=...)",
    ),
    "sources.register('foo')(type('S', (Data,), {'__getitem__': lambda self, i: dict(id=i, captions='a')}))": (
        SOURCE,
        "source[0] has captions='a'; give a list of texts",
    ),
    "sources.register('foo')(type('S', (Data,), {'__getitem__': lambda self, i: dict(id=(i, 1))}))": (
        SOURCE,
        "source[0] has id=(0, 1); give a 64-bit unsigned integer, such as stable_id(...)",
    ),
    "sources.register('foo')(type('S', (Data,), {'__getitem__': lambda self, i: dict(id=i, caption=['a'])}))": (
        SOURCE,
        "source[0] has an entry 'caption', which nothing reads; it is called 'captions'",
    ),
    "sources.register('foo')(type('S', (Data,), {'__getitem__': lambda self, i: 1 / 0}))": (
        SOURCE,
        "ZeroDivisionError: division by zero, in source[0]; raise BadExample(reason) for what cannot be used",
    ),
    "tokenizers.register('foo')(lambda spec: None)": (TOKENIZER, "as make(spec, context_length) -> Tokenizer"),
    "tokenizers.register('foo')(lambda spec, context_length: 3)": (TOKENIZER, "made a int, not a Tokenizer"),
    "log_writers.register('foo')(lambda workdir: None)": (
        WRITER,
        "called as Writer(workdir, settings=..., name=..., f",
    ),
    "log_writers.register('foo')(type('W', (), {'__init__': Writer.__init__}))": (WRITER, "has no method resume"),
    "log_writers.register('foo')(type('W', (Writer,), {'__init__': lambda s, w, **k: 1 / 0}))": (
        WRITER,
        "ZeroDivisionError: division by zero",
    ),
}
NEWLINE = "\n"
# Those that are found by tracing the whole step take seconds, so one of a kind is an ordinary test.
TRACED = [code for code, (fields, _) in FAULTS.items() if fields in (OBJECTIVE, RULE)]
ORDINARY = ("batch(lambda i: jnp.zeros(3))", "rule(lambda s, p: optax.stateless(lambda u, p: {}))")
_numbers = itertools.count()


def refused(folder, code, fields):
    """The line that a run with a plugin of this code ends in, before it makes anything."""
    module = f"faulty_{next(_numbers)}"
    (folder / f"{module}.py").write_text(f"{PLUGIN}\n{code}\n")
    workdir = folder / "runs" / module
    with plugin_files.path_entry(folder):
        plugin_imports.import_plugins((module,))
        with pytest.raises(UserError) as caught, runs.on_devices(1):
            train.prepare(runs.config(plugins=(module,), **fields), workdir)
    assert not workdir.exists()
    return module, str(caught.value)


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(code, marks=[pytest.mark.full] if code in TRACED and code not in ORDINARY else [])
        for code in FAULTS
    ],
)
def test_one_line_names_the_plugin_and_its_line(tmp_path, code):
    fields, message = FAULTS[code]
    module, line = refused(tmp_path, code, fields)
    assert message in line and NEWLINE not in line
    assert f"'foo' of {module}: " in line or "made a int" in line
    if "register('foo')" not in code:
        assert f"{module}.py, line {PLUGIN.count(NEWLINE) + 2}: " in line


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("lambda model: lambda data: 1 / 0", "line 1: ZeroDivisionError: division by zero"),
        (
            "lambda model: lambda data: given(float('nan'))",
            "gives a metric 'nearest'=nan, which is no",
        ),
        ("lambda model: lambda data: given('far')", "gives a metric 'nearest'='far', which is no"),
        ("lambda model: lambda data: given(np.float32(0.5))", None),
        ("lambda model: print, missing_fields=lambda record: record['x']", "line 1: KeyError: 'x'"),
    ],
)
def test_an_evaluation_that_fails_is_one_line(tmp_path, code, message):
    name = f"failing_{next(_numbers)}"
    imports = "import numpy as np; from mmjax.plugin import EvaluationTask, Outcome, evaluations; "
    # Set afterwards: in tests the types of arguments are checked.
    imports += "given = lambda value: [one := Outcome({}, 1), one.metrics.update(nearest=value)][0]; "
    (tmp_path / f"{name}.py").write_text(
        f"{imports}evaluations.register('{name}')(EvaluationTask(title='T', evaluator={code}))\n"
    )
    source = open_source("digits/test")
    data = evaluation_task.EvaluatedSource(source, None, lambda source: EvalExamples(source, None))
    with plugin_files.path_entry(tmp_path):
        plugin_imports.import_plugins((name,))
        info = evaluation_task.load(name)
        if "missing_fields" in code:
            call = lambda: task_choice.lacking_fields(name, source)
        else:
            call = lambda: evaluation_task.evaluate(name, info.evaluator(None), data).metrics
        if message is None:
            assert call() == {"nearest": 0.5} and type(call()["nearest"]) is float
            return
        with pytest.raises(UserError) as caught:
            call()
    assert message in str(caught.value) and f"'{name}' of {name}: " in str(caught.value)


def test_what_is_traced_at_the_start_is_what_is_compiled():
    with runs.on_devices(1), mock.patch.object(tasks.Task, "loss", autospec=True, side_effect=tasks.Task.loss) as loss:
        opened = train.open_run(runs.config(), None)
        assert loss.call_count == 1
        rows = [opened.examples[position] for position in range(16)]
        batch = {
            name: np.stack([row[name] for row in rows])
            for name in rows[0]
            if name not in ("substitution_reason", "text_is_full")
        }
        opened.setup.step.trace(opened.setup.state, mesh_lib.to_global(opened.mesh, batch))
        assert loss.call_count == 1
