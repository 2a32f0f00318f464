"""The recipe that goes on from a checkpoint of transformers: trained, killed, resumed, written back, run there."""

import numpy as np
import pytest

import mmjax
from campaigns import hf_families
from mmjax.config import recipe
from mmjax.errors import UserError
from mmjax.inference import convert
from tests.helpers import finetune, runs


def test_a_checkpoint_must_be_named():
    with pytest.raises(UserError, match="write configs/finetune.py:model=PATH"):
        recipe.load_recipe("finetune")
    with pytest.raises(UserError, match="there is no such file or folder"):
        recipe.load_recipe("finetune:model=nowhere")


def llava(folder):
    """A tiny LLaVA that reads the words of the drawn scenes."""
    import transformers

    folder.mkdir()
    vocabulary = finetune.write_tokenizer(folder, ("USER", "ASSISTANT", ":"))
    layers = dict(hidden_size=24, intermediate_size=32, num_attention_heads=4, num_hidden_layers=2)
    vision = layers | dict(image_size=16, patch_size=8)
    text = layers | dict(vocab_size=vocabulary, num_key_value_heads=2, max_position_embeddings=64)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**vision),
        text_config=transformers.LlamaConfig(**text, bos_token_id=1, eos_token_id=2, pad_token_id=0),
        image_token_index=finetune.IMAGE,
    )
    model = hf_families.randomised(transformers.LlavaForConditionalGeneration(config), 0)
    model.save_pretrained(folder)
    return folder


@pytest.mark.full
def test_llava_with_adapters(tmp_path):
    """What mmjax answers after LoRA is what transformers writes with the merged weights."""
    import torch
    import transformers
    from PIL import Image

    start = llava(tmp_path / "llava")
    workdir = finetune.train(start, tmp_path, ",lora=2", ["--config.data.train=questions"])
    convert.convert(workdir, tmp_path / "back", to="hf")
    cls = transformers.LlavaForConditionalGeneration
    theirs, info = cls.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()), info
    before = cls.from_pretrained(start).state_dict()
    changed = {name for name, x in theirs.state_dict().items() if not torch.equal(x, before[name])}
    assert changed and all("_proj" in name or "fc" in name or "linear" in name for name in changed), changed

    ours = mmjax.load(workdir)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(3)]
    question = "what color is the square"
    answers = ours.answer(pictures, question)
    ids, mask = ours.tokenize.with_mask([f"USER: <image>\n{question} ASSISTANT:"])
    row = ids[0][mask[0]].tolist()
    row = row[:-1] if row[-1] == finetune.EOS else row
    first = row.index(finetune.IMAGE)
    row = [*row[:first], *[finetune.IMAGE] * 4, *row[first + 1 :]]
    pixels = np.stack([ours.preprocess(picture) for picture in pictures])
    written = theirs.eval().generate(
        input_ids=torch.tensor([row] * 3),
        attention_mask=torch.ones(3, len(row), dtype=torch.long),
        pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
        max_new_tokens=64,
        do_sample=False,
        num_beams=1,
    )[:, len(row) :]
    decode = lambda row: ours.tokenize.tokenizer.decode(row.tolist())
    assert [decode(row) for row in written] == answers


def blip(folder):
    """A tiny BLIP that writes the words of the drawn scenes."""
    import transformers

    folder.mkdir()
    vocabulary = finetune.write_tokenizer(folder)
    layers = dict(hidden_size=24, intermediate_size=32, num_attention_heads=4, num_hidden_layers=2)
    ids = dict(bos_token_id=finetune.BOS, sep_token_id=finetune.EOS, eos_token_id=finetune.EOS, pad_token_id=0)
    text = layers | ids | dict(vocab_size=vocabulary, max_position_embeddings=24, encoder_hidden_size=24)
    vision = layers | dict(image_size=16, patch_size=8)
    config = transformers.BlipConfig(vision_config=vision, text_config=text)
    hf_families.randomised(transformers.BlipForConditionalGeneration(config), 0).save_pretrained(folder)
    return folder


