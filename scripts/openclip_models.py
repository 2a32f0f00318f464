"""Writes mmjax/interop/openclip_models.json from the installed open_clip: its model configs, and what is not built.

python scripts/openclip_models.py            rewrites the file; needs the extra `full`
python scripts/openclip_models.py --check    says whether the file is what the installed version gives
"""

import importlib
import json
import sys
import types
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import named_models, openclip

# Without torch's C++ operators torchvision imports only where this module is there already.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))


def collect() -> dict[str, Any]:
    """Of each model of open_clip, by name, config and preprocessing; or why mmjax does not build it."""
    # By their names: types are checked where the library is not installed, too.
    open_clip, pretrained = map(importlib.import_module, ("open_clip", "open_clip.pretrained"))

    models: dict[str, Any] = {}
    for name in sorted(open_clip.list_models()):
        config = open_clip.get_model_config(name) or {}
        try:
            openclip.from_config(config, "")
        except UserError as error:
            models[name] = str(error).removeprefix(": ")
            continue
        entry: dict = {"model_cfg": config}
        tags = open_clip.list_pretrained_tags_by_model(name)
        prepared = [_preprocessing(pretrained.get_pretrained_cfg(name, tag) or {}) for tag in tags]
        # Weights of one model that differ in it have files of their own that say so; without weights it is CLIP's.
        if prepared and all(one == prepared[0] for one in prepared):
            entry["preprocess_cfg"] = prepared[0]
        models[name] = entry
    return models


def _preprocessing(config: dict) -> dict:
    fields = ("mean", "std", "interpolation", "resize_mode")
    return {field: config[field] for field in fields if field in config}


def main(argv: list[str]) -> int:
    """Writes or checks the file."""
    lines = [f"{json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in collect().items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    if argv == ["--check"]:
        return 0 if named_models.FILE.read_text() == text else 1
    named_models.FILE.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
