"""Random weights for PyTorch models that something here is compared with."""


def randomise(model, seed, *, std=0.2, logit_scale=2.0, logit_bias=-3.0):
    """Fills a CLIP or SigLIP of PyTorch's, with numbers so large that a wrong epsilon or activation shows.

    Returns:
      The model, for inference.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(std * torch.randn(weight.shape, generator=generator))
            if ("norm" in name or "ln_" in name) and name.endswith("weight"):
                weight.add_(1.0)
        model.logit_scale.fill_(logit_scale)
        if getattr(model, "logit_bias", None) is not None:
            model.logit_bias.fill_(logit_bias)
    return model.eval()
