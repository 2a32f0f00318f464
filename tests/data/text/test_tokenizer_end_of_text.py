"""Where a text ends, wherever it is asked: as OpenAI's CLIP pools, and by an id."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mmjax.config import parse, schema
from mmjax.data.loading import packing
from mmjax.data.text.tokenizer import LARGEST_ID, end_of_text_position
from mmjax.errors import UserError
from mmjax.inference import inputs as inputs_lib
from mmjax.models.encoders import TextTransformer
from mmjax.tasks import preprocessing

IDS = np.array([[5, 9, 7, 9], [9, 1, 1, 1], [5, 6, 7, 3], [5, 11, 9, 0]], np.int32)
LARGEST = [1, 0, 2, 1]
OF_NINE = [1, 0, 0, 2]


@pytest.mark.parametrize("eos_id, positions", [(LARGEST_ID, LARGEST), (9, OF_NINE)])
def test_every_reader_has_the_same_position(eos_id, positions):
    assert (
        end_of_text_position(IDS, eos_id).tolist()
        == end_of_text_position(jnp.asarray(IDS), eos_id).tolist()
        == positions
    )
    assert (packing.caption_lengths(IDS, eos_id) - 1).tolist() == positions
    tower = dict(vocab_size=12, context_length=4, width=8, depth=1, heads=2, mlp_dim=8, eos_id=eos_id)
    encoded, _ = TextTransformer(**tower).init_with_output(jax.random.key(0), jnp.asarray(IDS))
    assert encoded.eos.tolist() == positions
    text = ml_collections.ConfigDict(tower)
    _, mask = inputs_lib.to_token_ids(IDS, text)
    # A text without its end is real throughout.
    ends = [3 if eos_id == 9 and 9 not in row else end for row, end in zip(IDS, positions, strict=True)]
    assert mask.tolist() == [[i <= end for i in range(4)] for end in ends]


def words(folder, end):
    """A tokenizer.json whose end of text has this place among its 9 ids, with one more for an added token."""
    names = ["<pad>", "<unk>", "a", "photo", "of", "cat", "dog", "the"]
    names.insert(end, "<eos>")
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", end)])
    backend.add_special_tokens(["<pad>", "<eos>"])
    backend.add_tokens(["zebra"])
    backend.save(str(folder / "tokenizer.json"))
    return f"json:{folder / 'tokenizer.json'}"


def test_a_tokenizer_whose_end_is_not_its_largest_id_is_refused(tmp_path):
    config = schema.base_config()
    config.model.text.update(eos_id=LARGEST_ID, pool="eos", context_length=8, vocab_size=10)
    config.data.tokenizer = words(tmp_path, 1)
    with pytest.raises(UserError, match=r"ends texts with id 1, which is not their largest id, and model.text.eos_id"):
        preprocessing.make_tokenizer(parse(config))
    config.data.tokenizer = words(tmp_path, 8)
    tokenizer = preprocessing.make_tokenizer(parse(config))
    # An added token is beyond the end of text, and pooled at, as in the libraries of this rule.
    ids, _ = tokenizer(["the zebra"])
    assert end_of_text_position(ids, LARGEST_ID).tolist() == [1] and tokenizer.eos_id == 8
