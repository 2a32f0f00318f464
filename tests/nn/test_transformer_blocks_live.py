"""Layers of Llama, Gemma, DINOv2, EVA, Perception Encoder and OpenCLIP against their PyTorch, with gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn import rotary
from mmjax.nn.attention import AttentionSpec
from mmjax.nn.transformer import Transformer

pytestmark = pytest.mark.full
DEPTH, WIDTH, HEADS, HIDDEN, BATCH, LENGTH = 2, 32, 4, 20, 3, 7


def randomised(module, seed):
    """The module with numbers so large that a wrong epsilon, order or layout shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1.0)
    return module.eval()


def heads_of(weight, heads):
    """A linear map's weight [H K, D] or bias [H K] as [D, H, K] or [H, K]."""
    split = weight.reshape(heads, -1, *weight.shape[1:])
    return np.moveaxis(split, -1, 0) if weight.ndim == 2 else split


def together(*parts):
    """Maps of equal heads as one: [D, n, H, K] or [n, H, K]."""
    return np.stack(parts, axis=1 if parts[0].ndim == 3 else 0)


def linear(state, name):
    return {"kernel": state[f"{name}.weight"].T} | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})


def norm(state, name):
    return {"scale": state[f"{name}.weight"]} | ({"bias": state[f"{name}.bias"]} if f"{name}.bias" in state else {})


def output(state, name, heads):
    dense = linear(state, name)
    return dense | {"kernel": dense["kernel"].reshape(heads, -1, dense["kernel"].shape[-1])}


def hugging_face_decoder(state, heads, groups):
    """A layer of Llama or Gemma."""
    part = lambda name, count: heads_of(state[f"self_attn.{name}_proj.weight"], count)
    k, v = part("k", groups), part("v", groups)
    if groups == heads:
        attention = {"qkv": {"kernel": together(part("q", heads), k, v)}}
    else:
        attention = {"q": {"kernel": part("q", heads)}, "kv": {"kernel": together(k, v)}}
    return {
        "attention": attention | {"out": output(state, "self_attn.o_proj", heads)},
        "norm1": norm(state, "input_layernorm"),
        "norm2": norm(state, "post_attention_layernorm"),
        "mlp": {
            ours: linear(state, f"mlp.{theirs}_proj")
            for ours, theirs in [("gate", "gate"), ("fc1", "up"), ("fc2", "down")]
        },
    }


def dinov2(state):
    names = [f"attention.{name}_proj" for name in "qkv"]
    qkv = {
        "kernel": together(*(heads_of(state[f"{name}.weight"], HEADS) for name in names)),
        "bias": together(*(heads_of(state[f"{name}.bias"], HEADS) for name in names)),
    }
    return {
        "attention": {"qkv": qkv, "out": output(state, "attention.o_proj", HEADS)},
        **{f"norm{i}": norm(state, f"norm{i}") for i in (1, 2)},
        **{f"layer_scale{i}": state[f"layer_scale{i}.lambda1"] for i in (1, 2)},
        "mlp": {name: linear(state, f"mlp.{name}") for name in ("fc1", "fc2")},
    }


def openclip(state):
    qkv = {
        "kernel": together(*(heads_of(part, HEADS) for part in np.split(state["attn.in_proj_weight"], 3))),
        "bias": together(*(heads_of(part, HEADS) for part in np.split(state["attn.in_proj_bias"], 3))),
    }
    return {
        "attention": {"qkv": qkv, "out": output(state, "attn.out_proj", HEADS)},
        **{f"norm{i}": norm(state, f"ln_{i}") for i in (1, 2)},
        **{f"layer_scale{i}": state[f"ls_{i}.gamma"] for i in (1, 2)},
        "mlp": {"fc1": linear(state, "mlp.c_fc"), "fc2": linear(state, "mlp.c_proj")},
    }