@pytest.mark.full
def test_blip_on_captions(tmp_path):
    """What mmjax writes after fine-tuning is what transformers writes with the weights that it is given back."""
    import torch
    import transformers
    from PIL import Image

    workdir = finetune.train(blip(tmp_path / "blip"), tmp_path, "", ["--config.data.train=shapes"])
    convert.convert(workdir, tmp_path / "back", to="hf")
    cls = transformers.BlipForConditionalGeneration
    theirs, info = cls.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()), info
    ours = mmjax.load(workdir)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(3)]
    captions = ours.caption(pictures)
    pixels = np.stack([ours.preprocess(picture) for picture in pictures]).transpose(0, 3, 1, 2)
    written = theirs.eval().generate(torch.from_numpy(pixels.copy()), max_new_tokens=19, do_sample=False, num_beams=1)
    decode = lambda row: ours.tokenize.tokenizer.decode(row.tolist())
    assert [decode(row) for row in written[:, 1:]] == captions and any(captions)


def blip2(folder):
    """A tiny BLIP-2 in front of an OPT that reads the words of the drawn scenes."""
    import transformers

    folder.mkdir()
    vocabulary = finetune.write_tokenizer(folder, ("Question", "Answer", ":"))
    layers = dict(hidden_size=24, num_attention_heads=4, num_hidden_layers=2)
    vision = layers | dict(intermediate_size=32, image_size=16, patch_size=8)
    ids = dict(bos_token_id=finetune.BOS, eos_token_id=finetune.EOS, pad_token_id=finetune.PAD)
    config = transformers.Blip2Config(
        vision_config=vision,
        qformer_config=layers | dict(intermediate_size=32),
        text_config=transformers.OPTConfig(
            **layers, **ids, vocab_size=vocabulary, ffn_dim=32, max_position_embeddings=64
        ),
        num_query_tokens=3,
        image_token_index=finetune.IMAGE,
    )
    hf_families.randomised(transformers.Blip2ForConditionalGeneration(config), 0).save_pretrained(folder)
    return folder


@pytest.mark.full
def test_blip2_with_a_locked_decoder(tmp_path):
    """The second stage: of the weights that are written back, those of Q-Former and projection have changed."""
    import torch
    import transformers
    from PIL import Image

    start, workdir = blip2(tmp_path / "blip2"), tmp_path / "run"
    flags = ["--config.data.train=questions", "--config.data.workers=0", "--config.eval.every=0"]
    flags += ["--config.optimizer.freeze=('image/.*', 'text/.*')", "--config.optimizer.learning_rate=1e-2"]
    recipe_flag = f"--config={runs.ROOT}/configs/finetune.py:model={start},steps=5,batch=4"
    assert runs.train_cli(recipe_flag, f"--workdir={workdir}", *flags) == 0
    convert.convert(workdir, tmp_path / "back", to="hf")
    cls = transformers.Blip2ForConditionalGeneration
    theirs, info = cls.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info.values()), info
    before = cls.from_pretrained(start).state_dict()
    behind = {name for name, x in theirs.state_dict().items() if not torch.equal(x, before[name])}
    behind -= {"language_model.model.decoder.embed_positions.weight"}  # whose first two rows nobody reads
    assert {name.partition(".")[0] for name in behind} == {"query_tokens", "qformer", "language_projection"}

    ours = mmjax.load(workdir, precision="float32")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(3)]
    pixels = torch.from_numpy(np.stack([ours.preprocess(picture) for picture in pictures]).transpose(0, 3, 1, 2).copy())
    decode = lambda row: ours.tokenize.tokenizer.decode(row.tolist())
    words = ours.tokenize.tokenizer.words("Question: what color is the square Answer:")
    for prompt, texts in (
        ([], ours.caption(pictures, max_tokens=20)),
        (words, ours.answer(pictures, "what color is the square")),
    ):
        row = [*[finetune.IMAGE] * 3, finetune.BOS, *prompt]
        count = 20 if not prompt else ours.config.decoding.max_tokens
        rows = torch.tensor([row] * 3)
        options = dict(attention_mask=torch.ones_like(rows), max_new_tokens=count, do_sample=False, num_beams=1)
        written = theirs.eval().generate(pixels, input_ids=rows, **options)[:, len(row) :]
        assert [decode(row) for row in written] == texts
