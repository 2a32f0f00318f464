"""Configs of evaluation suites: what nothing reads, and values of another type, are refused wherever they come from."""

import pytest

from mmjax.config import dataset, suite_config, suite_recipe
from mmjax.errors import UserError
from mmjax.evaluation.config import DatasetConfig, SuiteConfig

RECIPE = """
from mmjax.evaluation.suite.jobs import dataset, suite_config


def get_config(arg=""):
    config = suite_config(root="/data", collection="mine")
    config.datasets.zebras = dataset("folder:{root}/zebras", "knn", train="folder:{root}/train")
    config.datasets.apes = dataset("folder:{root}/apes", prompts="birds.json")
    config.collections.mine = ("zebras", "apes")
    return config
"""


def suite():
    result = suite_config()
    result.datasets.digits = dataset("digits/test")
    result.collections.mine = ("digits",)
    return result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda suite: suite.update(bootstrp=5), "bootstrp is no field .did you mean 'bootstrap'"),
        (lambda suite: suite.datasets.digits.update(prompt="x"), "datasets.digits.prompt is no field .*'prompts'"),
        (lambda suite: suite.knn.update(k=3), "knn.k is no field .did you mean 'ks'"),
        (lambda suite: suite.update(seed=None), "seed=None wants an integer"),
        (lambda suite: suite.update(missing="skp"), "missing='skp' .*did you mean 'skip'"),
        (lambda suite: suite.knn.update(vote="wieghted"), "knn.vote='wieghted' .*did you mean 'weighted'"),
        (lambda suite: suite.few_shot.update(shots=(1, "5")), "few_shot.shots=.1, '5'. wants a tuple of integers"),
        (lambda suite: suite.collections.update(more="digits"), "collections.more='digits' wants a tuple of texts"),
        (lambda suite: suite.datasets.update(more="digits"), "datasets.more='digits' wants a group of fields"),
        (lambda suite: suite.datasets.digits.__delattr__("source"), "datasets.digits.source is missing; set it$"),
    ],
)
def test_a_mistake_is_one_line(change, message):
    changed = suite()
    suite_recipe.parse_suite(changed, "--config=mine.py")
    change(changed)
    with pytest.raises(UserError, match=f"--config=mine.py: {message}"):
        suite_recipe.parse_suite(changed, "--config=mine.py")


def test_a_field_that_no_dataset_has_is_a_mistake():
    with pytest.raises(UserError, match="promts is no field .did you mean 'prompts'"):
        dataset("digits/test", promts="own")


def test_a_suite_is_read_with_its_overrides(tmp_path):
    """As suites were written before they had types; what the model's config has is left to it."""
    (tmp_path / "suite.py").write_text(RECIPE)
    flags = [("few_shot.shots", "(1,2,3)"), ("eval.batch_size", "8"), ("datasets.apes.prompts", "own")]
    flags += [("knn.ks", "(5,5)"), ("collections.mine", "apes"), ("datasets.zebras.tasks", "('few_shot','knn')")]
    result, others = suite_recipe.load_suite(f"{tmp_path}/suite.py", flags)
    assert others == [("eval.batch_size", "8")]
    assert result.few_shot.shots == (1, 2, 3) and result.knn.ks == (5, 5) and result.knn.vote == "weighted"
    assert list(result.datasets) == ["zebras", "apes"] and result.collections == {"mine": ("apes",)}
    apes = DatasetConfig(source="folder:{root}/apes", prompts="own")
    zebras = DatasetConfig(source="folder:{root}/zebras", tasks=("few_shot", "knn"), train="folder:{root}/train")
    assert result.datasets == {"zebras": zebras, "apes": apes}
    unchanged = SuiteConfig(root="/data", collection="mine")
    assert (result.root, result.collection, result.clip_score) == ("/data", "mine", unchanged.clip_score)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (("missing", "skp"), "missing='skp'.*did you mean 'skip'"),
        (("knn.ks", "5.5"), "--config.knn.ks=5.5"),
        (("datasets.ape.tasks", "knn"), "datasets has no field 'ape' .did you mean 'apes'"),
    ],
)
def test_an_override_of_another_type_is_a_mistake(tmp_path, flag, message):
    (tmp_path / "suite.py").write_text(RECIPE)
    with pytest.raises(UserError, match=message):
        suite_recipe.load_suite(f"{tmp_path}/suite.py", [flag])
