"""Every recipe builds and trains at tiny size, with its own objectives, optimizer and freezing."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from PIL import Image

from mmjax import tasks
from mmjax.config import parse, recipe, schema, serialize
from mmjax.config.toy_presets import cpu_friendly
from mmjax.errors import UserError
from mmjax.models import make_model
from mmjax.models.variants import two_tower
from mmjax.parallel import partition
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import optimizer, schedules, validate_run
from mmjax.training.param_roles import find_frozen
from mmjax.training.step import make_loss, split_frozen
from tests.helpers import runs

SIZES = ["clip:variant=" + size for size in ("B/32", "B/16", "L/14", "L/14@336", "H/14")]
SIZES += ["siglip:variant=" + size for size in ("B/16", "L/16", "So400m/14")]
SIZES += ["lit", "lit:variant=L/14", "quickstart"]
# On drawn scenes, and the published sizes of the same recipes.
SMALL = ["captioner", "captioner:decoder=lstm", "coca", "coca:caption=0", "albef", "vilt:patches=1", "qformer", "llava"]
SMALL += ["blip", "vqa", "vqa:blind=True", "vqa:variant=small-vilt"]
TINY = ["captioner:variant=tiny-captioner", "captioner:variant=tiny-captioner,decoder=lstm", "coca:variant=tiny-coca"]
TINY += ["albef:variant=tiny-albef", "vilt:variant=tiny-vilt", "qformer:variant=tiny-qformer", "blip:variant=tiny-blip"]
TINY += [
    "llava:variant=tiny-prefix_lm",
    "vqa:variant=tiny-captioner",
    "vqa:variant=tiny-blip-vqa",
    "vqa:variant=tiny-albef",
    "vqa:variant=tiny-vilt",
]
PUBLISHED = ["captioner:variant=captioner-B/16", "captioner:variant=blip-B/16", "coca:variant=coca-B/32"]
PUBLISHED += ["coca:variant=coca-L/14", "albef:variant=albef-B", "vilt:variant=vilt-B/32", "vqa:variant=vilt-B/32"]
PUBLISHED += ["qformer:variant=qformer-B", "blip:variant=blip-med-B/16", "llava:variant=prefix_lm-L/14"]


def make_schedule(config):
    run = schema.parse(config)
    return schedules.make_schedule(run.schedule, run.steps, run.optimizer.learning_rate)


@pytest.mark.parametrize("spec", [*SIZES, *SMALL, *TINY, *PUBLISHED, "fusion", "fusion:kind=late"])
def test_a_recipe_is_a_complete_config(spec):
    config = recipe.load_recipe(spec)
    fields = lambda config: {name for name in serialize.flatten(config) if not name.startswith("model.")}
    assert fields(config) == fields(schema.base_config())
    config.data.train = config.data.train or "digits"
    config.mesh.fsdp = 1
    validate_run.check_config(parse(config))
    assert config.schedule.warmup < config.steps
    make_schedule(config)
    if ":" not in config.data.tokenizer or config.data.tokenizer == "words:shapes":
        tasks.make_tokenizer(parse(config))  # checks the model's vocabulary
    assert serialize.from_json(serialize.to_json(config)).to_dict() == config.to_dict()
    module = recipe.recipe_folder() / f"{spec.partition(':')[0]}.py"
    for word in ("Command:", "Hardware and time:", "Expected:"):
        message = module.read_text().split(word)[1].split("\n")[0]
        assert not message.strip() or not message.strip().isupper()  # no placeholder


@pytest.mark.parametrize("spec", [*SMALL, *TINY])
def test_small_sizes_have_the_recipe_of_scenes_and_save_at_equal_steps(spec):
    config = recipe.load_recipe(spec)
    assert config.variant.startswith("tiny" if spec in TINY else "small") and config.batch_size == 128
    assert config.data.train in ("shapes", "questions") and config.data.tokenizer == "words:shapes"
    every = config.checkpoint.every
    saves = [*range(every, config.steps, every), config.steps]
    assert len(saves) == 3 and saves[2] - saves[1] >= every - 2


@pytest.mark.parametrize(
    "spec, message",
    [
        ("captioner:variant=coca-B/32", "variant='coca-B/32' is not known.* small-captioner, tiny-captioner, captio"),
        ("captioner:decoder=gru", "decoder='gru' is not known; choose one of: transformer, lstm$"),
        ("captioner:decoder=B/32", "decoder='B/32' is not known; choose one of: transformer, lstm$"),
        ("captioner:variant=captioner-B/16,decoder=lstm", "decoder='lstm': variant='captioner-B/16' has a transformer"),
        ("captioner:tokenizer=bytes", "tokenizer=bytes: variant=small-captioner has no use for it"),
        ("coca:variant=blip-B/16", "variant='blip-B/16' is not known"),
        ("coca:variant=small-cocoa", "did you mean 'small-coca'"),
        ("albef:variant=small-coca", "variant='small-coca' is not known"),
        ("albef:tokenizer=bytes", "tokenizer=bytes: variant=small-albef has no use for it"),
        ("vilt:variant=albef-B", "variant='albef-B' is not known"),
        ("vilt:tokenizer=bytes", "tokenizer=bytes: variant=small-vilt has no use for it"),
        ("qformer:variant=B/32", "variant='B/32' is not known"),
        ("qformer:tokenizer=bytes", "tokenizer=bytes: variant=small-qformer has no use for it"),
        ("llava:variant=small-captioner", "variant='small-captioner' is not known"),
        ("llava:tokenizer=bytes", "tokenizer=bytes: variant=small-prefix_lm has no use for it"),
        ("vqa:variant=small-coca", "variant='small-coca' is not known"),
        ("vqa:answers=7", "answers=7: variant=small-captioner has no use for it; leave it out, or change variant$"),
        ("vqa:variant=small-vilt,tokenizer=bytes", "tokenizer=bytes: variant=small-vilt has no use for it"),
        ("fusion:only=image,kind=late", "kind=late: only=image has no use for it"),
        ("fusion:only=image,dropout=0.3", "dropout=0.3: only=image has no use for it"),
        ("fusion:combine=linear", "combine=linear: kind=joint has no use for it"),
        ("clip:variant=coca-B/32", "variant='coca-B/32' is not known.* B/32, B/16, L/14, L/14@336, H/14, tiny$"),
        ("siglip:variant=B/32", "variant='B/32' is not known; choose one of: B/16, L/16, So400m/14, tiny$"),
        ("lit:variant=albef-B", "variant='albef-B' is not known"),
    ],
)
def test_a_variant_of_another_kind_or_an_unused_argument_is_refused_in_one_line(spec, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe.load_recipe(spec)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_published_size_knows_its_texts(spec):
    config = recipe.load_recipe(spec)
    assert 25 <= config.data.context_length <= min(256, config.model.text.context_length)
    if config.data.tokenizer != "clip":
        with pytest.raises(UserError, match=r"cannot read '(gpt2|bert-base-uncased)/tokenizer.json'") as error:
            tasks.make_tokenizer(parse(config))
        assert "\n" not in str(error.value)
        config = recipe.load_recipe(f"{spec},tokenizer=json:other.json,steps=7")
        assert config.data.tokenizer == "json:other.json" and config.steps == 7
        make_schedule(config)


def word_level(path, *, bert):
    """A tokenizer.json with a few words and the specials of BERT's or GPT-2's."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] if bert else ["[UNK]", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate([*names, "red", "square"])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(names)
    if bert:
        specials = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=specials)
    backend.save(str(path))


