"""LLaVA, PaliGemma and BLIP-2 with OPT of transformers: read, compared, written back, loaded there."""

import pytest
from PIL import Image

from campaigns import family_models, hf_families
from campaigns.hf_language_models import CASES
from mmjax.data.text import make_tokenizer
from mmjax.interop import export
from mmjax.interop.families import family
from tests.helpers import finetune

pytestmark = pytest.mark.full


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", CASES)
def test_random_models(name, seed, tmp_path):
    hf_families.check(CASES[name], seed, tmp_path)


@pytest.mark.parametrize(
    "architecture, text, images",
    [
        ("LlavaForConditionalGeneration", "USER: <image> what color ASSISTANT:", 4),
        ("PaliGemmaForConditionalGeneration", "<image>what color", 4),
        ("Blip2ForConditionalGeneration", "what color", 3),
    ],
)
def test_their_processor_reads_what_is_written(architecture, text, images, tmp_path):
    """It puts as many tokens into a text as the model gives an image."""
    import transformers

    finetune.write_tokenizer(tmp_path, ("USER", "ASSISTANT", ":"))
    settings = family.complete(family_models.SETTINGS[architecture])
    files = dict(preprocessing=family_models.PREPARED, params=family_models.blank_params(settings))
    tokenizer = make_tokenizer.make_tokenizer(f"json:{tmp_path}/tokenizer.json", 32)
    (tmp_path / "model").mkdir()
    export.write(tmp_path / "model", "hf", settings=settings, tokenizer=tokenizer, **files)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "model")
    inputs = processor(images=Image.new("RGB", (16, 16)), text=text, return_tensors="pt")
    assert type(processor).__name__ == f"{architecture.removesuffix('ForConditionalGeneration')}Processor"
    assert inputs.input_ids[0].tolist().count(finetune.IMAGE) == images
    assert inputs.pixel_values.shape == (1, 3, 16, 16)
