"""From a config to a task: which model, which objectives with which weights, what to embed for evaluation."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, UInt8

from mmjax.data import examples, images, prepare, specs, tokenizers
from mmjax.errors import UserError, choose
from mmjax.models import two_tower
from mmjax.nn import attention, pool, transformer
from mmjax.objectives import contrastive
from mmjax.parallel import activations

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
NOISE = ("patch_dropout", "dropout", "drop_path")  # a tower's rates of what training does at random
Batch = dict[str, Array]


def make_image_spec(config: ml_collections.ConfigDict) -> images.ImageSpec:
    """How images are prepared, from `data` and the model's input size."""
    data = config.data
    mean, std = images.MEAN_STD[choose("data.mean_std", data.mean_std, images.MEAN_STD)]
    return images.ImageSpec(
        size=config.model.image.image_size,
        resize=data.resize,
        interpolation=data.interpolation,
        mean=mean,
        std=std,
        crop_scale=data.crop_scale,
        crop_ratio=data.crop_ratio,
        draft=data.draft,
        flip=data.flip,
        color_jitter=data.color_jitter,
        color_jitter_prob=data.color_jitter_prob,
        grayscale=data.grayscale,
        randaugment=data.randaugment,
    )


def make_train_examples(
    config: ml_collections.ConfigDict, image_spec: images.ImageSpec, tokenizer: tokenizers.Tokenizer
) -> examples.TrainExamples:
    """The training examples of `data.train`, by position.

    Raises:
      UserError: anything wrong with the data.
    """
    return examples.TrainExamples(
        specs.parse_mixture(config.data.train, specs.make_options(config)),
        seed=config.seed,
        prepare=prepare.PairPreparer(image_spec, tokenizer),
        order=config.data.order,
        window=config.data.window,
    )


def make_tokenizer(config: ml_collections.ConfigDict, *, file: bytes | None = None) -> tokenizers.Tokenizer:
    """The tokenizer of `data.tokenizer`, checked against the text tower.

    Args:
      config: the run's config.
      file: the tokenizer's model file, where a checkpoint carries it.

    Raises:
      UserError: it has more ids than the model's table, or another end-of-text id where the model pools on it.
    """
    text = config.model.text
    tokenizer = tokenizers.make_tokenizer(
        config.data.tokenizer, config.data.context_length or text.context_length, file=file
    )
    if tokenizer.vocab_size > text.vocab_size:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} has {tokenizer.vocab_size} ids, more than"
            f" model.text.vocab_size={text.vocab_size}; set that to {tokenizer.vocab_size}"
        )
    if text.pool == "eos" and tokenizer.eos_id != text.eos_id:
        raise UserError(
            f"data.tokenizer={config.data.tokenizer!r} ends texts with id {tokenizer.eos_id}, but"
            f" model.text.eos_id={text.eos_id}; set that to {tokenizer.eos_id}"
        )
    return tokenizer