@pytest.mark.full
@pytest.mark.parametrize("spec", PUBLISHED)
def test_a_published_size_has_a_loss_and_a_gradient(spec, tmp_path):
    config = recipe.load_recipe(spec)
    config.batch_size, config.mesh.fsdp, config.loss.impl = 4, 1, "dense"
    kind, _, path = config.data.tokenizer.partition(":")
    if path:
        word_level(tmp_path / "tokenizer.json", bert="bert" in path)
        config.data.tokenizer = f"{kind}:{tmp_path / 'tokenizer.json'}"
    mesh = make_mesh(parse(config).mesh, jax.devices()[:1])
    tokenizer = tasks.make_tokenizer(parse(config))
    facts = tasks.DatasetMetadata(tuple(map(str, range(config.model.get("answers", 0)))))
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tokenizer, mesh, facts)
    params = jax.eval_shape(task.init, jax.random.key(0))
    batch, keys = (
        tasks.batch_shapes(parse(config), mesh),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4)),
    )
    step = jax.value_and_grad(make_loss(task, 1, mesh), has_aux=True)
    (loss, metrics), slopes = jax.eval_shape(step, params, batch, keys)
    wanted = set(task.weights)
    assert loss.shape == () and (len(wanted) == 1 or {f"loss_{name}" for name in wanted} <= set(metrics))
    assert jax.tree.structure(slopes) == jax.tree.structure(params)
    trainable, _ = split_frozen(params, find_frozen(params, config.optimizer.freeze))
    optimizer.make_optimizer(parse(config), trainable)  # every pattern matches
    if "captions" in task.taught:
        assert task.decoding(tokenizer).max_tokens <= config.data.context_length


