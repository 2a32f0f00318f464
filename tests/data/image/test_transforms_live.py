"""Images of many sizes and modes, prepared by the libraries themselves and by their rules here, pixel for pixel."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

from mmjax.config import parse
from mmjax.data.image.transforms import MEAN_STD, ImageSpec, eval_image
from mmjax.inference import inputs
from tests.helpers.image_modes import FILES, SIXTEEN_BITS

pytestmark = pytest.mark.full
SIZE = 56
NAMES = [name for name in FILES if name not in SIXTEEN_BITS]


def opened(name):
    return Image.open(io.BytesIO(FILES[name]))


def ours(name, **fields):
    """By files, as evaluation of a data set has them, and by PIL images, as `encode_image` is given them."""
    spec = ImageSpec(size=SIZE, **fields)
    made = eval_image(FILES[name], spec)
    assert made.shape == (SIZE, SIZE, 3) and made.dtype == np.uint8
    if name not in SIXTEEN_BITS:
        assert np.array_equal(inputs.to_uint8(opened(name), spec)[0], made)
    return made.astype(int)


def hugging_face(kind, name, **fields):
    """What one of their image processors makes of a file, before it is rescaled: numbers from 0 to 255."""
    import transformers

    processor = getattr(transformers, kind)(do_rescale=False, do_normalize=False, **fields)
    return np.asarray(processor(opened(name), return_tensors="np")["pixel_values"][0]).transpose(1, 2, 0).astype(float)


CLIP = dict(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
SIGLIP = dict(size={"height": SIZE, "width": SIZE})
# Where torchvision's resizing and Pillow's, which both round and clip between two passes, differ by more than one: a
# ribbon that grows by six, and hard edges in a picture that Pillow (since 13) resizes vertically first.
TORCHVISION = {"RGB 400x9": 2.1, "palette with transparency 70x90": 8.1}


@pytest.mark.parametrize("name", NAMES)
def test_hugging_faces_processors(name):
    for resize, kind, fields in (("crop", "CLIPImageProcessor", CLIP), ("squash", "SiglipImageProcessor", SIGLIP)):
        made = ours(name, image_rule="huggingface", resize=resize)
        # Pillow resizes in one of them, and torchvision in the one that is used where it is installed.
        np.testing.assert_array_equal(made, hugging_face(f"{kind}Pil", name, **fields))
        assert np.abs(made - hugging_face(kind, name, **fields)).max() <= TORCHVISION.get(name, 1.1)


def openai(size, interpolation):
    """The transform of OpenAI's package, but for the numbers after it."""
    from torchvision import transforms

    resize = transforms.Resize(size, interpolation=transforms.InterpolationMode(interpolation))
    return transforms.Compose([resize, transforms.CenterCrop(size), lambda image: image.convert("RGB")])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_torchvisions_and_open_clips_transforms(name, interpolation):
    from open_clip.transform import image_transform

    for resize, mode in (("crop", "shortest"), ("squash", "squash")):
        made = ours(name, image_rule="open_clip", resize=resize, interpolation=interpolation)
        numbers = dict(mean=(0.0,) * 3, std=(1.0,) * 3)
        transform = image_transform(SIZE, is_train=False, resize_mode=mode, interpolation=interpolation, **numbers)
        theirs = transform(opened(name)).numpy().transpose(1, 2, 0) * 255
        np.testing.assert_array_equal(made, theirs.round())
        if resize == "crop":
            np.testing.assert_array_equal(made, np.asarray(openai(SIZE, interpolation)(opened(name))))


@pytest.mark.parametrize("name", NAMES)
def test_big_visions_resize(name):
    """TensorFlow is not here: PyTorch's bilinear interpolation without antialiasing has the same formula."""
    import torch

    pixels = np.asarray(opened(name).convert("RGBA").convert("RGB")).astype(np.float32)
    numbers = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    theirs = torch.nn.functional.interpolate(numbers, (SIZE, SIZE), mode="bilinear", antialias=False)
    theirs = theirs[0].numpy().transpose(1, 2, 0)
    made = ours(name, image_rule="big_vision", resize="squash", interpolation="bilinear", antialias=False)
    assert (made <= theirs + 1e-3).all() and (made > theirs - 1.001).all()  # rounded down
    plain = np.abs(theirs - theirs.round()) > 1e-3
    np.testing.assert_array_equal(made[plain], np.floor(theirs)[plain])


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_sixteen_bits_keep_their_high_byte_where_the_libraries_show_white(name):
    """The documented difference: Pillow's conversion to RGB clips samples at 255."""
    from open_clip.transform import image_transform

    theirs = image_transform(SIZE, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)(opened(name)).numpy() * 255
    assert theirs.mean() > 200 and hugging_face("CLIPImageProcessorPil", name, **CLIP).mean() > 200
    samples = np.asarray(opened(name)).astype(np.int64) >> 8
    for rule in ("open_clip", "huggingface", "big_vision", "mmjax"):
        made = ours(name, image_rule=rule)
        assert abs(made.mean() - samples.mean()) < 20 and made.mean() < 180


