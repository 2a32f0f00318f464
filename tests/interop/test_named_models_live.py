"""A tenth of open_clip's model configs at reduced size: read, compared, written back; the campaign does all of them."""

import random

import pytest

from campaigns import openclip_configs
from mmjax.interop import named_models

pytestmark = pytest.mark.full
# Of the largest widths a layer alone takes gigabytes of memory in both libraries.
_LARGE = ("bigG", "ViT-e", "xxlarge", "EVA02-E", "EVA01-g", "RN50x64", "gopt")


def sample():
    names = [name for name in sorted(named_models.configs()) if not any(part in name for part in _LARGE)]
    return random.Random(0).sample(names, 14)


@pytest.mark.parametrize("name", sample())
def test_a_model_of_openclip(name):
    (outcome,) = openclip_configs.run([name], 0).values()
    is_read = not isinstance(named_models.configs()[name], str)
    assert outcome == ("equal" if is_read else "refused")
