"""PyTorch's ViViT, VideoMAE, AST and Whisper of random configurations: read, computed, written back, loaded there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.interop import huggingface, media_towers
from mmjax.models import generation
from mmjax.nn import attention
from mmjax.nn.transformer import Memory
from mmjax.parallel import partition

pytestmark = pytest.mark.full
BATCH = 3
SEEDS = range(4)


def randomised(model, seed):
    """The model with numbers so large that a wrong epsilon, activation or order shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(0.25 * torch.randn(weight.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                weight.add_(1.0)
    return model.eval()


def layers(rng):
    heads = int(rng.choice([1, 2, 3]))
    return dict(
        hidden_size=heads * int(rng.choice([4, 6])),
        num_attention_heads=heads,
        num_hidden_layers=int(rng.integers(1, 4)),
        intermediate_size=int(rng.integers(5, 30)),
        hidden_act=str(rng.choice(list(huggingface.ACTIVATIONS))),
        layer_norm_eps=float(rng.choice([1e-12, 1e-6, 1e-3])),
        num_labels=int(rng.integers(2, 7)),
    )


def vivit(rng):
    import transformers

    patch, tubelet = int(rng.choice([3, 4])), int(rng.choice([1, 2, 3]))
    side, frames = patch * int(rng.integers(1, 4)), tubelet * int(rng.integers(1, 4))
    config = transformers.VivitConfig(
        **layers(rng), image_size=side, num_frames=frames, tubelet_size=[tubelet, patch, patch]
    )
    return transformers.VivitForVideoClassification(config), (BATCH, frames, side, side, 3)


def videomae(rng):
    import transformers

    patch, tubelet = int(rng.choice([3, 4])), int(rng.choice([1, 2, 3]))
    side, frames = patch * int(rng.integers(1, 4)), tubelet * int(rng.integers(1, 4))
    sizes = dict(image_size=side, patch_size=patch, num_frames=frames, tubelet_size=tubelet)
    config = transformers.VideoMAEConfig(**layers(rng), **sizes, use_mean_pooling=bool(rng.integers(2)))
    return transformers.VideoMAEForVideoClassification(config), (BATCH, frames, side, side, 3)


def ast(rng):
    import transformers

    patch = int(rng.choice([3, 4]))
    frames, bins = int(rng.integers(patch, 20)), int(rng.integers(patch, 14))
    strides = dict(time_stride=int(rng.integers(1, patch + 1)), frequency_stride=int(rng.integers(1, patch + 1)))
    config = transformers.ASTConfig(**layers(rng), patch_size=patch, max_length=frames, num_mel_bins=bins, **strides)
    return transformers.ASTForAudioClassification(config), (BATCH, frames, bins)


CLASSIFIERS = {"vivit": vivit, "videomae": videomae, "audio-spectrogram-transformer": ast}


def tokens_of(model, x):
    """What the tower gives before pooling, in our order, and the logits."""
    import torch

    with torch.no_grad():
        if x.ndim == 5:
            x = torch.from_numpy(x.transpose(0, 1, 4, 2, 3).copy())
            tower = getattr(model, "vivit", None) or model.videomae
            return tower(pixel_values=x).last_hidden_state.numpy(), model(pixel_values=x).logits.numpy()
        x, config = torch.from_numpy(x), model.config
        tokens = model.audio_spectrogram_transformer(x).last_hidden_state.numpy()
        bins, frames = model.audio_spectrogram_transformer.embeddings.get_shape(config)
        patches = tokens[:, 2:].reshape(BATCH, bins, frames, -1).swapaxes(1, 2).reshape(BATCH, bins * frames, -1)
        return np.concatenate([tokens[:, :2], patches], axis=1), model(x).logits.numpy()


def logits_by_hand(opened, params, tokens):
    """Their pooling, layer norm and linear layer in numpy."""
    form, tokens = opened.format, np.asarray(tokens, np.float64)
    if form == "audio-spectrogram-transformer":
        x = tokens[:, :2].mean(axis=1)
    else:
        x = tokens.mean(axis=1) if opened.config.get("use_mean_pooling") else tokens[:, 0]
    if "head_norm/scale" in params:
        eps = opened.config["layer_norm_eps"] if form.startswith("audio") else 1e-5
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        x = x * params["head_norm/scale"] + params["head_norm/bias"]
    return x @ params["head/kernel"] + params["head/bias"]


def part(opened, params, slot):
    """A slot's module, and its parameters."""
    tree = {name.removeprefix(f"{slot}/"): x for name, x in params.items() if name.startswith(f"{slot}/")}
    return media_towers.make_part(slot, opened.settings[slot]), partition.nested(tree)


def check_written(opened, params, model, folder):
    """Their class loads what is written without a complaint, bit for bit."""
    media_towers.write_tower(folder, opened.settings, params, opened.config)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys() and all((theirs[name] == ours[name]).all() for name in theirs)
    assert again.config.id2label == model.config.id2label
    return again.eval()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", CLASSIFIERS)
def test_classifiers(form, seed, tmp_path):
    rng = np.random.default_rng(seed)
    model, shape = CLASSIFIERS[form](rng)
    randomised(model, seed).save_pretrained(tmp_path / "theirs")
    x = rng.standard_normal(shape).astype(np.float32)
    tokens, logits = tokens_of(model, x)
    opened = media_towers.open_tower(tmp_path / "theirs")
    assert (opened.format, opened.unread) == (form, ())
    params = opened.read(lambda _, array: array)
    (slot,) = opened.settings
    module, tree = part(opened, params, slot)
    ours = jax.jit(lambda params, x: module.apply({"params": params}, x).tokens)(tree, x)
    np.testing.assert_allclose(ours, tokens, atol=1e-5)
    np.testing.assert_allclose(logits_by_hand(opened, params, ours), logits, atol=2e-5)
    again = check_written(opened, params, model, tmp_path / "ours")
    np.testing.assert_allclose(tokens_of(again, x)[0], tokens, atol=1e-5)


def test_towers_alone_and_what_belongs_to_none(tmp_path):
    """Without a classifier; a pooler and VideoMAE's decoder of pixels are left out, and named."""
    import transformers

    rng = np.random.default_rng(0)
    small = layers(rng) | dict(hidden_size=8, num_attention_heads=2)
    del small["num_labels"]
    size = dict(image_size=8, num_frames=2)
    videomae = transformers.VideoMAEConfig(
        **small, **size, patch_size=4, decoder_num_attention_heads=2, decoder_hidden_size=8,
        decoder_num_hidden_layers=1, decoder_intermediate_size=9,
    )  # fmt: skip
    models = {
        "vivit": transformers.VivitModel(transformers.VivitConfig(**small, **size, tubelet_size=[2, 4, 4])),
        "videomae": transformers.VideoMAEModel(videomae),
        "pretraining": transformers.VideoMAEForPreTraining(videomae),
        "ast": transformers.ASTModel(transformers.ASTConfig(**small, patch_size=4, max_length=12, num_mel_bins=8)),
    }
    unread = {"vivit": ("pooler.",), "pretraining": ("decoder.", "encoder_to_decoder.", "mask_token")}
    for name, model in models.items():
        randomised(model, 1).save_pretrained(tmp_path / name)
        opened = media_towers.open_tower(tmp_path / name)
        params = opened.read(lambda _, array: array)
        starts = unread.get(name, ())
        assert {start for start in starts for other in opened.unread if other.startswith(start)} == set(starts)
        assert all(other.startswith(starts) for other in opened.unread) and bool(opened.unread) == bool(starts)
        media_towers.write_tower(tmp_path / "ours" / name, opened.settings, params, opened.config)
        cls = type(models["videomae"] if name == "pretraining" else model)
        options = dict(add_pooling_layer=False) if name == "vivit" else {}
        again, info = cls.from_pretrained(tmp_path / "ours" / name, output_loading_info=True, **options)
        assert not any(info.values())
        theirs = getattr(model, "videomae", model).state_dict()
        assert all((x == theirs[key]).all() for key, x in again.state_dict().items())


# -- Whisper -----------------------------------------------------------------------------------------------------------


def whisper(seed):
    """A random configuration, and a model of it with random weights, the table of positions, too."""
    import transformers

    rng = np.random.default_rng(seed)
    heads = int(rng.choice([2, 3]))
    config = transformers.WhisperConfig(
        d_model=heads * int(rng.choice([4, 6])),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads if seed else 1,
        encoder_layers=int(rng.integers(1, 4)),
        decoder_layers=int(rng.integers(1, 4)),
        encoder_ffn_dim=int(rng.integers(5, 30)),
        decoder_ffn_dim=int(rng.integers(5, 30)),
        activation_function=str(rng.choice(["gelu", "relu", "gelu_new"])),
        vocab_size=23,
        num_mel_bins=int(rng.integers(4, 10)),
        max_source_positions=int(rng.integers(5, 9)),
        max_target_positions=14,
        tie_word_embeddings=seed != 1,
        **dict(pad_token_id=2, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3),
        **dict(begin_suppress_tokens=None, suppress_tokens=None),
    )
    model = randomised(transformers.WhisperForConditionalGeneration(config), seed)
    frames = 2 * config.max_source_positions
    sounds = rng.standard_normal((BATCH, frames, config.num_mel_bins)).astype(np.float32)
    text = rng.integers(3, 23, (BATCH, 9)).astype(np.int32)
    return model, sounds, text


@pytest.mark.parametrize("seed", SEEDS)
def test_whisper(seed, tmp_path):
    import torch

    model, sounds, text = whisper(seed)
    model.save_pretrained(tmp_path / "theirs")
    opened = media_towers.open_tower(tmp_path / "theirs")
    assert (opened.format, opened.unread, list(opened.settings)) == ("whisper", (), ["audio", "text"])
    params = opened.read(lambda _, array: array)
    encoder, encoder_params = part(opened, params, "audio")
    decoder, decoder_params = part(opened, params, "text")
    features, ids = torch.from_numpy(sounds.swapaxes(1, 2).copy()), torch.from_numpy(text.astype(np.int64))
    with torch.no_grad():
        states = model.model.encoder(features).last_hidden_state.numpy()
        logits = model(input_features=features, decoder_input_ids=ids).logits.numpy()

    tokens = jax.jit(lambda params, x: encoder.apply({"params": params}, x).tokens)(encoder_params, sounds)
    np.testing.assert_allclose(tokens, states, atol=1e-5)

    memory = Memory(tokens)

    @jax.jit
    def teacher_forced(params, text):
        bound = decoder.bind({"params": params})
        return bound.logits(bound(text, None, memory).tokens)

    np.testing.assert_allclose(teacher_forced(decoder_params, text), logits, atol=1e-5)

    prompt, slots = 3, 14
    run = lambda params, method, *args, **options: decoder.apply({"params": params}, *args, method=method, **options)

    @jax.jit
    def start(params, text):
        embedded = run(params, "embed", text)
        spec = attention.AttentionSpec(causal=True)
        return run(params, "start", embedded, spec, slots=slots, memory=memory)

    step = jax.jit(lambda params, carry, tokens: run(params, "step", carry, tokens))
    scores, carry = start(decoder_params, text[:, :prompt])
    cache = None
    for position in range(prompt, text.shape[1] + 1):
        np.testing.assert_allclose(scores, logits[:, position - 1], atol=1e-5)
        first = 0 if cache is None else position - 1
        with torch.no_grad():  # with their cache, too
            out = model(
                encoder_outputs=(torch.from_numpy(states),),
                decoder_input_ids=ids[:, first:position],
                cache=cache,
                use_cache=True,
            )
        cache = out.cache
        np.testing.assert_allclose(scores, out.logits[:, -1].numpy(), atol=1e-5)
        if position < text.shape[1]:
            scores, carry = step(decoder_params, carry, jnp.asarray(text[:, position]))
    check_written(opened, params, model, tmp_path / "ours")


@pytest.mark.parametrize("suppressed", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_whisper_writes_what_greedy_search_there_writes(seed, suppressed, tmp_path):
    """A prompt as of task tokens, then the likeliest token until the end of the text, of those not suppressed."""
    import torch
    import transformers

    model, sounds, text = whisper(2 + seed)
    with torch.no_grad():  # ends of texts come often enough, and no token is far ahead of all others
        model.model.decoder.layer_norm.bias.fill_(0.1)
        model.model.decoder.embed_tokens.weight[2].mul_(1.3)
    if suppressed:
        rng = np.random.default_rng(seed)
        model.generation_config.suppress_tokens = rng.choice(np.arange(4, 23), 6, replace=False).tolist()
        model.generation_config.begin_suppress_tokens = [2, int(rng.integers(4, 23))]
    model.save_pretrained(tmp_path)
    opened = media_towers.open_tower(tmp_path)
    params = opened.read(lambda _, array: array)
    encoder, encoder_params = part(opened, params, "audio")
    decoder, decoder_params = part(opened, params, "text")
    prompt, length = np.array([[3, 7, 11]] * BATCH, np.int32), 8
    hidden = media_towers.suppressed_tokens(opened)
    assert any(hidden.values()) == suppressed
    settings = generation.Decoding(max_tokens=length, eos_id=opened.settings["text"]["eos_id"], pad_id=2, **hidden)

    @jax.jit
    def write(params, sounds, prompt):
        memory = Memory(encoder.apply({"params": encoder_params}, sounds).tokens)
        bound = decoder.bind({"params": params})
        spec = attention.AttentionSpec(causal=True)
        slots = prompt.shape[1] + length
        logits, carry = bound.start(bound.embed(prompt), spec, slots=slots, memory=memory)
        step = lambda carry, tokens: decoder.apply({"params": params}, carry, tokens, method="step")
        return generation.generate(step, logits, carry, settings, take=lambda carry, rows: carry.take(rows)).tokens

    encoder_params = jax.tree.map(jnp.asarray, encoder_params)
    ours = np.asarray(write(decoder_params, sounds, prompt))
    features = torch.from_numpy(sounds.swapaxes(1, 2).copy())
    options = dict(max_new_tokens=length, do_sample=False, num_beams=1)
    ids = torch.from_numpy(prompt.astype(np.int64))
    with torch.no_grad():
        theirs = transformers.GenerationMixin.generate(model, features, decoder_input_ids=ids, **options).numpy()
        stripped = model.generate(features, decoder_input_ids=ids, **options).numpy()  # without the ends of texts
    padded = lambda x: np.pad(x, ((0, 0), (0, length - x.shape[1])), constant_values=2)
    np.testing.assert_array_equal(ours, padded(theirs[:, prompt.shape[1] :]))
    np.testing.assert_array_equal(ours, padded(stripped))
    assert seed or suppressed or (ours == 2).any()
    if suppressed:
        assert not np.isin(ours, hidden["suppress_tokens"]).any()
        assert not np.isin(ours[:, 0], hidden["begin_suppress_tokens"]).any()


def test_a_fresh_table_of_positions_is_whispers():
    from transformers.models.whisper.modeling_whisper import sinusoids

    from mmjax.nn.positions import side_by_side_sinusoids

    np.testing.assert_allclose(side_by_side_sinusoids(1500, 384), sinusoids(1500, 384).numpy(), atol=1e-3)
