"""Floating-point operations of a model, for the share of the peak that training reaches."""

import ml_collections


def model_flops(model: ml_collections.ConfigDict) -> float | None:
    """Counts a two-tower model's forward pass over one pair: matrix products only, two operations a multiplication.

    It follows OpenCLIP's `model_profile.csv` (B/32: 14.78e9, B/16: 41.09e9, SigLIP B/16: 46.44e9), attention pooling
    included. None for other kinds of model, which nobody has counted.
    """
    if model.get("kind", "two_tower") != "two_tower":
        return None

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
