"""Recipes beside the originals' own training steps: the same start and batches, and the same curve through every field.

CLIP and CoCa: open_clip's model, loss, parameter groups, AdamW, schedule and clamp. SigLIP: Hugging Face's model, and
big_vision's chain of updates (big_vision/optax.py at 11eea57) written out below in NumPy.
"""

import json
import math

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.config import recipe as recipe_lib
from mmjax.interop import export, foreign_checkpoint
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import build_step, init_from
from tests.helpers import torch_writers

pytestmark = pytest.mark.full
BATCH, VOCAB, LENGTH, SIDE = 16, 40, 7, 16


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """PyTorch's threads wait for one another actively: with several test processes they are far slower than one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# -- here --------------------------------------------------------------------------------------------------------------


def recipe(spec, steps, warmup):
    """A recipe as it is, but for sizes, lengths and the precision of the towers."""
    config = recipe_lib.load_recipe(spec)
    config.batch_size, config.steps, config.schedule.warmup = BATCH, steps, warmup
    config.precision, config.loss.impl, config.attention = "float32", "dense", "xla"
    config.mesh.update(data=1, fsdp=1)
    return config


def batches(count, config, *, padded=False, noise=0.4):
    """Noisy pictures of a few kinds with their captions; the last token ends a text, and 0 pads it."""
    kinds = np.random.default_rng(7)
    pictures, captions = kinds.integers(0, 256, (64, SIDE, SIDE, 3)), kinds.integers(1, VOCAB - 1, (64, LENGTH))
    lengths = kinds.integers(3, LENGTH + 1, 64) if padded else np.full(64, LENGTH)
    captions[np.arange(64), lengths - 1] = VOCAB - 1
    captions = np.where(np.arange(LENGTH) < lengths[:, None], captions, 0)
    for k in range(count):
        rng = np.random.default_rng(k)
        chosen = rng.choice(64, BATCH, replace=False)
        other = rng.integers(0, 256, (BATCH, SIDE, SIDE, 3))
        yield {
            "image": ((1 - noise) * pictures[chosen] + noise * other).astype(np.uint8),
            "text": captions[chosen].astype(np.int32),
            "text_mask": captions[chosen] != 0,
            "id": np.stack([np.arange(BATCH), np.zeros(BATCH)], axis=1).astype(np.uint32),
        }


def train(config, params, data):
    """Trains from parameters by path; returns the losses and the parameters at the end."""
    mesh = make_mesh(parse(config).mesh, jax.devices()[:1])
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), None, mesh)
    setup = build_step.make_setup(parse(config), task, mesh)
    shapes = flat(setup.state.params)
    assert {name: x.shape for name, x in params.items()} == {name: x.shape for name, x in shapes.items()}
    # A step donates what it gets.
    taken = {name: jax.device_put(np.array(x, np.float32), shapes[name].sharding) for name, x in params.items()}
    state, losses = init_from.replace(setup.make_state(0), taken), []
    for batch in data:
        state, metrics = setup.step(state, mesh_lib.to_global(mesh, batch))
        losses.append(float(metrics["loss"]))
    return np.array(losses), {name: np.asarray(x) for name, x in flat(state.params).items()}


def flat(tree):
    return {partition.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


# -- there -------------------------------------------------------------------------------------------------------------


def tensors(batch, config):
    """Normalised pixels and ids as PyTorch has them."""
    import torch

    spec = tasks.make_image_spec(parse(config))
    mean, std = (np.array(x, np.float32) for x in (spec.mean, spec.std))
    pixels = (batch["image"].astype(np.float32) / np.float32(255) - mean) / std
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(batch["text"].astype(np.int64))


def open_clip_training(config, model, loss_of, data):
    """What open_clip_train's main.py and train.py do with a recipe's numbers."""
    import torch
    from open_clip_train.scheduler import cosine_lr

    exclude = lambda n, p: p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n
    named, settings = list(model.named_parameters()), config.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if exclude(n, p)], "weight_decay": 0.0},
            {"params": [p for n, p in named if not exclude(n, p)], "weight_decay": settings.weight_decay},
        ],
        lr=settings.learning_rate,
        betas=(settings.b1, settings.b2),
        eps=settings.eps,
    )
    schedule = cosine_lr(optimizer, settings.learning_rate, config.schedule.warmup, config.steps)
    losses, scales = [], []
    for step, batch in enumerate(data):
        schedule(step)
        optimizer.zero_grad()
        loss = loss_of(model, *tensors(batch, config))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            scales.append(model.logit_scale.item())
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
    return np.array(losses), np.array(scales)


def compare(ours, theirs, start):
    """Losses, and parameters at the end, beside how far they went; the same start, by path."""
    (our_losses, our_params), (their_losses, their_params) = ours, theirs
    np.testing.assert_allclose(our_losses, their_losses, rtol=1e-5)
    assert our_losses[-1] != our_losses[0]
    difference, movement = {}, {}
    for name, x in their_params.items():
        reference, here, before = (np.array(item, np.float64) for item in (x, our_params[name], start[name]))
        if name.endswith(("qkv/bias", "kv/bias")):
            # Keys' biases cancel out in the softmax: their gradient is what is left of rounding.
            key = (..., -2, slice(None), slice(None))
            reference[key] = here[key] = before[key] = 0
        difference[name], movement[name] = np.linalg.norm(here - reference), np.linalg.norm(reference - before)
    complete = lambda norms: math.sqrt(sum(x**2 for x in norms.values()))
    assert complete(difference) <= 1e-4 * complete(movement), complete(difference) / complete(movement)
    shares = {name: difference[name] / movement[name] for name in difference if movement[name] > 0}
    assert len(shares) >= len(difference) - 1
    assert max(shares.values()) <= 1e-3, sorted(shares.items(), key=lambda item: -item[1])[:3]


# -- CLIP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1 / 0.07, 99.9])
def test_clip(scale, tmp_path):
    """A hundred steps of open_clip's; from 99.9 on the scale meets its limit, in weights made for ten times as much."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = recipe("clip:variant=tiny", steps=100, warmup=10)
    config.model.text.update(vocab_size=VOCAB, context_length=LENGTH, eos_id=VOCAB - 1)
    tower = dict(width=32, layers=2)
    described = dict(
        embed_dim=32,
        vision_cfg=tower | dict(image_size=SIDE, patch_size=8, head_width=16),
        text_cfg=tower | dict(context_length=LENGTH, vocab_size=VOCAB, heads=2),
    )
    torch.manual_seed(0)
    model = open_clip.CLIP(**described, output_dict=True)
    loss = open_clip.ClipLoss()

    def loss_of(model, images, ids):
        out = model(images, ids)
        return loss(out["image_features"], out["text_features"], out["logit_scale"])

    if scale > 90:
        model.logit_scale.requires_grad_(False).fill_(math.log(1000))
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
        for batch in batches(150, config, noise=0.1):
            optimizer.zero_grad()
            loss_of(model, *tensors(batch, config)).backward()
            optimizer.step()
        model.logit_scale.fill_(math.log(scale)).requires_grad_(True)

    def read(folder):
        folder.mkdir()
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
        (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=described)))
        return foreign_checkpoint.open_checkpoint(folder).read(lambda _, array: np.array(array))

    start = read(tmp_path / "start")
    losses, scales = open_clip_training(config, model, loss_of, batches(config.steps, config))
    assert (scales.max() > math.log(100)) == (scale > 90)
    ours = train(config, start, batches(config.steps, config))
    compare(ours, (losses, read(tmp_path / "end")), start)