# A path that decays under a recipe, and one that does not; None where everything does.
DECAYING = {
    "clip:variant=B/32": ("image/position_embedding", "image/class_token"),
    "coca:variant=coca-B/32": ("image_pool/probe", "text_class_token"),
    "siglip:variant=B/16": ("text_head/projection/kernel", "text/token_embedding"),
    "lit:variant=siglip-B/16": ("text_head/projection/kernel", "text/position_embedding"),
    "albef:variant=albef-B": ("image/class_token", "text/norm_embed/scale"),
    "vilt:variant=vilt-B/32": ("image/class_token", "text/head_bias"),
    "vqa:variant=vilt-B/32": ("modality_embedding", "text/norm_embed/bias"),
    "qformer:variant=qformer-B": ("queries", "text/norm_embed/scale"),
    "blip:variant=blip-med-B/16": ("image/norm/scale", "logit_scale"),
    "captioner:variant=captioner-B/16": ("image/norm/scale", None),
    "quickstart": ("text/token_embedding", "text/position_embedding"),
}


@pytest.mark.full
@pytest.mark.parametrize("spec", DECAYING)
def test_what_decays_under_a_recipe(spec):
    config = recipe.load_recipe(spec)
    settings = {name: x for name, x in config.model.to_dict().items() if name not in ("init", "max_logit_scale")}
    model = make_model.make_model(settings, jnp.float32, {})
    size = config.model.image.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    texts = jax.ShapeDtypeStruct((1, config.model.text.context_length), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, texts)["params"]
    trainable, _ = split_frozen(shapes, find_frozen(shapes, config.optimizer.freeze))
    leaves = jax.tree_util.tree_leaves_with_path(optimizer.decay_mask(schema.parse(config).optimizer, trainable))
    decayed = {partition.path_name(path): decays for path, decays in leaves}
    decaying, other = DECAYING[spec]
    assert decayed[decaying] and not (other and decayed[other])
    assert all(decays for path, decays in decayed.items() if path.endswith("/kernel"))
    assert all(decayed.values()) == (other is None)


def shrunk(config):
    """A recipe as it is, but for the model's size and what a few steps need."""
    model = config.model
    kind = "captioner-lstm" if model.get("decoder") == "lstm" else model.kind
    small = schema.ConfigDict(two_tower.variant(f"tiny-{kind}"))
    _take(model, small)
    cpu_friendly(model, scan=True)
    config.data.eval, config.steps, config.batch_size = "", 3, 16
    config.schedule.warmup, config.checkpoint.every, config.log.every = 1, 3, 1
    config.log.tensorboard, config.mesh.fsdp = False, 1
    return config


