"""Makes tests/golden/interop: tiny models of the libraries themselves, in their files, with what they compute.

Not run by the tests. It needs PyTorch, transformers, open_clip_torch and timm:

  python -m tests.golden.make_interop
"""

import collections
import functools
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import transformers
from open_clip.factory import get_model_config
from safetensors.torch import save_file

from tests.helpers import torch_weights

GOLDEN = Path(__file__).parent / "interop"
WIDTH, DEPTH, HEADS, HIDDEN, EMBED = 16, 2, 2, 24, 12
VOCAB, CONTEXT, SIDE, PATCH = 40, 7, 16, 8
randomise = functools.partial(torch_weights.randomise, std=0.3, logit_scale=1.5, logit_bias=-2.0)
# Published configs, whose names and shapes are recorded.
PUBLISHED = (
    *("ViT-B-32", "ViT-B-32-quickgelu", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14", "ViT-B-16-SigLIP"),
    *("ViT-SO400M-14-SigLIP-384", "ViT-SO400M-16-SigLIP2-256", "ViT-gopt-16-SigLIP2-256"),
)


def inputs():
    rng = np.random.default_rng(0)
    text = rng.integers(1, VOCAB - 1, (3, CONTEXT))
    text[np.arange(3), [2, 4, 6]] = VOCAB - 1  # the end of the text, which has the largest id
    return rng.standard_normal((3, SIDE, SIDE, 3)).astype(np.float32), text


def expect(folder, image, text, logits):
    """Records inputs and what the library computed."""
    images, ids = inputs()
    normal = lambda x: torch.nn.functional.normalize(x, dim=-1).detach().numpy()
    np.savez(
        folder / "expected.npz",
        images=images,
        ids=ids.astype(np.int32),
        image=normal(image),
        text=normal(text),
        logits=logits.detach().numpy(),
    )


def tensors():
    images, ids = inputs()
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(ids)


def new(name):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# -- Hugging Face ------------------------------------------------------------------------------------------------------


def hugging_face(kind, **text_changes):
    tower = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
    text = tower | dict(vocab_size=VOCAB, max_position_embeddings=CONTEXT) | text_changes
    vision = tower | dict(image_size=SIDE, patch_size=PATCH)
    if kind == "clip":
        text |= dict(bos_token_id=0, pad_token_id=0)
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED)
        return randomise(transformers.CLIPModel(config), 0)
    return randomise(transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision)), 1)


def run_hugging_face(model):
    images, ids = tensors()
    out = model(input_ids=ids, pixel_values=images)
    return out.image_embeds, out.text_embeds, out.logits_per_image


def make_hugging_face():
    model = hugging_face("clip", eos_token_id=VOCAB - 1)
    folder = new("hf-clip")
    model.save_pretrained(folder, max_shard_size="20KB")  # in several files
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            dict(
                image_processor_type="CLIPImageProcessor",
                size={"shortest_edge": SIDE},
                crop_size={"height": SIDE, "width": SIDE},
                do_center_crop=True,
                resample=2,
                image_mean=[0.485, 0.456, 0.406],
                image_std=[0.229, 0.224, 0.225],
            )
        )
    )
    expect(folder, *run_hugging_face(model))
    # A legacy config, pooled at the largest id; weights in PyTorch's own file.
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = 2
    folder = new("hf-clip-legacy")
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    expect(folder, *run_hugging_face(model))
    model = hugging_face("siglip")
    folder = new("hf-siglip")
    model.bfloat16().save_pretrained(folder)
    model.float()
    expect(folder, *run_hugging_face(model))
    make_big_vision(model.float())


# -- big_vision --------------------------------------------------------------------------------------------------------


