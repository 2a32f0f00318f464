"""Training on named columns of tables: statistics of the whole table, stored, and the same after a kill."""

import json
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest

import mmjax
from mmjax.config.schema import set_group
from mmjax.data.table_columns import TableColumns
from mmjax.errors import UserError
from mmjax.tasks import table_fields
from tests.helpers import runs
from tests.helpers.tar_sets import write_tar
from tests.training.test_loop_resume import Killed, assert_equal_runs, at_step

STEPS, ROWS = 6, 40
LAYERS = dict(width=16, depth=1, heads=2, mlp_dim=32, class_token=False)
JOBS = ("cook", "smith", "", "nurse")


def rows_of(count=ROWS, first=0):
    return [
        {
            "age": "" if i % 9 == 4 else str(20 + i * i % 50),
            "height": f"{1.5 + 0.01 * (i % 37):.2f}",
            "job": JOBS[i % 4],
            "notes": f"person {i} walks" if i % 2 else f"number {i} runs",
            "label": ("yes", "no")[i % 2],
        }
        for i in range(first, first + count)
    ]


def write_csv(path, rows, separator=","):
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    path.write_text("\n".join(lines))
    return f"pairs:{path}"


def config_of(source, columns="age,height,job@category,notes@text", **changes):
    changes = dict(steps=STEPS, batch_size=8, data__train=source, eval__every=0, data__eval="") | changes
    config = runs.config(**changes)
    table = dict(LAYERS, numeric=2, categories=(4,))
    if columns.endswith("@text"):
        text = config.model.to_dict()["text"]
        set_group(config, "model", dict(kind="two_tower", embed_dim=16, table=table, text=text))
    else:
        encoders = {"table": dict(LAYERS, kind="table", numeric=2, categories=(4,))}
        fusion = dict(kind="concat", width=16, pool="mean")
        set_group(config, "model", dict(kind="fused", encoders=encoders, fusion=fusion, classes=2))
        config.objectives.itc, config.objectives.classify = 0.0, 1.0
    config.data.table.columns = columns
    return config


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("table") / "people.csv", rows_of())


def open_run(config):
    from mmjax.training import train

    return train.open_run(config, None)


def test_statistics_are_those_of_the_whole_column(table):
    opened = open_run(config_of(table))
    columns = opened.task.dataset_metadata.columns
    ages = np.array([float(row["age"]) for row in rows_of() if row["age"]])
    heights = np.array([float(row["height"]) for row in rows_of()])
    for column, values in zip(columns.numbers, (ages, heights), strict=True):
        np.testing.assert_allclose([column.mean, column.std], [values.mean(), values.std()], rtol=1e-14)
    assert columns.categories[0].values == ("cook", "nurse", "smith") and columns.sizes == (4,)
    example = opened.examples[0]
    assert sorted(example) == ["id", "substitution_reason", "table", "text", "text_is_full", "text_mask"]
    source = opened.examples.sources[0]
    rows = [opened.task.example_transform(source[i], np.random.default_rng(0))["table"] for i in range(ROWS)]
    expected = [(float(row["age"] or "nan") - ages.mean()) / ages.std() for row in rows_of()]
    np.testing.assert_allclose(np.stack(rows)[:, 0], expected, rtol=1e-6)
    assert np.isnan(rows[2][2]) and rows[0][2] == 1
    assert source[3]["captions"] == ["person 3 walks"]


def test_a_sample_is_spread_over_the_data_and_told(table, caplog):
    config = config_of(table)
    config.data.table.sample = 14
    with caplog.at_level("INFO"):
        columns = open_run(config).task.dataset_metadata.columns
    values = np.array([float(row["height"]) for row in rows_of()[::3]])
    np.testing.assert_allclose(columns.numbers[1].mean, values.mean(), rtol=1e-14)
    assert "data.table.columns, by 14 of 40 rows: age: number, mean" in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            "agee,height",
            "csv': data.table.columns: no column 'agee' .did you mean 'age'..; there are 'age', 'height', ",
        ),
        ("job@number", "'job' has no number in 40 rows .such as 'cook'.; make it job@category"),
        ("notes@category", "'notes' has 40 categories, more than data.table.max_categories=30; set that higher"),
        ("notes", "'notes' holds neither numbers nor categories .*; write notes@text"),
        ("age@numbr", "'age@numbr' is of no known kind .did you mean 'number'.*; write age@number"),
        ("age,age", "names 'age' twice"),
        ("age,,job", "'' names no column"),
        ("notes@text,", "names no column"),
        (
            "age,height,job,label",
            "numeric=2 and model.encoders.table.categories=.4,., but .* of .4, 3., with one each for unknown ones",
        ),
        (
            "age,notes@text,job@category",
            "notes@text, but model.kind='fused' reads no text; leave it out, or fill model",
        ),
    ],
)
def test_mistakes_are_one_line(table, columns, message):
    config = config_of(table, columns="age")
    config.data.table.columns, config.data.table.max_categories = columns, 30
    with pytest.raises(UserError, match=message) as error:
        open_run(config)
    assert "\n" not in str(error.value)