def test_rules_differ_where_the_docs_say_so():
    """The rules are not one: each of these pictures tells two of them apart."""
    fields = dict(resize="crop")
    made = {
        rule: {name: ours(name, image_rule=rule, **fields) for name in NAMES}
        for rule in ("mmjax", "open_clip", "huggingface", "big_vision")
    }
    differ = lambda one, other, name: not np.array_equal(made[one][name], made[other][name])
    for orientation in range(2, 9):
        name = f"exif {orientation}"
        assert differ("mmjax", "open_clip", name) and differ("mmjax", "huggingface", name)
        assert not differ("open_clip", "big_vision", name) or differ("open_clip", "huggingface", name)
    assert not differ("mmjax", "open_clip", "RGB 640x427") and differ("mmjax", "huggingface", "RGB 640x427")
    assert not differ("huggingface", "big_vision", "RGB 640x427")
    for name in ("palette 90x60", "bitmap 90x61", "RGBA 97x61", "CMYK JPEG 80x61"):
        assert differ("open_clip", "mmjax", name)
    for name in ("RGBA 97x61", "palette with transparency 70x90", "grey with alpha 60x84"):
        assert differ("huggingface", "mmjax", name)


def test_numbers_after_it():
    """Rescaled and normalised, as a model is given them."""
    import jax
    import transformers
    from open_clip.transform import image_transform

    from mmjax import tasks
    from mmjax.config import schema

    name = "RGB 640x427"
    config = schema.base_config("tiny")
    config.data.tokenizer, config.objectives.itc = "bytes", 1.0
    config.model.text.update(vocab_size=259, eos_id=258)
    config.model.image.image_size = SIZE - SIZE % config.model.image.patch_size
    size = config.model.image.image_size
    for rule in ("huggingface", "open_clip"):
        config.data.image_rule = rule
        task = tasks.Task(
            parse(config), tasks.make_image_spec(parse(config)), tasks.make_tokenizer(parse(config)), None
        )
        pixels = eval_image(FILES[name], task.image_spec)[None]
        made = np.asarray(jax.jit(functools.partial(task.inputs.normalize, name="image"))(pixels))[0]
        if rule == "open_clip":
            mean, std = MEAN_STD["clip"]
            theirs = image_transform(size, is_train=False, mean=mean, std=std)(opened(name)).numpy()
        else:
            fields = dict(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
            processor = transformers.CLIPImageProcessorPil(**fields)
            theirs = processor(opened(name), return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(made, theirs.transpose(1, 2, 0), atol=2e-6)


def test_a_loaded_model_prepares_images_as_its_library(tmp_path):
    """By way of the files: `mmjax.load` embeds what the processor beside the weights would have made."""
    import torch
    import transformers

    import mmjax

    sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, projection_dim=16)
    vision = dict(**sizes, image_size=SIZE, patch_size=14)
    text = dict(**sizes, vocab_size=99, max_position_embeddings=8, eos_token_id=98, bos_token_id=97)
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    processor = transformers.CLIPImageProcessorPil(**CLIP)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = mmjax.load(tmp_path)
    assert loaded.image_spec.image_rule == loaded.config.data.image_rule == "huggingface"
    for name in ("RGB 640x427", "exif 6", "RGBA 97x61"):
        with torch.no_grad():
            pixels = torch.from_numpy(processor(opened(name), return_tensors="np")["pixel_values"])
            theirs = model.get_image_features(pixels)
        theirs = getattr(theirs, "pooler_output", theirs)[0].numpy()
        made = np.asarray(loaded.encode_image([opened(name)]))[0]
        np.testing.assert_allclose(made, theirs / np.linalg.norm(theirs), atol=1e-5)