def make_big_vision(model):
    """The same SigLIP by big_vision's names, as flax lays its layers out.

    Flax's Dense multiplies x @ kernel, so a kernel is a PyTorch weight transposed; its attention keeps the heads apart:
    query, key and value kernels are [D, H, K], the output's is [H, K, D]; its convolution has HWIO kernels.
    """
    theirs = {name: weight.detach().numpy() for name, weight in model.named_parameters()}
    flat = {"params/t": theirs["logit_scale"], "params/b": theirs["logit_bias"]}

    def linear(name, target):
        flat[f"{target}/kernel"], flat[f"{target}/bias"] = theirs[f"{name}.weight"].T, theirs[f"{name}.bias"]

    def norm(name, target):
        flat[f"{target}/scale"], flat[f"{target}/bias"] = theirs[f"{name}.weight"], theirs[f"{name}.bias"]

    def attention(weights, biases, out, target):
        for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            flat[f"{target}/{part}/kernel"] = weight.T.reshape(WIDTH, HEADS, WIDTH // HEADS)
            flat[f"{target}/{part}/bias"] = bias.reshape(HEADS, WIDTH // HEADS)
        flat[f"{target}/out/kernel"] = theirs[f"{out}.weight"].T.reshape(HEADS, WIDTH // HEADS, WIDTH)
        flat[f"{target}/out/bias"] = theirs[f"{out}.bias"]

    for tower, target in (("vision_model", "params/img/Transformer"), ("text_model", "params/txt/Encoder_0")):
        for i in range(DEPTH):
            layer, block = f"{tower}.encoder.layers.{i}", f"{target}/encoderblock_{i}"
            norm(f"{layer}.layer_norm1", f"{block}/LayerNorm_0")
            norm(f"{layer}.layer_norm2", f"{block}/LayerNorm_1")
            parts = [f"{layer}.self_attn.{letter}_proj" for letter in "qkv"]
            attention(
                [theirs[f"{part}.weight"] for part in parts],
                [theirs[f"{part}.bias"] for part in parts],
                f"{layer}.self_attn.out_proj",
                f"{block}/MultiHeadDotProductAttention_0",
            )
            linear(f"{layer}.mlp.fc1", f"{block}/MlpBlock_0/Dense_0")
            linear(f"{layer}.mlp.fc2", f"{block}/MlpBlock_0/Dense_1")
    norm("vision_model.post_layernorm", "params/img/Transformer/encoder_norm")
    norm("text_model.final_layer_norm", "params/txt/Encoder_0/encoder_norm")
    patch = theirs["vision_model.embeddings.patch_embedding.weight"]
    flat["params/img/embedding/kernel"] = patch.transpose(2, 3, 1, 0)
    flat["params/img/embedding/bias"] = theirs["vision_model.embeddings.patch_embedding.bias"]
    flat["params/img/pos_embedding"] = theirs["vision_model.embeddings.position_embedding.weight"][None]
    flat["params/txt/pos_embedding"] = theirs["text_model.embeddings.position_embedding.weight"][None]
    flat["params/txt/Embed_0/embedding"] = theirs["text_model.embeddings.token_embedding.weight"]
    linear("text_model.head", "params/txt/head")
    head = "vision_model.head"
    flat["params/img/MAPHead_0/probe"] = theirs[f"{head}.probe"]
    attention(
        np.split(theirs[f"{head}.attention.in_proj_weight"], 3),
        np.split(theirs[f"{head}.attention.in_proj_bias"], 3),
        f"{head}.attention.out_proj",
        "params/img/MAPHead_0/MultiHeadDotProductAttention_0",
    )
    norm(f"{head}.layernorm", "params/img/MAPHead_0/LayerNorm_0")
    linear(f"{head}.mlp.fc1", "params/img/MAPHead_0/MlpBlock_0/Dense_0")
    linear(f"{head}.mlp.fc2", "params/img/MAPHead_0/MlpBlock_0/Dense_1")

    folder = new("big_vision")
    np.savez(folder / "siglip.npz", **flat)
    expect(folder, *run_hugging_face(model))
    # Scanned layers and, as in a training checkpoint, an optimizer's state beside the parameters.
    folder = new("big_vision-scanned")
    stacked = {name: x for name, x in flat.items() if "encoderblock_" not in name}
    for name in flat:
        if "encoderblock_0" in name:
            layers = [flat[name.replace("encoderblock_0", f"encoderblock_{i}")] for i in range(DEPTH)]
            stacked[name.replace("encoderblock_0", "encoderblock")] = np.stack(layers)
    stacked["opt/0/count"] = np.zeros((), np.int32)
    np.savez(folder / "checkpoint.npz", **stacked)
    expect(folder, *run_hugging_face(model))


# -- OpenCLIP ----------------------------------------------------------------------------------------------------------


def openclip_config(**changes):
    vision = dict(
        image_size=SIDE, layers=DEPTH, width=WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, mlp_ratio=1.5
    )
    text = dict(context_length=CONTEXT, vocab_size=VOCAB, width=WIDTH, heads=HEADS, layers=DEPTH, mlp_ratio=1.5)
    return dict(embed_dim=EMBED, vision_cfg=vision, text_cfg=text) | changes


def run_openclip(model):
    images, ids = tensors()
    image, text = model.encode_image(images, normalize=True), model.encode_text(ids, normalize=True)
    logits = model.logit_scale.exp() * image @ text.T
    return image, text, logits if model.logit_bias is None else logits + model.logit_bias


def register_tower():
    """Gives timm a tower of SigLIP's kind of the golden size."""

    @timm.models.register_model
    def vit_golden_siglip(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, **changes):
        return timm.models.vision_transformer.VisionTransformer(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=DEPTH,
            num_heads=HEADS,
            mlp_ratio=HIDDEN / WIDTH,
            class_token=False,
            act_layer="gelu_tanh",
            **{key: value for key, value in changes.items() if key in ("num_classes", "global_pool")},
        )


def make_openclip():
    preprocess = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bilinear", resize_mode="squash")
    # CLIP with QuickGELU, in a folder of the Hub.
    config = openclip_config(quick_gelu=True)
    model = randomise(open_clip.CLIP(**config), 2)
    folder = new("openclip-quickgelu")
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config, preprocess_cfg=preprocess)))
    expect(folder, *run_openclip(model))

    # The same as OpenAI published its models: a TorchScript archive in half precision.
    folder = new("openai-jit")
    model = model.half().float()  # what a reader of halves sees
    expect(folder, *run_openclip(model))
    for name, value in (("input_resolution", SIDE), ("context_length", CONTEXT), ("vocab_size", VOCAB)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, torch.tensor(value))
    traced = torch.jit.trace(both_towers(model), tensors(), check_trace=False)
    traced.half().save(folder / "tiny.pt")
    without_debug_files(folder / "tiny.pt")

    # CustomTextCLIP with exact GELU, as a training checkpoint of a compiled model under DDP, without a config.
    config = openclip_config(init_logit_bias=-10.0)
    config["text_cfg"] |= dict(proj_bias=True)
    model = randomise(open_clip.CustomTextCLIP(**config), 3)
    folder = new("openclip-custom")
    optimizer = torch.optim.AdamW(model.parameters())
    state = collections.OrderedDict((f"module._orig_mod.{name}", x) for name, x in model.state_dict().items())
    saved = dict(epoch=3, name="tiny", state_dict=state, optimizer=optimizer.state_dict())
    torch.save(saved, folder / "epoch_3.pt")
    expect(folder, *run_openclip(model))

    # A SigLIP with a tower of timm's, of a size that timm does not register.
    register_tower()
    text = dict(no_causal_mask=True, proj_bias=True, pool_type="last", norm_kwargs=dict(eps=1e-6))
    text |= dict(act_kwargs=dict(approximate="tanh"))
    config = openclip_config(embed_dim=WIDTH, init_logit_bias=-10.0)
    config["text_cfg"] |= text
    config["vision_cfg"] = dict(image_size=SIDE, timm_model_name="vit_golden_siglip", timm_pool="map", timm_proj="none")
    model = randomise(open_clip.CustomTextCLIP(**config), 4)
    folder = new("openclip-siglip")
    save_file(model.state_dict(), folder / "model.safetensors")
    expect(folder, *run_openclip(model))