def test_a_table_of_evaluation_that_lacks_a_column(table, tmp_path):
    rows = [{name: value for name, value in row.items() if name != "job"} for row in rows_of(8)]
    config = config_of(table, data__eval=write_csv(tmp_path / "other.csv", rows), eval__every=3)
    with pytest.raises(UserError, match=r"data.eval='pairs:.*other.csv': data.table.columns: no column 'job'; there"):
        open_run(config)


def test_columns_that_nothing_reads(table):
    config = runs.config(data__train=table)
    config.data.table.columns = "age"
    with pytest.raises(UserError, match="data.table.columns='age' is not read, as the model has no table"):
        open_run(config)
    config = config_of("sensors", columns="age,job@category")
    config.model.encoders.table.numeric = 1
    with pytest.raises(UserError, match="'sensors/train' has no columns; give a table"):
        open_run(config)


def write_tars(folder, rows):
    members = []
    for i, row in enumerate(rows):
        row = {name: value or None for name, value in row.items()} | {"height": float(row["height"])}
        members += [(f"{i:05d}.json", json.dumps(row).encode()), (f"{i:05d}.cls", str(i % 2).encode())]
    write_tar(folder / "00000.tar", members)
    (folder / "classnames.txt").write_text("yes\nno\n")
    return f"wds:{folder}/00000.tar"


def test_members_of_tars_give_the_same_as_a_table(table, tmp_path):
    source = write_tars(tmp_path, rows_of())
    of_tars = open_run(config_of(source, "json:age,height,job@category"))
    of_table = open_run(config_of(table, "age,height,job@category"))
    assert of_tars.task.dataset_metadata.columns == of_table.task.dataset_metadata.columns
    for index in (0, 4, 7):
        records = [opened.examples.sources[0][index] for opened in (of_tars, of_table)]
        rng = np.random.default_rng(0)
        arrays = [
            opened.task.example_transform(record, rng)
            for opened, record in zip((of_tars, of_table), records, strict=True)
        ]
        np.testing.assert_array_equal(arrays[0]["table"], arrays[1]["table"])
        assert rows_of()[index]["label"] == of_tars.examples.sources[0].class_names[arrays[0]["label"]]
    config = config_of(source, "agee,height,job@category")
    with pytest.raises(UserError, match="no column 'agee' .did you mean 'age'"):
        open_run(config)


@pytest.fixture(scope="module")
def undisturbed(table, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    assert runs.train(config_of(table), workdir) is None
    lines = runs.lines(workdir, "train")
    assert len(lines) == STEPS and all(np.isfinite(line["loss"]) for line in lines)
    return workdir


@pytest.mark.full
@pytest.mark.parametrize("workers", [0, 2])
def test_killed(table, undisturbed, tmp_path, workers):
    """Statistics come from the checkpoint: those of the data are not asked for again."""
    config = config_of(table)
    config.data.workers = workers
    with at_step(4), pytest.raises(Killed):
        runs.train(config, tmp_path)
    with mock.patch.object(table_fields, "TableStatistics", side_effect=AssertionError):
        assert runs.train(config, tmp_path) is None
    assert_equal_runs(tmp_path, undisturbed, STEPS)


def test_a_loaded_model_takes_rows(undisturbed):
    model = mmjax.load(str(undisturbed))
    row = {"age": "33", "height": 1.7, "job": "smith"}
    embeddings = model.encode_table([row, [33, "1.70", "smith"], {"age": None, "height": 1.7, "job": "pilot"}])
    assert embeddings.shape == (3, 16)
    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)
    assert np.abs(embeddings[0] - embeddings[2]).max() > 1e-4
    for wrong, message in [
        ([row | {"jobb": "cook"}], "table 0: .*a row has no column 'jobb' .did you mean 'job'"),
        ([row | {"age": "old"}], "table 0: .*column 'age': 'old' is no number"),
        ([[1, 2]], "is no row: give values of age, height, job"),
        (row, "table: one row alone; give a list of rows"),
        ([{}], "a row without a value of age, height, job"),
    ]:
        with pytest.raises(UserError, match=message):
            model.encode_table(wrong)