def eva(state, groups=HEADS):
    attention = {"out": output(state, "attn.proj", HEADS)}
    if "attn.qkv.weight" in state:
        kernel = together(*(heads_of(part, HEADS) for part in np.split(state["attn.qkv.weight"], 3)))
        if "attn.qkv.bias" in state:
            biases = np.split(state["attn.qkv.bias"], 3)
        else:
            biases = [state["attn.q_bias"], state["attn.v_bias"]]
        attention["qkv"] = {"kernel": kernel, "bias": together(*(heads_of(part, HEADS) for part in biases))}
    else:
        part = lambda name, what, count: heads_of(state[f"attn.{name}_proj.{what}"], count)
        if groups == HEADS:
            kernel = together(*(part(name, "weight", HEADS) for name in "qkv"))
            attention["qkv"] = {"kernel": kernel, "bias": together(*(part(name, "bias", HEADS) for name in "qv"))}
        else:
            attention["q"] = {
                what: part("q", theirs, HEADS) for what, theirs in [("kernel", "weight"), ("bias", "bias")]
            }
            attention["kv"] = {
                what: together(part("k", theirs, groups), part("v", theirs, groups))
                for what, theirs in [("kernel", "weight"), ("bias", "bias")]
            }
    if "attn.norm.weight" in state:
        attention["norm"] = norm(state, "attn.norm")
    names = {"fc1_g": "gate", "fc1_x": "fc1"} if "mlp.fc1_g.weight" in state else {"fc1": "fc1"}
    mlp = {ours: linear(state, f"mlp.{theirs}") for theirs, ours in (names | {"fc2": "fc2"}).items()}
    if "mlp.norm.weight" in state:
        mlp["norm"] = norm(state, "mlp.norm")
    return {"attention": attention, "mlp": mlp, **{f"norm{i}": norm(state, f"norm{i}") for i in (1, 2)}} | {
        f"layer_scale{i}": state[f"gamma_{i}"] for i in (1, 2) if f"gamma_{i}" in state
    }


def make_llama(groups, seed):
    import transformers
    from transformers.models.llama import modeling_llama as module

    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS, vocab_size=8,
        num_key_value_heads=groups, rms_norm_eps=1e-3, rope_parameters={"rope_type": "default", "rope_theta": 50.0},
    )  # fmt: skip
    return decoder_of(module.LlamaDecoderLayer, module.LlamaRotaryEmbedding, config)


