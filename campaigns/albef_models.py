"""ALBEF of the repository's names, drawn by a seed: of timm's ViT and transformers' BERT, saved by PyTorch, and read.

python -m campaigns.albef_models --count=12 --seed=0

Needs the extra `full`. Compared are embeddings, the scale of their logits, logits of matching and of words.
"""

import collections
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from campaigns import family_models
from campaigns.command import make_parser, show

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))


class Twin(NamedTuple):
    """A model of PyTorch's, under ALBEF's names.

    Attributes:
      model: its modules.
      first: the first layer of BERT that looks at the image.
      words: whether it has a head for words; names of BERT differ.
      heads: of its two towers.
    """

    model: Any
    first: int
    words: bool
    heads: tuple[int, int]

    @property
    def bert(self) -> Any:
        """BERT without its head."""
        return self.model["text_encoder"].bert if self.words else self.model["text_encoder"]


def draw(seed: int) -> tuple[Twin, family_models.Inputs]:
    """A model with random sizes and numbers, and inputs for it."""
    import timm.models.vision_transformer
    import torch
    import transformers
    from torch.nn import Linear, ModuleDict

    rng = np.random.default_rng(seed)
    pick = lambda *values: values[rng.integers(len(values))]
    heads, patch = (int(pick(1, 2, 3)), int(pick(1, 2, 3))), int(pick(3, 4))
    tower, width = (count * pick(4, 6) for count in heads)
    side, length, vocabulary = patch * pick(1, 2, 3), int(rng.integers(6, 12)), int(rng.integers(10, 50))
    image = timm.models.vision_transformer.VisionTransformer(
        img_size=side,
        patch_size=patch,
        embed_dim=tower,
        depth=pick(1, 2, 3),
        num_heads=heads[0],
        mlp_ratio=4,
        num_classes=0,
        global_pool="",
    )
    first, words = int(pick(1, 2)), bool(pick(True, True, False))
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=length,
        hidden_size=width,
        num_attention_heads=heads[1],
        num_hidden_layers=first + pick(1, 2),
        intermediate_size=int(rng.integers(5, 30)),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=True,
        add_cross_attention=True,
        attn_implementation="eager",
    )
    text = transformers.BertForMaskedLM(config) if words else transformers.BertModel(config, add_pooling_layer=False)
    layers = (text.bert if words else text).encoder.layer
    for layer in layers[:first]:
        del layer.crossattention
    for layer in layers[first:]:
        layer.crossattention.self.key, layer.crossattention.self.value = Linear(tower, width), Linear(tower, width)
    embed_dim = int(rng.integers(4, 12))
    model = ModuleDict(
        dict(
            visual_encoder=image,
            text_encoder=text,
            vision_proj=Linear(tower, embed_dim),
            text_proj=Linear(width, embed_dim),
            itm_head=Linear(width, 2),
        )
    )
    family_models.randomised(model, seed)
    model.register_parameter("temp", torch.nn.Parameter(torch.tensor(float(rng.uniform(0.01, 0.4)))))
    return Twin(model, first, words, heads), family_models.inputs(rng, side, vocabulary, length)


def save(twin: Twin, path: Path) -> None:
    """Saves a model as ALBEF's trainer does, with its queues and momentum copies, an optimizer and a config."""
    import torch

    model = {name: x.detach() for name, x in twin.model.state_dict().items()}
    parts = ("visual_encoder", "text_encoder", "vision_proj", "text_proj")
    copies = {}
    for name, array in model.items():
        part, _, rest = name.partition(".")
        if part in parts:
            copies[f"{part}_m.{rest}"] = array + 1.0
    queues = dict(image_queue=torch.zeros(4, 8), text_queue=torch.zeros(4, 8), queue_ptr=torch.zeros(1).long())
    prefix = "text_encoder.bert." if twin.words else "text_encoder."
    buffers = {f"{prefix}embeddings.position_ids": torch.arange(9)[None]}
    optimizer = dict(state={0: dict(step=3, exp_avg=torch.zeros(2))}, param_groups=[dict(lr=1e-4, params=[0])])
    content = dict(model=model | copies | queues | buffers, optimizer=optimizer, lr_scheduler={}, config={}, epoch=29)
    torch.save(content, path)


def theirs(twin: Twin, batch: family_models.Inputs) -> dict[str, np.ndarray]:
    """What PyTorch computes; ALBEF's text sees all of itself, and its later layers the image, too."""
    import torch

    model, normalize = twin.model, torch.nn.functional.normalize
    images, text, mask = batch.tensors()
    hidden = torch.where(mask.bool(), 0.0, -1e9)[:, None, None, :]
    with torch.no_grad():
        image = model["visual_encoder"](images)
        x = twin.bert.embeddings(text)
        for layer in twin.bert.encoder.layer[: twin.first]:
            x = layer(x, hidden)
        result = dict(
            image=normalize(model["vision_proj"](image[:, 0]), dim=-1),
            text=normalize(model["text_proj"](x[:, 0]), dim=-1),
            scale=1 / model.temp,
        )
        for layer in twin.bert.encoder.layer[twin.first :]:
            x = layer(x, hidden, image)
        result["match"] = model["itm_head"](x[:, 0])
        if twin.words:
            result["words"] = torch.where(mask.bool()[..., None], model["text_encoder"].cls(x), 0.0)
    return {name: x.numpy() for name, x in result.items()}


def ours(opened: family_models.Opened, batch: family_models.Inputs) -> dict[str, np.ndarray]:
    """The same, of mmjax."""
    module, batch = opened.module, family_models.Inputs(*map(jnp.asarray, batch))
    image, text = module.encode_image(batch.images), module.encode_text(batch.text, batch.mask)
    fused = module.fuse(image, text, batch.text)
    result = dict(
        image=module.embed_image(image),
        text=module.embed_text(text),
        scale=np.exp(opened.params["logit_scale"]),
        match=module.match_logits(fused),
    )
    if opened.config.model.mlm:
        result["words"] = jnp.where(batch.mask[..., None], module.word_logits(fused), 0.0)
    return {name: np.asarray(x) for name, x in result.items()}


def check(seed: int, path: Path) -> None:
    """A random model is saved, read, and computes the same."""
    twin, batch = draw(seed)
    save(twin, path)
    want = theirs(twin, batch)
    heads = {"image.heads": twin.heads[0], "text.heads": twin.heads[1]}
    got = ours(family_models.open_folder(path, heads), batch)
    assert want.keys() == got.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **family_models.CLOSE, err_msg=name)


def main() -> int:
    options = make_parser(__doc__, 12).parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    for seed in range(options.seed, options.seed + options.count):
        with tempfile.TemporaryDirectory(prefix="mmjax-albef-") as folder:
            try:
                check(seed, Path(folder) / "ALBEF.pth")
                outcomes["equal"] += 1
            except AssertionError as error:
                outcomes[f"seed {seed}: {str(error).strip().splitlines()[0]}"] += 1
    return show(outcomes, lambda outcome: outcome == "equal")


if __name__ == "__main__":
    sys.exit(main())