class ContrastiveTask:
    """Two towers trained with a softmax or sigmoid contrastive loss over the global batch.

    The trainer sees `init`, `encode` (which may run over microbatches), `loss` (which sees the whole batch) and
    `constrain`; evaluation sees `embed_images`, `embed_text` and `pair_loss`.

    Args:
      config: the run's config.
      mean, std: of RGB values in [0, 1], for the normalisation on the device.
      mesh: the devices that share a batch; None for one device.

    Raises:
      UserError: an impossible model or objective.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        mesh: Mesh | None = None,
    ):
        check_model(config)
        self.config, self.mesh = config, mesh
        settings = config.model.to_dict()
        self.max_log_scale = math.log(settings.pop("max_logit_scale"))
        dtype = DTYPES[choose("precision", config.precision, DTYPES)]
        device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        self.kernels = {tower: attention_kernel(config, tower, device, dtype) for tower in ("image", "text")}
        self.model = two_tower.TwoTower(
            **settings, dtype=dtype, image_attention=self.kernels["image"], text_attention=self.kernels["text"]
        )
        self.mean, self.std = jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)
        towers = (config.model.image, config.model.text)
        self.uses_noise = any(tower[rate] > 0 for tower in towers for rate in NOISE if rate in tower)

    def init(self, key: Key[Array, ""]) -> Any:
        """Initialises the parameters."""
        image, text = self.config.model.image, self.config.model.text
        images = jnp.zeros((1, image.image_size, image.image_size, 3), jnp.float32)
        return self.model.init(key, images, jnp.zeros((1, text.context_length), jnp.int32))["params"]

    def normalize(self, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """From bytes to the numbers the image tower was made for."""
        return (images.astype(jnp.float32) / 255.0 - self.mean) / self.std

    def encode(
        self, params: Any, batch: Batch, keys: Key[Array, " B"] | None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Runs the towers.

        Args:
          params: parameters.
          batch: `image` uint8 [B, H, W, 3], `text` int32 [B, L], `text_mask` bool [B, L].
          keys: one key per example, or None for no dropout.

        Returns:
          Features, rows aligned with the batch's, and additive per-example losses (none here).
        """
        variables, images = {"params": params}, self.normalize(batch["image"])
        with activations.placed_on(self.mesh):
            return {
                "image": self.model.apply(variables, images, keys, method="encode_image"),
                "text": self.model.apply(variables, batch["text"], batch["text_mask"], keys, method="encode_text"),
            }, {}

    def loss(self, params: Any, features: dict[str, Array], batch: Batch) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The weighted sum of the objectives over the whole batch, and metrics by name."""
        ids = batch["id"] if self.config.data.positives == "id" else None
        total, metrics = self.pair_loss(params, features["image"], features["text"], ids)
        metrics["logit_scale"] = jnp.exp(params["logit_scale"])
        if "logit_bias" in params:
            metrics["logit_bias"] = params["logit_bias"]
        return total, metrics

    def pair_loss(
        self, params: Any, image: Float[Array, "B E"], text: Float[Array, "B E"], ids: Any
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The objectives on embeddings; shared by training and the held-out loss."""
        weights, settings = self.config.objectives, self.config.loss
        layout = dict(impl=settings.impl, mesh=self.mesh, block_size=settings.block_size, precision=settings.precision)
        scale = jnp.exp(params["logit_scale"])
        losses, metrics = {}, {}
        if weights.itc:
            losses["itc"], metrics = contrastive.softmax_loss(image, text, scale, ids, **layout)
        if weights.sigmoid:
            bias = params["logit_bias"]
            losses["sigmoid"], metrics = contrastive.sigmoid_loss(image, text, scale, bias, ids, **layout)
        if len(losses) > 1:
            metrics = metrics | {f"loss_{name}": value for name, value in losses.items()}
        return sum(weights[name] * value for name, value in losses.items()), metrics

    def constrain(self, params: Any) -> Any:
        """Clamps the log scale to [0, ln max_logit_scale] after an update, as OpenCLIP does."""
        return params | {"logit_scale": jnp.clip(params["logit_scale"], 0.0, self.max_log_scale)}

    def embed_images(self, params: Any, images: UInt8[Array, "B H W 3"]) -> Float[Array, "B E"]:
        """Embeds preprocessed images; rows have unit length."""
        with activations.placed_on(self.mesh):
            return self.model.apply({"params": params}, self.normalize(images), method="encode_image")

    def embed_text(self, params: Any, text: Array, text_mask: Array) -> Float[Array, "B E"]:
        """Embeds token ids; rows have unit length."""
        with activations.placed_on(self.mesh):
            return self.model.apply({"params": params}, text, text_mask, method="encode_text")

    def describe_attention(self) -> str:
        """Which kernel each tower's attention runs on."""
        names = {"cudnn": "cuDNN's kernel", "xla": "XLA's kernel"}
        if len(set(self.kernels.values())) == 1:
            return names[self.kernels["image"]]
        return ", ".join(f"{tower} {names[kernel]}" for tower, kernel in self.kernels.items())

    def flops_per_example(self) -> float:
        """Multiplications and additions of one forward pass over a pair."""
        return model_flops(self.config.model)