def make_gemma(groups, seed):
    import transformers
    from transformers.models.gemma import modeling_gemma as module

    config = transformers.GemmaConfig(
        hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS, vocab_size=8,
        num_key_value_heads=groups, head_dim=10, rms_norm_eps=1e-3, hidden_act="gelu_pytorch_tanh",
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    return decoder_of(module.GemmaDecoderLayer, module.GemmaRotaryEmbedding, config)


def decoder_of(layer, embedding, config):
    """Layers of a decoder under its causal mask with its rotary positions."""
    import torch

    config._attn_implementation = "eager"
    layers = torch.nn.ModuleList(layer(config, i) for i in range(DEPTH))

    def run(x, valid, positions):
        hidden = torch.full((LENGTH, LENGTH), -1e9).triu(1)[None, None]
        hidden = hidden + torch.where(valid, 0.0, -1e9)[:, None, None]
        turns = embedding(config)(x, positions)
        for one in layers:
            x = one(x, attention_mask=hidden, position_ids=positions, position_embeddings=turns)
            x = x[0] if isinstance(x, tuple) else x
        return x

    return layers, run


DECODERS = {
    "llama": (make_llama, HEADS, dict(norm_type="rms_norm", rope_theta=50.0)),
    "llama, grouped queries": (make_llama, 2, dict(norm_type="rms_norm", rope_theta=50.0, kv_heads=2)),
    "gemma": (make_gemma, 1, dict(norm_type="gemma_rms_norm", rope_theta=100.0, kv_heads=1, head_dim=10)),
}
BARE = dict(rope="half", qkv_bias=False, out_bias=False, mlp_bias=False, mlp_gate=True)


def compared(layers, run, ours, convert, arrays, x):
    """Both outputs and both gradients, of a weighted sum of the outputs, by tokens and by parameters.

    Args:
      layers: PyTorch's.
      run: them on tokens.
      ours: (params, tokens) -> tokens.
      convert: one layer's state as our parameters.
      arrays: further arguments of `run`.
      x: tokens.
    """
    import torch

    def params_of(values):
        trees = [
            convert({key.split(".", 1)[1]: v for key, v in values.items() if key.startswith(f"{i}.")})
            for i in range(DEPTH)
        ]
        return {"layers": jax.tree.map(lambda *parts: np.stack(parts), *trees)}

    weights = np.random.default_rng(9).standard_normal(x.shape).astype(np.float32)
    tokens = torch.tensor(x, requires_grad=True)
    expected = run(tokens, *map(torch.tensor, arrays))
    (expected * torch.tensor(weights)).sum().backward()
    params = params_of({name: value.detach().numpy() for name, value in layers.named_parameters()})
    # The maps between layouts are linear, so they map gradients, too.
    zero = {name: np.zeros_like(value.detach().numpy()) for name, value in layers.named_parameters()}
    of_params = params_of(zero | {n: v.grad.numpy() for n, v in layers.named_parameters() if v.grad is not None})
    value = ours(params, x)
    gradient = jax.jit(jax.grad(lambda params, x: (ours(params, x) * weights).sum(), (0, 1)))
    gradients = gradient(params, jnp.asarray(x))
    np.testing.assert_allclose(value, expected.detach(), atol=1e-5 * max(1, np.abs(value).max()))
    scale = max(1.0, float(tokens.grad.abs().max()))
    np.testing.assert_allclose(gradients[1], tokens.grad, atol=1e-5 * scale)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max())), gradients[0], of_params
    )
    return params


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_of_rotary_positions_with_padding_and_their_cache(kind):
    make, groups, block = DECODERS[kind]
    layers, run = make(groups, 0)
    randomised(layers, 1)
    if "gemma" in kind:
        for one in layers:
            one.input_layernorm.weight.data -= 1
    valid = np.array([[1] * 7, [0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]], bool)
    positions = np.maximum(valid.cumsum(1) - 1, 0)
    x = np.random.default_rng(2).standard_normal((BATCH, LENGTH, WIDTH)).astype(np.float32)
    activation = "gelu_tanh" if "gemma" in kind else "silu"
    settings = dict(norm_eps=1e-3, activation=activation, block=BARE | block)
    convert = functools.partial(hugging_face_decoder, heads=HEADS, groups=groups)
    spec, positions = AttentionSpec(causal=True, valid=jnp.asarray(valid)), jnp.asarray(positions)

    @functools.partial(jax.jit, static_argnames=("scan",))
    def ours(params, x, scan=False, **options):
        model = Transformer(DEPTH, HEADS, HIDDEN, scan=scan, **settings)
        return model.apply({"params": params}, jnp.asarray(x), spec, positions=positions, **options)

    # Tokens without any key differ: theirs see all that is masked alike. Nobody reads them.
    read = jnp.asarray(valid)[..., None]
    masked = lambda x, valid, positions: run(x, valid, positions) * valid[..., None]
    params = compared(layers, masked, lambda p, x: ours(p, x).tokens * read, convert, (valid, positions), x)

    full = ours(params, x).tokens
    np.testing.assert_allclose(ours(params, x, scan=True).tokens, full, atol=1e-5)
    chosen = jnp.array([6, 4, 3])
    of_one = ours(params, x, chosen=chosen).tokens
    np.testing.assert_allclose(of_one[:, 0], full[jnp.arange(BATCH), chosen], atol=1e-5)
    x = jnp.asarray(x)
    # One token after the other behind a cache of the first three.
    model = Transformer(DEPTH, HEADS, HIDDEN, **settings)
    step = jax.jit(model.apply)
    first = AttentionSpec(causal=True, valid=spec.valid[:, :3])
    out = model.apply({"params": params}, x[:, :3], first, positions=positions[:, :3], slots=LENGTH)
    for i in range(3, LENGTH):
        one = AttentionSpec(valid=spec.valid[:, i : i + 1])
        out = step({"params": params}, x[:, i : i + 1], one, positions=positions[:, i : i + 1], cache=out.cache)
        np.testing.assert_allclose(
            (out.tokens[:, 0] - full[:, i]) * valid[:, i, None], 0, atol=1e-5 * np.abs(full).max()
        )


def make_dinov2():
    import torch
    import transformers
    from transformers.models.dinov2 import modeling_dinov2 as module

    config = transformers.Dinov2Config(
        hidden_size=WIDTH, num_attention_heads=HEADS, mlp_ratio=2, layer_norm_eps=1e-3, layerscale_value=0.5
    )
    config._attn_implementation = "eager"
    layers = torch.nn.ModuleList(module.Dinov2Layer(config) for _ in range(DEPTH))
    return layers, plainly(layers), dinov2, dict(block=dict(layer_scale=0.5)), None