# -- SigLIP ------------------------------------------------------------------------------------------------------------


def kernels(model):
    """Names of the arrays that flax calls `kernel`: of dense layers, convolutions and attention, but not of tables."""
    import torch

    names = set()
    for path, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            names.add(f"{path}.weight")
        if isinstance(module, torch.nn.MultiheadAttention):
            names.add(f"{path}.in_proj_weight")
    return names


def big_vision_training(config, model, data):
    """big_vision's chain: clip, Adam, times the peak rate, decay of `.*/kernel$`, times the schedule from 0 to 1."""
    import torch

    settings, steps, warmup = config.optimizer, config.steps, config.schedule.warmup
    decayed = kernels(model)
    named = dict(model.named_parameters())
    first, second = ({name: np.zeros(p.shape) for name, p in named.items()} for _ in range(2))
    losses = []
    for step, batch in enumerate(data):
        pixels, ids = tensors(batch, config)
        model.zero_grad()
        out = model(input_ids=ids, pixel_values=pixels)
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (out.image_embeds, out.text_embeds))
        logits = image @ text.T * model.logit_scale.exp() + model.logit_bias
        signs = 2 * torch.eye(len(ids)) - 1
        loss = -torch.nn.functional.logsigmoid(signs * logits).sum(dim=-1).mean()
        loss.backward()
        losses.append(loss.item())
        gradients = {name: p.grad.numpy().astype(np.float64) for name, p in named.items()}
        norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
        progress = min(max((step - warmup) / (steps - warmup), 0.0), 1.0)
        schedule = 0.5 * (1 + math.cos(math.pi * progress)) * min(1.0, step / warmup)
        for name, p in named.items():
            g = gradients[name] * min(1.0, settings.grad_clip / norm)
            first[name] = settings.b1 * first[name] + (1 - settings.b1) * g
            second[name] = settings.b2 * second[name] + (1 - settings.b2) * g**2
            update = first[name] / (1 - settings.b1 ** (step + 1))
            update /= np.sqrt(second[name] / (1 - settings.b2 ** (step + 1))) + settings.eps
            update *= settings.learning_rate
            if name in decayed:
                update += settings.weight_decay * p.detach().numpy()
            with torch.no_grad():
                p.sub_(torch.from_numpy(schedule * update))
    return np.array(losses)


