"""Configs of text towers of BERT's kind, both ways."""

import pytest

from mmjax.errors import UserError
from mmjax.interop import bert_towers

TINY = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40)


@pytest.mark.parametrize("kind, context", [("bert", 20), ("roberta", 18), ("xlm-roberta", 18)])
def test_a_config_and_its_settings(kind, context):
    config = TINY | dict(model_type=kind, max_position_embeddings=20)
    settings = bert_towers.from_config(config, "file")
    assert (settings["context_length"], settings["norm"], settings["token_types"]) == (context, "post", 2)
    again = bert_towers.to_config(settings, kind)
    assert config.items() <= again.items()
    assert bert_towers.from_config(again, "file") == settings


@pytest.mark.parametrize("name", bert_towers.PUBLISHED)
def test_published_towers_are_known_by_their_settings(name):
    settings = bert_towers.from_config(bert_towers.PUBLISHED[name], name)
    assert bert_towers.published_name(settings) == name
    assert bert_towers.published_name(settings | dict(depth=3)) is None


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_type="gpt2"), "model_type='gpt2' is no text tower that mmjax reads; it reads 'bert'"),
        (dict(position_embedding_type="relative_key"), "position_embedding_type='relative_key' is not read"),
        (dict(is_decoder=True), "is_decoder=True is not read"),
        (dict(hidden_act="mish"), "hidden_act='mish' is not known"),
        (dict(hidden_size=0), "hidden_size=0 is no number that a tower has"),
        (dict(vocab_size="many"), "vocab_size='many' is no number that a tower has"),
        (dict(type_vocab_size=0), "type_vocab_size=0 is no number"),
        (dict(max_position_embeddings=2), "max_position_embeddings=2 leaves no position after those of pad_token_id=1"),
    ],
)
def test_configs_that_are_not_read(changes, message):
    with pytest.raises(UserError, match=message):
        bert_towers.from_config(dict(model_type="roberta") | changes, "file")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(norm="pre"), "model.text.norm='pre': Hugging Face's bert has 'post' there"),
        (dict(token_types=0), "model.text.token_types=0: Hugging Face's bert has 1 or more"),
        (dict(pad_id=None), "model.text.pad_id=None: Hugging Face's bert has 0 or more"),
    ],
)
def test_settings_that_are_none_of_theirs(changes, message):
    settings = bert_towers.from_config(dict(model_type="bert"), "file")
    with pytest.raises(UserError, match=message):
        bert_towers.to_config(settings | changes)