def make_openclip():
    import torch
    from open_clip import transformer as module

    norm = functools.partial(module.LayerNorm, eps=1e-3)
    layers = torch.nn.ModuleList(
        module.ResidualAttentionBlock(WIDTH, HEADS, 2.0, ls_init_value=0.1, norm_layer=norm) for _ in range(DEPTH)
    )
    return layers, plainly(layers), openclip, dict(block=dict(layer_scale=0.1)), None


def make_eva(grid=None, block=None, convert=eva, **settings):
    import torch
    from timm.layers import LayerNorm, RotaryEmbeddingCat
    from timm.models import eva as module

    norm = functools.partial(LayerNorm, eps=1e-3)
    cls = module.EvaBlockPostNorm if settings.pop("post", False) else module.EvaBlock
    layers = torch.nn.ModuleList(
        cls(WIDTH, HEADS, mlp_ratio=2, norm_layer=norm, num_prefix_tokens=1, **settings) for _ in range(DEPTH)
    )
    if grid is None:
        return layers, plainly(layers), convert, dict(block=block), None
    reference, offset, axes = grid
    rope = RotaryEmbeddingCat(
        8, in_pixels=False, feat_shape=(2, 3), ref_feat_shape=(reference, reference) if reference else None,
        grid_offset=offset, grid_indexing=axes,
    )  # fmt: skip
    positions = rotary.grid_positions((2, 3), prefix=1, reference=reference, offset=offset, axes=axes)
    block = dict(rope="interleaved", **block)
    return layers, plainly(layers, rope=rope.get_embed()), convert, dict(block=block), positions


def plainly(layers, **options):
    def run(x):
        for one in layers:
            x = one(x, **options)
            x = x[0] if isinstance(x, tuple) else x
        return x

    return run


_NO_KEY_BIAS = dict(key_bias=False)
_EVA_02 = dict(key_bias=False, attention_norm=True, mlp_gate=True, mlp_norm=True)
OTHERS = {
    "dinov2": make_dinov2,
    "openclip with layer scale": make_openclip,
    "eva-01": functools.partial(make_eva, block=_NO_KEY_BIAS),
    "eva-01 with layer scale": functools.partial(make_eva, init_values=0.1, block=_NO_KEY_BIAS | dict(layer_scale=0.1)),
    "eva-02": functools.partial(
        make_eva, (4, 0.0, "ij"), _EVA_02, qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
    ),
    "eva-02-e": functools.partial(make_eva, post=True, block=dict(key_bias=False, res_post_norm=True)),
    "perception encoder": functools.partial(make_eva, (6, 1.0, "xy"), {}, attn_type="rope"),
    "grouped queries of timm": functools.partial(
        make_eva, (0, 0.0, "ij"), dict(kv_heads=2), attn_type="rope", qkv_fused=False, num_kv_heads=2,
        convert=functools.partial(eva, groups=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_layers_of_images(kind):
    layers, run, convert, settings, positions = OTHERS[kind]()
    randomised(layers, 3)
    width = next(p for n, p in layers.named_parameters() if "norm1" in n or "ln_1" in n).shape[0]
    x = np.random.default_rng(4).standard_normal((BATCH, LENGTH, width)).astype(np.float32)
    settings = dict(norm_eps=1e-3, activation="silu" if kind == "eva-02" else "gelu") | settings
    options = {} if positions is None else {"positions": jnp.asarray(positions)}

    def ours(params, x, **more):
        model = Transformer(DEPTH, HEADS, 2 * width, **settings, **more)
        return model.apply({"params": params}, jnp.asarray(x), AttentionSpec(), **options).tokens

    params = compared(layers, run, functools.partial(ours, scan=False), convert, (), x)
    np.testing.assert_allclose(ours(params, x, scan=True), ours(params, x, scan=False), atol=1e-5)
    gradient = lambda **more: jax.jit(jax.grad(lambda p: (ours(p, x, scan=False, **more) ** 2).mean()))(params)
    again, plain = gradient(remat="dots"), gradient()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), again, plain)