@pytest.mark.parametrize("spec", ["siglip:variant=tiny", "lit:variant=tiny-siglip"])
def test_siglip(spec, tmp_path):
    """Thirty steps; LiT's recipe with SigLIP's loss and nothing locked is siglip_lit_coco.py's."""
    import torch
    import transformers

    config = recipe(spec, steps=30, warmup=5)
    config.data.mean_std = "siglip"
    config.optimizer.freeze = ()
    config.objectives.update(itc=0.0, sigmoid=1.0)
    config.model.text.update(vocab_size=VOCAB, context_length=LENGTH)
    mesh = make_mesh(parse(config).mesh, jax.devices()[:1])
    params = flat(tasks.Task(parse(config), tasks.make_image_spec(parse(config)), None, mesh).init(jax.random.key(0)))
    spec = tasks.make_image_spec(parse(config))
    prepared = dict(size=SIDE, resize="squash", interpolation="bicubic", mean=spec.mean, std=spec.std)
    settings = config.model.to_dict()
    export.write(
        tmp_path / "start",
        "hf",
        settings=settings,
        preprocessing=prepared,
        params={k: np.array(x) for k, x in params.items()},
    )
    model = transformers.SiglipModel.from_pretrained(tmp_path / "start").eval()
    assert next(model.parameters()).dtype == torch.float32
    losses = big_vision_training(config, model, batches(config.steps, config))
    model.save_pretrained(tmp_path / "end")
    start, end = (
        foreign_checkpoint.open_checkpoint(tmp_path / name).read(lambda _, array: np.array(array))
        for name in ("start", "end")
    )
    ours = train(config, start, batches(config.steps, config))
    compare(ours, (losses, end), start)


# -- CoCa --------------------------------------------------------------------------------------------------------------


def test_coca():
    """Twenty steps of open_clip's, with its correct mask of padding; weights as torch_writers.py lays them out."""
    from open_clip.loss import CoCaLoss

    config = recipe("coca:variant=coca-B/32", steps=20, warmup=4)
    sizes, config.data.context_length, config.decoding.max_tokens = torch_writers.COCA, LENGTH, LENGTH
    for name in ("image", "text", "decoder"):
        config.model[name].update(sizes[name])
    config.model.update(embed_dim=sizes["embed_dim"], queries=sizes["queries"], pool_heads=sizes["pool_heads"])
    weights = config.objectives
    loss = CoCaLoss(caption_loss_weight=weights.caption, clip_loss_weight=weights.itc, pad_id=0)

    def loss_of(model, images, ids):
        out = model(images, ids)
        return sum(loss(out["image_features"], out["text_features"], out["logits"], out["labels"], out["logit_scale"]))

    model, _ = torch_writers.coca()
    read = lambda: flat(torch_writers.coca_params(torch_writers.weights_of(model)))
    start = {name: np.array(x) for name, x in read().items()}
    losses, _ = open_clip_training(config, model, loss_of, batches(config.steps, config, padded=True))
    ours = train(config, start, batches(config.steps, config, padded=True))
    compare(ours, (losses, read()), start)