def attention_kernel(config: ml_collections.ConfigDict, tower: str, device: Any, dtype: Any) -> str:
    """The attention kernel of a tower, `cudnn` or `xla`.

    Raises:
      UserError: `attention` asks for cuDNN's where it does not apply.
    """
    wanted, settings = config.attention, config.model[tower]
    kernel, obstacle = attention.choose_implementation(wanted, device, dtype, settings.width // settings.heads)
    if wanted == "cudnn" and obstacle:
        raise UserError(f"attention='cudnn': for model.{tower} it {obstacle}; set attention='auto'")
    return kernel


def check_model(config: ml_collections.ConfigDict) -> None:
    """Checks what a person may have set wrongly, before anything is built.

    Raises:
      UserError: naming the field.
    """
    model = config.model
    image, text = model.image, model.text
    for name, tower in (("image", image), ("text", text)):
        field = f"model.{name}"
        if tower.width % tower.heads:
            raise UserError(f"{field}.heads={tower.heads} does not divide {field}.width={tower.width}")
        if tower.heads % max(1, config.mesh.tensor):
            raise UserError(f"mesh.tensor={config.mesh.tensor} does not divide {field}.heads={tower.heads}")
        choose(f"{field}.activation", tower.activation, transformer.ACTIVATIONS)
        choose(f"{field}.remat", tower.remat, transformer.REMAT_POLICIES)
        choose(f"{field}.projection", tower.projection, ("linear", "bias", "none"))
        if tower.projection == "none" and tower.width != model.embed_dim:
            raise UserError(
                f"{field}.projection='none' needs {field}.width={tower.width} to equal"
                f" model.embed_dim={model.embed_dim}"
            )
        for rate in (rate for rate in NOISE if rate in tower):
            if not 0.0 <= tower[rate] < 1.0:
                raise UserError(f"{field}.{rate}={tower[rate]} is not in [0, 1)")
    choose("model.image.pool", image.pool, [kind for kind in pool.POOLS if kind != "eos"])
    choose("model.text.pool", text.pool, [kind for kind in pool.POOLS if kind != "cls"])
    if image.pool == "mean" and image.class_token:
        raise UserError("model.image.pool='mean' would average the class token in; set model.image.class_token=False")
    if text.pool == "mean" and not text.mask_padding:
        raise UserError("model.text.pool='mean' would average padding in; set model.text.mask_padding=True")
    if image.image_size % image.patch_size and not image.crop_to_patches:
        raise UserError(
            f"model.image.image_size={image.image_size} is not a multiple of model.image.patch_size={image.patch_size};"
            " change one of them, or set model.image.crop_to_patches=True to leave the last pixels out"
        )
    if image.pool == "cls" and not image.class_token:
        raise UserError("model.image.pool='cls' needs model.image.class_token=True")
    if config.data.context_length > text.context_length:
        raise UserError(
            f"data.context_length={config.data.context_length} is longer than the model's"
            f" model.text.context_length={text.context_length}; lower it or set 0 for the model's own"
        )
    choose("attention", config.attention, attention.IMPLEMENTATIONS)
    choose("loss.impl", config.loss.impl, contrastive.IMPLEMENTATIONS)
    choose("loss.precision", config.loss.precision, ("default", "high", "highest"))
    choose("data.positives", config.data.positives, ("id", "diagonal"))
    weights = config.objectives.to_dict()
    for name, weight in weights.items():
        if weight < 0:
            raise UserError(f"objectives.{name}={weight} must not be negative")
    if not any(weights.values()):
        raise UserError(f"objectives={weights}: at least one weight must be positive")
    if weights["sigmoid"] and model.logit_bias_init is None:
        raise UserError("objectives.sigmoid needs model.logit_bias_init, which is None; SigLIP uses -10.0")


def model_flops(model: ml_collections.ConfigDict) -> float:
    """Counts a forward pass over one pair: matrix products only, a multiplication and an addition each.

    It follows OpenCLIP's `model_profile.csv` (B/32: 14.78e9, B/16: 41.09e9, SigLIP B/16: 46.44e9), attention pooling
    included.
    """

    def tower(settings, tokens):
        width, mlp = settings.width, 2 * settings.width * settings.mlp_dim
        flops = 2 * settings.depth * (tokens * (4 * width**2 + mlp) + 2 * tokens**2 * width)
        if settings.pool == "map":  # keys and values of every token; one query, its output and its MLP
            flops += 2 * (tokens * 2 * width**2 + 2 * tokens * width + 2 * width**2 + mlp)
        return flops

    image, text = model.image, model.text
    patches = (image.image_size // image.patch_size) ** 2
    flops = tower(image, patches + int(image.class_token)) + tower(text, text.context_length)
    flops += 2 * patches * 3 * image.patch_size**2 * image.width
    for settings in (image, text):
        flops += 2 * settings.width * model.embed_dim if settings.projection != "none" else 0
    return float(flops)
