"""Architectures of other libraries that mmjax does not read, known by names that only they have."""

import re

from mmjax.errors import UserError
from mmjax.interop.tensor_files import Tensors

_BLOCKS = r"visual\.trunk\.blocks\.\d+\."
# The first that matches a name in the file is said; `^` is understood.
_SIGNS = (
    (r"text_decoder\.", "a CoCa of OpenCLIP"),
    (r"visual\.attn_pool\.", "an OpenCLIP model with CoCa's attentional pooling"),
    (r"text\.cls_emb$", "an OpenCLIP model with a class token in its texts, as CoCa has it"),
    (r"text\.transformer\.(?!resblocks\.)", "an OpenCLIP model with a Hugging Face text tower"),
    (r"visual\.layer1\.0\.conv1\.", "a CLIP with a ResNet, and mmjax has vision transformers"),
    (r"visual\.trunk\.final_conv\.", "an OpenCLIP model with a FastViT (MobileCLIP)"),
    (r"visual\.trunk\.stages\.", "an OpenCLIP model with a ConvNeXt"),
    (r"visual\.trunk\.patch_embed\.backbone\.stages\.", "an OpenCLIP model with a ViTamin"),
    (r"visual\.trunk\.patch_embed\.backbone\.", "an OpenCLIP model with a hybrid ViT (MobileCLIP)"),
    (r"visual\.trunk\.layers\.\d+\.blocks\.", "an OpenCLIP model with a Swin transformer"),
    (_BLOCKS + r"attn\.rel_pos\.", "an OpenCLIP model with a ViT of relative positions"),
    (_BLOCKS + r"attn\.(q_bias|q_proj\.)", "an OpenCLIP model with an EVA"),
    (r"(visual\.)?transformer\.resblocks\.\d+\.ls_[12]\.", "an OpenCLIP model with LayerScale"),
    (r"text\.transformer\.resblocks\.\d+\.ls_[12]\.", "an OpenCLIP model with LayerScale"),
    (r"(params/)?img/cls$", "a big_vision tower with a class token"),
)
_TRUNK, _POOL = "visual.trunk.", "visual.trunk.attn_pool.latent"


def check(tensors: Tensors) -> None:
    """Checks a file's names for what other architectures have.

    Raises:
      UserError: naming the architecture and the parameter that shows it.
    """
    for sign, architecture in _SIGNS:
        name = next((name for name in tensors if re.match(sign, name)), None)
        if name is not None:
            raise UserError(f"{tensors.path}: {architecture} ({name}), which is not read")
    if not any(name.startswith(_TRUNK) for name in tensors):
        return
    for part in ("cls_token", "norm_pre.weight"):
        if _TRUNK + part in tensors:
            kind = "a Perception Encoder" if _POOL in tensors else "a ViT of timm's with a class token (MobileCLIP)"
            raise UserError(f"{tensors.path}: an OpenCLIP model with {kind} ({_TRUNK}{part}), which is not read")
    if _POOL not in tensors:
        raise UserError(
            f"{tensors.path}: an OpenCLIP model with a tower of timm's that is none of SigLIP's ({_POOL} is missing);"
            " of timm's towers mmjax has those"
        )
