"""Fields of evaluation suites: what nothing reads is refused."""

import pytest

from mmjax.errors import UserError
from mmjax.evaluation.suite import jobs


def suite():
    result = jobs.suite_config()
    result.datasets.digits = jobs.dataset("digits/test")
    result.collections.mine = ("digits",)
    return result


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda suite: suite.update(bootstrp=5), "bootstrp is no field .did you mean 'bootstrap'"),
        (lambda suite: suite.datasets.digits.update(prompt="x"), "datasets.digits.prompt is no field .*'prompts'"),
        (lambda suite: suite.knn.update(k=3), "knn.k is no field .did you mean 'ks'"),
        (lambda suite: suite.update(seed=None), "seed=None wants a value"),
        (lambda suite: suite.collections.update(more="digits"), "collections.more='digits' wants a tuple"),
    ],
)
def test_a_field_that_nothing_reads_is_a_mistake(change, message):
    changed = suite()
    jobs.check_fields(changed, "--config=mine.py")
    change(changed)
    with pytest.raises(UserError, match=f"--config=mine.py: {message}"):
        jobs.check_fields(changed, "--config=mine.py")