def _take(model, small):
    sizes = ("width", "embed_width", "depth", "heads", "mlp_dim", "image_size", "patch_size", "embed_dim", "queries")
    for name, value in small.items():
        if isinstance(value, schema.ConfigDict):
            _take(model[name], value)
        elif name in sizes:
            model[name] = value


@pytest.mark.full
@pytest.mark.parametrize(
    "spec", [name for name in SMALL if name not in ("coca:caption=0", "vqa:blind=True", "vqa:variant=small-vilt")]
)
def test_a_recipe_on_scenes_trains(spec, tmp_path):
    config = shrunk(recipe.load_recipe(spec))
    if spec != "captioner":
        config.optimizer.name = "adamw"  # Muon, which all of them have, takes longer to compile
    assert runs.train(config, tmp_path / "run") is None
    trained = runs.lines(tmp_path / "run", "train")
    assert [line["step"] for line in trained] == [1, 2, 3]
    wanted = [name for name, weight in config.objectives.items() if weight]
    for line in trained:
        names = ["loss", *(f"loss_{name}" for name in wanted if len(wanted) > 1)]
        assert all(np.isfinite(line[name]) and line[name] > 0 for name in names)
    moments = [name for name in runs.arrays(tmp_path / "run", 3) if "opt_state" in name]
    assert moments and any("['image']" in name for name in moments) == (not config.optimizer.freeze)


def tiny(spec, train="shapes@0.5+digits@0.5"):
    """A recipe as it is, but for the model's size, the data and the number of steps."""
    config = recipe.load_recipe(spec)
    size = two_tower.variant("tiny")
    for tower in ("image", "text"):
        for field in ("width", "depth", "heads", "mlp_dim"):
            config.model[tower][field] = size[tower][field]
    config.model.embed_dim = 32
    config.model.image.image_size, config.model.image.patch_size = 16, 8
    config.model.text.vocab_size, config.model.text.context_length, config.model.text.eos_id = 259, 32, 258
    config.data.tokenizer, config.data.train, config.data.eval, config.data.workers = "bytes", train, "digits/test", 0
    config.steps, config.batch_size, config.eval.batch_size, config.log.every = 3, 16, 64, 1
    config.schedule.warmup, config.log.tensorboard, config.mesh.fsdp = 1, False, 1
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.full
def test_clip_trains_on_a_folder_of_jpegs_then_lit_on_top(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["filepath\ttitle"]
    for i in range(24):
        colour, name = [((200, 30, 30), "red"), ((30, 30, 200), "blue")][i % 2]
        pixels = np.clip(np.array(colour) + rng.integers(-20, 20, (20 + i, 30, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
        rows.append(f"{i}.jpg\ta {name} wall number {i}")
    table = tmp_path / "captions.tsv"
    table.write_text("\n".join(rows))

    config = tiny("clip:variant=B/32", f"pairs:{table}")
    config.data.eval = f"pairs:{table}"
    assert runs.train(config, tmp_path / "clip") is None
    logged = lines(tmp_path / "clip")
    assert [line["step"] for line in logged if line["kind"] == "train"] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) for line in logged if line["kind"] == "train")
    (evaluated,) = [line for line in logged if line["kind"] == "eval"]
    assert 0 <= evaluated["captions/image_retrieval_recall@1"] <= 1

    config = tiny("lit:variant=B/32")
    config.init_from = str(tmp_path / "clip")
    assert runs.train(config, tmp_path / "lit") is None
    assert len(lines(tmp_path / "lit")) == 5  # three steps, evaluation, summary


@pytest.mark.full
def test_siglip_trains(tmp_path):
    assert runs.train(tiny("siglip:variant=B/16"), tmp_path / "siglip") is None
    first = lines(tmp_path / "siglip")[0]
    # At the start nearly all of the loss is the positives': their logits are scale * cosine + bias.
    assert abs(first["logit_bias"] + 10) < 0.1 and abs(first["logit_scale"] - 10) < 0.1 and first["loss"] > 1
