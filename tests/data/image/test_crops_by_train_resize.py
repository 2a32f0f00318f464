"""Which part of a picture training sees, by `data.train_resize`: on the host and on the device, with augmentations."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from PIL import Image

from mmjax import tasks
from mmjax.config import parse, schema
from mmjax.config import recipe as recipe_lib
from mmjax.config.field_origins import FieldOrigins
from mmjax.data.image import crops, frames
from mmjax.data.image.image_file import decode
from mmjax.data.image.transforms import ImageSpec, central_box, eval_transform
from mmjax.data.mixture import open_source
from mmjax.errors import UserError
from mmjax.nn import resize
from mmjax.tasks import image_fields
from mmjax.training import validate_run
from tests.helpers.image_files import encoded, smooth, stored

resize_frames = jax.jit(resize.resize_frames, static_argnums=(2, 3))
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def striped(width=900, height=300):
    """A picture whose thirds have three colours."""
    picture = Image.new("RGB", (width, height))
    for index, colour in enumerate(COLOURS):
        picture.paste(colour, (index * width // 3, 0, (index + 1) * width // 3, height))
    return picture


def seen(pixels):
    """How many of the three colours are in an image."""
    return sum((np.abs(pixels.astype(int) - colour).max(axis=-1) < 12).mean() > 0.05 for colour in COLOURS)


def on_device(file, spec, seed=0):
    """What the device makes of a training image."""
    picture, box = frames.train_frame(file, spec, np.random.default_rng(seed))
    result = resize_frames(picture[None], box[None], spec.size, spec.interpolation)
    return np.asarray(result[0]).astype(np.uint8)


def spec_of(recipe, **changes):
    config = recipe_lib.load_recipe(recipe)
    with config.ignore_type():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return tasks.make_image_spec(parse(config))


@pytest.mark.parametrize(
    "recipe", ["siglip:variant=tiny", "siglip", "lit", "vilt:variant=vilt-B/32", "vqa:variant=vilt-B/32"]
)
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_long_picture_is_seen_whole_under_recipes_that_squash(recipe, form):
    # RandAugment, of lit, comes after what is tested here.
    spec = dataclasses.replace(spec_of(recipe), randaugment=(0, 0), randaugment_policy="torchvision")
    file = encoded(striped(), form, **({"quality": 95} if form == "JPEG" else {}))
    for seed in range(4):
        assert seen(crops.train_image(file, spec, np.random.default_rng(seed))) == 3
    assert seen(on_device(file, dataclasses.replace(spec, frame=928))) == 3
    assert seen(eval_transform(decode(file), spec)) == (3 if spec.resize == "squash" else 1)
    middle = dataclasses.replace(spec, train_resize="center")
    assert seen(crops.train_image(file, middle, np.random.default_rng(0))) == 1


SIZES = [(900, 300), (301, 902), (24, 24), (23, 25), (1, 1), (1, 40), (40, 1), (127, 96)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_squash_is_what_evaluation_squashes(size, interpolation):
    spec = ImageSpec(size=24, resize="squash", train_resize="squash", interpolation=interpolation)
    picture = smooth(*size)
    rng = np.random.default_rng(0)
    assert np.array_equal(crops.train_image(picture, spec, rng), eval_transform(Image.fromarray(picture), spec))
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn
    assert (
        np.abs(
            on_device(picture, dataclasses.replace(spec, frame=928)).astype(int)
            - eval_transform(Image.fromarray(picture), spec)
        ).max()
        <= 1
    )


@pytest.mark.parametrize("size", [*SIZES, (640, 427), (427, 640), (47, 49)])
def test_center_shows_what_evaluation_crops(size):
    spec = ImageSpec(size=24, train_resize="center")
    picture = smooth(*size)
    made = crops.train_image(picture, spec, np.random.default_rng(0)).astype(int)
    evaluated = eval_transform(Image.fromarray(picture), spec)
    assert np.abs(made - evaluated).max() <= 20 and np.abs(made - evaluated).mean() < 2
    box = crops.training_box(*size, spec, np.random.default_rng(0))
    assert np.allclose(box, central_box(*size, spec), atol=1 if min(size) >= 48 else 1 / 8)
    assert np.abs(on_device(picture, dataclasses.replace(spec, frame=928)) - made).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("way", ["squash", "center"])
def test_turned_pictures_are_seen_upright(way, orientation):
    spec = ImageSpec(size=24, train_resize=way)
    upright = smooth(60, 45)
    file = stored(upright, orientation, "PNG")
    expected = crops.train_image(upright, spec, np.random.default_rng(0)).astype(int)
    assert np.abs(crops.train_image(file, spec, np.random.default_rng(0)) - expected).max() <= 1
    assert np.abs(on_device(file, dataclasses.replace(spec, frame=64)) - expected).max() <= 1


@pytest.mark.parametrize("way", ["squash", "center"])
def test_mirroring_and_augmentations_come_after_it(way):
    picture = smooth(90, 30)
    plain = crops.train_image(picture, ImageSpec(size=24, train_resize=way), np.random.default_rng(0))
    flipped = ImageSpec(size=24, train_resize=way, flip=True)
    made = [crops.train_image(picture, flipped, np.random.default_rng(seed)) for seed in range(20)]
    kinds = [np.array_equal(picture, plain) for picture in made]
    assert 0 < sum(kinds) < 20
    assert all(
        np.array_equal(picture, plain if kind else plain[:, ::-1]) for picture, kind in zip(made, kinds, strict=True)
    )
    for seed in range(20):
        device = on_device(picture, dataclasses.replace(flipped, frame=96), seed)
        assert np.abs(device.astype(int) - made[seed]).max() <= 1
    for changes in (dict(randaugment=(2, 9)), dict(color_jitter=(0.4, 0.4, 0.4, 0.1)), dict(grayscale=1.0)):
        changed = [
            crops.train_image(picture, dataclasses.replace(flipped, flip=False, **changes), np.random.default_rng(seed))
            for seed in range(5)
        ]
        assert any(not np.array_equal(picture, plain) for picture in changed)


def test_large_jpegs_are_decoded_smaller_and_seen_whole():
    file = encoded(striped(), "JPEG", quality=95)
    spec = ImageSpec(size=24, train_resize="squash", draft=True)
    with crops.draw_crop(file, spec, np.random.default_rng(0), 10**9) as drawn:
        assert drawn.scale == 8 and drawn.image.size == (113, 38)
    assert seen(crops.train_image(file, spec, np.random.default_rng(0))) == 3
    assert seen(on_device(file, dataclasses.replace(spec, frame=128))) == 3


@pytest.mark.parametrize("source", ["shapes", "digits", "questions"])
def test_drawn_scenes_are_the_same_bits_as_with_a_crop_of_everything(source):
    """The recipes on scenes had crop_scale=(1, 1) and crop_ratio=(1, 1) before there was `squash`."""
    records = open_source(source)
    side = Image.open(io.BytesIO(records[0]["image"])).size[0] if isinstance(records[0]["image"], bytes) else 32
    for size in (32, side):
        before = ImageSpec(size=size, crop_scale=(1, 1), crop_ratio=(1, 1), draft=True)
        now = dataclasses.replace(before, train_resize="squash", crop_scale=(0.9, 1.0), crop_ratio=(3 / 4, 4 / 3))
        for index in range(50):
            image = records[index]["image"]
            made = [crops.train_image(image, spec, np.random.default_rng(index)) for spec in (before, now)]
            assert np.array_equal(*made)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_resize": "squish"}, r"data.train_resize='squish'.*did you mean 'squash'"),
        ({"crop_scale": (1.0, 1.0)}, r"data.crop_scale=\(1.0, 1.0\).*train_resize='squash' for whole pictures"),
        ({"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}, r"data.crop_scale=\(1.0, 1.0\).*'center'"),
        ({"crop_scale": (0.0, 1.0)}, r"data.crop_scale=\(0.0, 1.0\): give \(low, high\) with 0 < low <= high <= 1"),
        ({"crop_scale": (-0.5, 1.0)}, r"data.crop_scale=\(-0.5, 1.0\): give"),
        ({"crop_scale": (0.9, 0.5)}, r"data.crop_scale=\(0.9, 0.5\): give"),
        ({"crop_scale": (0.5, 1.5)}, r"data.crop_scale=\(0.5, 1.5\): give"),
        ({"crop_scale": (0.0, 1.0), "train_resize": "squash"}, r"data.crop_scale=\(0.0, 1.0\): give"),
        ({"crop_ratio": (0.0, 0.0)}, r"data.crop_ratio=\(0.0, 0.0\): give .*0 < low <= high, both finite"),
        ({"crop_ratio": (0.75, float("inf"))}, r"data.crop_ratio=\(0.75, inf\): give .*both finite"),
        ({"crop_ratio": (float("nan"), 1.0)}, r"data.crop_ratio=\(nan, 1.0\) wants a tuple of 2 numbers"),
        (
            {"color_jitter_prob": 0.5},
            r"data.color_jitter_prob=0.5 is not read with data.color_jitter=\(0.0, .*is off; give",
        ),
        ({"crop_ratio": (5.0, 10.0)}, r"data.crop_ratio=\(5.0, 10.0\).*from 4.5 to 11.1 alone"),
        ({"crop_ratio": (0.1, 0.2)}, r"data.crop_ratio=\(0.1, 0.2\).*give ratios around 1"),
        ({"train_resize": "squash", "crop_scale": (0.5, 1.0)}, r"data.crop_scale=\(0.5, 1.0\) is not read.*'squash'"),
        ({"train_resize": "center", "crop_ratio": (0.5, 2.0)}, r"data.crop_ratio=\(0.5, 2.0\) is not read.*'center'"),
    ],
)
def test_fields_that_cannot_apply_are_refused_by_name(fields, message):
    config = schema.base_config()
    config.data.update(fields, train="shapes")
    with pytest.raises(UserError, match=message) as caught:
        validate_run.check_config(parse(config), FieldOrigins(tuple(f"data.{name}" for name in fields)))
    assert "\n" not in str(caught.value)


def test_defaults_are_those_of_the_config():
    data = schema.base_config().data
    assert {name: data[name] for name in image_fields.DEFAULTS} == image_fields.DEFAULTS
    assert {"flip", "mean_std", "resize_on", "image_rule", "antialias", "draft"} < set(image_fields.DEFAULTS)


OTHERS = dict(
    train_resize="squash",
    image_rule="open_clip",
    crop_scale=(0.0, 1.0),
    flip=True,
    mean_std="siglip",
    resize_on="device",
)


@pytest.mark.parametrize("field", OTHERS)
def test_a_model_that_prepares_no_images_reads_none_of_the_fields(field):
    """Its image encoder is given arrays."""
    config = recipe_lib.load_recipe("fusion")
    assert "image" in config.model.encoders
    tasks.check_images(parse(config))
    config.data[field] = OTHERS[field]
    with pytest.raises(UserError, match=rf"data\.{field}=.* is not read, as model.image is not set .* leave it at"):
        tasks.check_images(parse(config))
    # A run that began so goes on.
    tasks.check_images(parse(config), FieldOrigins(stored={f"data.{field}": OTHERS[field]}))
    tasks.check_images(parse(config), FieldOrigins(kept=(f"data.{field}",)))


def test_a_stored_share_of_jittered_images_is_let_be():
    config = schema.base_config()
    config.data.color_jitter_prob = 0.5
    validate_run.check_unread(parse(config), FieldOrigins(stored={"data.color_jitter_prob": 0.5}))
    with pytest.raises(UserError, match="data.color_jitter_prob=0.5 is not read"):
        validate_run.check_unread(parse(config), FieldOrigins(stored={"data.color_jitter_prob": 0.4}))
    config.data.color_jitter = (0.4, 0.0, 0.0, 0.0)
    validate_run.check_unread(parse(config))


@pytest.mark.parametrize("recipe", sorted(path.stem for path in recipe_lib.recipe_folder().glob("*.py")))
def test_every_recipe_is_accepted(recipe):
    if recipe not in ("eval", "finetune"):  # what describes no run, or needs a checkpoint
        tasks.check_images(parse(recipe_lib.load_recipe(recipe)))


def test_what_applies_is_accepted():
    for fields in ({}, {"train_resize": "squash"}, {"train_resize": "center"}, {"crop_scale": (0.05, 1.0)}):
        config = schema.base_config()
        config.data.update(fields)
        tasks.check_images(parse(config))
    config.data.update({"train_resize": "crop", "crop_scale": (1.0, 1.0)})
    tasks.check_images(parse(config), FieldOrigins(kept=("data.train_resize",)))  # a run that began so goes on


def test_training_under_siglip_sees_a_long_picture_whole(tmp_path):
    """Through the recipe's own data: a table of one picture, read, drawn, resized and batched as in training."""
    striped().save(tmp_path / "striped.jpg", quality=95)
    (tmp_path / "captions.tsv").write_text("filepath\ttitle\nstriped.jpg\tthree colours\n")
    config = recipe_lib.load_recipe("siglip:variant=tiny")
    config.data.train, config.data.tokenizer, config.data.workers = f"pairs:{tmp_path}/captions.tsv", "bytes", 0
    config.model.text.update(vocab_size=259, eos_id=258)
    mixture = tasks.open_mixture(parse(config))
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tasks.make_tokenizer(parse(config)), None)
    examples = tasks.make_train_examples(parse(config), mixture, task.example_transform)
    for index in range(4):
        assert seen(examples[index]["image"]) == 3
