"""Encoders of further modalities against transformers'."""

import jax
import numpy as np
import pytest

from tests.models.test_modality_encoders import TINY, make_encoder, normal


class TestHuggingFace:
    """Tokens of PyTorch's AST and ViViT (transformers) with the same random weights."""

    pytestmark = pytest.mark.full
    SHARED = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)

    def reference(self, cls, config):
        torch = pytest.importorskip("torch")
        model = cls(config, **({"add_pooling_layer": False} if "Vivit" in cls.__name__ else {})).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
                if "norm" in name and name.endswith("weight"):
                    weight.add_(1.0)
        return model, {name: weight.detach().numpy() for name, weight in model.named_parameters()}

    def shared(self, weights):
        """Our names for what both models have: the transformer, the final norm and the class token."""

        def stacked(name, fit=lambda x: x):
            return np.stack([fit(weights[f"layers.{layer}.{name}"]) for layer in range(2)])

        def norm(name):
            return {"scale": stacked(f"{name}.weight"), "bias": stacked(f"{name}.bias")}

        def dense(name):
            return {"kernel": stacked(f"{name}.weight", np.transpose), "bias": stacked(f"{name}.bias")}

        heads = [dense(f"attention.{part}_proj") for part in "qkv"]
        out = dense("attention.o_proj")
        layers = {
            "attention": {
                "qkv": {
                    "kernel": np.stack([x["kernel"].reshape(2, 8, 2, 4) for x in heads], axis=2),
                    "bias": np.stack([x["bias"].reshape(2, 2, 4) for x in heads], axis=1),
                },
                "out": {"kernel": out["kernel"].reshape(2, 2, 4, 8), "bias": out["bias"]},
            },
            "norm1": norm("layernorm_before"),
            "norm2": norm("layernorm_after"),
            "mlp": {"fc1": dense("mlp.fc1"), "fc2": dense("mlp.fc2")},
        }
        return {
            "transformer": {"layers": layers},
            "norm": {"scale": weights["layernorm.weight"], "bias": weights["layernorm.bias"]},
            "class_token": weights["embeddings.cls_token"][0, 0],
        }

    def test_ast(self):
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        config = transformers.ASTConfig(
            **self.SHARED, patch_size=4, time_stride=3, frequency_stride=2, max_length=12, num_mel_bins=8
        )
        model, weights = self.reference(transformers.ASTModel, config)
        x = normal(3, 12, 8)
        expected = model(torch.from_numpy(x)).last_hidden_state.detach().numpy()

        def turned(rows):  # their patches run along time first
            patches = np.moveaxis(rows[..., 2:, :].reshape(*rows.shape[:-2], 3, 3, 8), -2, -3)
            return np.concatenate([rows[..., :2, :], patches.reshape(*rows.shape[:-2], 9, 8)], axis=-2)

        kernel = weights["embeddings.patch_embeddings.projection.weight"]  # [D, 1, frequency, time]
        params = self.shared(weights) | {
            "distillation_token": weights["embeddings.distillation_token"][0, 0],
            "position_embedding": turned(weights["embeddings.position_embeddings"][0]),
            "patch_embed": {
                "kernel": kernel.transpose(3, 2, 1, 0),
                "bias": weights["embeddings.patch_embeddings.projection.bias"],
            },
        }
        settings = dict(frames=12, mel_bins=8, patch_size=(4, 4), stride=(3, 2), distillation_token=True)
        module = make_encoder("audio", TINY | settings | dict(depth=2, norm_eps=1e-12))
        for shape in (x, x[..., None]):
            tokens = jax.jit(module.apply)({"params": params}, shape).tokens
            np.testing.assert_allclose(tokens, turned(expected), atol=1e-5)

    def test_vivit(self):
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        config = transformers.VivitConfig(**self.SHARED, image_size=12, num_frames=6, tubelet_size=[2, 4, 4])
        model, weights = self.reference(transformers.VivitModel, config)
        x = normal(2, 6, 12, 12, 3)
        theirs = torch.from_numpy(x.transpose(0, 1, 4, 2, 3).copy())
        expected = model(theirs).last_hidden_state.detach().numpy()
        kernel = weights["embeddings.patch_embeddings.projection.weight"]  # [D, C, t, p, p]
        params = self.shared(weights) | {
            "position_embedding": weights["embeddings.position_embeddings"][0],
            "tubelet_embed": {
                "kernel": kernel.transpose(2, 3, 4, 1, 0),
                "bias": weights["embeddings.patch_embeddings.projection.bias"],
            },
        }
        settings = dict(frames=6, image_size=12, patch_size=4, positions="joint", activation="gelu_tanh")
        module = make_encoder("video", TINY | settings | dict(depth=2))
        tokens = jax.jit(module.apply)({"params": params}, x).tokens
        np.testing.assert_allclose(tokens, expected, atol=1e-5)
        # The factorised tables are a joint one that is their sum.
        space, time = normal(1 + 9, 8), normal(3, 8)
        joint = np.concatenate([space[:1], (time[:, None] + space[1:]).reshape(27, 8)])
        with torch.no_grad():
            model.embeddings.position_embeddings.copy_(torch.from_numpy(joint))
        expected = model(theirs).last_hidden_state.detach().numpy()
        params |= {"position_embedding": space, "time_embedding": time}
        module = make_encoder("video", TINY | settings | dict(depth=2, positions="factorised"))
        tokens = jax.jit(module.apply)({"params": params}, x).tokens
        np.testing.assert_allclose(tokens, expected, atol=1e-5)
