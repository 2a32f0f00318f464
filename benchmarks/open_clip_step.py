"""open_clip's train step: its own model, loss and the optimizer of its training script; for `train_step.py`."""

import gc
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mmjax.errors import UserError

NAMES = {"B/32": "ViT-B-32", "B/16": "ViT-B-16", "L/14": "ViT-L-14", "H/14": "ViT-H-14"}


def name_of(model: str) -> str:
    """open_clip's name of a size.

    Raises:
      UserError: it has none.
    """
    if model not in NAMES:
        raise UserError(f"--peer=open_clip: of --models={model} it has none; it has {', '.join(NAMES)}")
    return NAMES[model]


class OpenClipStep:
    """One setting of open_clip's step, ready to be run.

    Args:
      name: open_clip's of the model.
      config: mmjax's config, whose optimizer it takes.
      text: padded captions [B, L].
      steps: of a call.
      compiled: by torch.compile.

    Raises:
      UserError: torch or open_clip is not there.
    """

    def __init__(self, name: str, config: Any, text: np.ndarray, steps: int, compiled: bool):
        try:
            import open_clip
            import torch
            from open_clip.loss import ClipLoss
        except ImportError as error:
            raise UserError(f"--peer=open_clip: {error}; pip install torch torchvision open_clip_torch") from error
        self._torch, self._steps = torch, steps
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = True  # as open_clip's main.py sets it
        torch.backends.cudnn.benchmark = True
        self._model = open_clip.create_model(name, precision="fp32", device=self._device, output_dict=True).train()
        self._logit_scale: torch.Tensor = self._model.get_parameter("logit_scale")
        decay = [p for p in self._model.parameters() if p.ndim >= 2]
        plain = [p for p in self._model.parameters() if p.ndim < 2]
        settings = config.optimizer
        self._optimizer = torch.optim.AdamW(
            [{"params": plain, "weight_decay": 0.0}, {"params": decay, "weight_decay": settings.weight_decay}],
            lr=settings.learning_rate,
            betas=(settings.b1, settings.b2),
            eps=settings.eps,
            fused=self._device.type == "cuda",
        )
        self._loss_function = ClipLoss()
        size = config.model.image.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (len(text), 3, size, size), dtype=np.uint8)
        mean, std = (
            torch.tensor(x).reshape(1, 3, 1, 1) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
        )
        self._image = ((torch.from_numpy(pixels).float() / 255 - mean) / std).to(self._device)
        self._text = torch.from_numpy(text).long().to(self._device)
        self._forward: Callable[..., Any] = torch.compile(self._model) if compiled else self._model
        fused = "fused " if self._device.type == "cuda" else ""
        self._facts: dict[str, Any] = {
            "settings": f"bfloat16 autocast, {fused}AdamW, images resized and normalised beforehand"
        }
        self._measure(compiled)

    def _measure(self, compiled: bool) -> None:
        """The first steps: compilation, and what it needs alone, before the contenders stand beside each other."""
        torch, on_gpu = self._torch, self._device.type == "cuda"
        if on_gpu:
            gc.collect()
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        float(self._step())
        first = time.perf_counter() - start
        start = time.perf_counter()
        float(self._step())
        if compiled:
            self._facts["compile_seconds"] = max(0.0, first - (time.perf_counter() - start))
        if on_gpu:  # torch counts a GPU's memory only
            param_bytes = sum(p.numel() * p.element_size() for p in self._model.parameters())
            self._facts["memory_gb"] = (torch.cuda.max_memory_allocated() - before + param_bytes) / 1e9

    def _step(self):
        torch = self._torch
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, dtype=torch.bfloat16):
            loss = self._loss_function(**self._forward(self._image, self._text))
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            self._logit_scale.clamp_(0, 4.6052)
        return loss.detach()

    def run(self) -> None:
        """Some steps, until the device is done with them."""
        for _ in range(self._steps):
            loss = self._step()
        assert math.isfinite(float(loss))  # waits for the device

    def facts(self) -> dict[str, Any]:
        """What is told of it: memory, compile time, settings."""
        return self._facts