def without_debug_files(path):
    """Drops from a TorchScript archive where on the disk its code once lay."""
    with zipfile.ZipFile(path) as archive:
        members = {info: archive.read(info) for info in archive.infolist() if not info.filename.endswith("debug_pkl")}
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in members.items():
            archive.writestr(info, content, info.compress_type)


def both_towers(model):
    """`encode_image` and `encode_text` behind one forward, with the model's names."""
    model.forward = lambda image, text: (model.encode_image(image), model.encode_text(text))
    return model


def make_published():
    """Configs that OpenCLIP publishes, with a digest of the names and shapes of what it builds from them."""
    result = {}
    for name in PUBLISHED:
        config = get_model_config(name)
        custom = dict(config).pop("custom_text", False)
        arguments = {key: value for key, value in config.items() if key != "custom_text"}
        with torch.device("meta"):
            model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**arguments)
        listed = sorted(f"{key} {list(x.shape)}" for key, x in model.state_dict().items())
        digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()
        count = sum(x.numel() for x in model.state_dict().values())
        result[name] = dict(config=config, arrays=len(listed), numbers=count, sha256=digest)
    (GOLDEN / "openclip_configs.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    make_hugging_face()
    make_openclip()
    make_published()
    print(sum(file.stat().st_size for file in GOLDEN.rglob("*") if file.is_file()), "bytes")