def with_texts(config):
    """A classifier that reads the texts of columns beside the others."""
    encoders = config.model.to_dict()["encoders"]
    text = dict(
        kind="text", width=16, depth=1, heads=2, mlp_dim=32, vocab_size=259, context_length=12, mask_padding=True
    )
    set_group(config, "model", config.model.to_dict() | {"encoders": encoders | {"text": text}})
    config.data.table.columns, config.data.tokenizer = "age,height,job@category,notes@text", "bytes"
    return config


def test_texts_are_a_modality_of_a_classifier(table):
    opened = open_run(with_texts(config_of(table, "age")))
    record = opened.examples.sources[0][3]
    assert record["modalities"]["text"] == "person 3 walks" and record["label"] == 0
    arrays = opened.task.example_transform(record, np.random.default_rng(0))
    ids, mask = opened.tokenizer(["person 3 walks"])
    np.testing.assert_array_equal(arrays["text"], np.where(mask[0], ids[0], np.nan).astype(np.float32))
    assert arrays["present"].all() and opened.tokenizer.context_length == 12
    record["modalities"]["text"] = None
    assert opened.task.example_transform(record, np.random.default_rng(0))["present"].tolist() == [True, False]


@pytest.mark.full
def test_a_classifier_of_texts_and_rows(table, tmp_path):
    assert runs.train(with_texts(config_of(table, "age")), tmp_path) is None
    model = mmjax.load(str(tmp_path))
    rows, texts = [{"age": 33}, {"job": "cook"}], ["person 3 walks", "number 4 runs"]
    both = model.classify({"table": rows, "text": texts})
    assert np.abs(both - model.classify({"table": rows})).max() > 1e-6
    np.testing.assert_allclose(both.sum(axis=1), 1, rtol=1e-5)
    with pytest.raises(UserError, match="modalities: a text of ndarray; give a string .example 0"):
        model.classify({"text": [3]})


@pytest.mark.full
def test_a_classifier_takes_rows(table, tmp_path):
    config = config_of(table, "age,height,job@category", data__eval=table, eval__every=STEPS)
    assert runs.train(config, tmp_path) is None
    metrics = runs.lines(tmp_path, "eval")[-1]
    assert any(name.endswith("acc1") and 0 <= value <= 1 for name, value in metrics.items())
    model = mmjax.load(str(tmp_path))
    row = {"age": "33", "height": 1.7, "job": "smith"}
    probabilities = model.classify({"table": [row, [33, 1.7, "smith"], {"job": "cook"}]})
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(probabilities[0], probabilities[1], rtol=1e-5)
    with pytest.raises(UserError, match="modalities: example 1 has no modality at all"):
        model.classify({"table": [row, {}]})


STATISTICS = """
import json, sys
from mmjax.data.mixture import parse_mixture
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.table_statistics import TableStatistics
columns = {"age": "auto", "height": "number", "job": "category", "notes": "text"}
((source, _),) = parse_mixture(sys.argv[1], SourceOptions(columns=tuple(columns)))
statistics = TableStatistics(columns)
statistics.add(source.row(index) for index in range(len(source)))
print(json.dumps(statistics.columns().to_dict()))
"""


@pytest.mark.full
def test_processes_compute_the_same_statistics(table):
    """Whatever a process's seed of hashes is; of several processes of a run the first one's count."""
    printed = []
    for seed in ("1", "2"):
        environment = runs.environment(PYTHONHASHSEED=seed)
        command = [sys.executable, "-c", STATISTICS, table]
        printed.append(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert printed[0] == printed[1]
    columns = open_run(config_of(table)).task.dataset_metadata.columns
    assert TableColumns.from_dict(json.loads(printed[0]), where="printed") == columns
