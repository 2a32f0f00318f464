"""Fields of OpenCLIP's configs that its towers of images and of texts read alike."""

from collections.abc import Collection, Mapping
from typing import Any

from mmjax.errors import UserError
from mmjax.interop import model_settings


def check_fields(
    cfg: Mapping[str, Any],
    part: str,
    path: Any,
    *,
    known: Collection[str],
    fixed: Mapping[str, tuple[Any, ...]] | None = None,
) -> None:
    """Checks that a tower's config has no field that mmjax does not have.

    Args:
      cfg: the tower's.
      part: its name, `vision_cfg` or `text_cfg`.
      path: of the file.
      known: fields that are read, or change nothing.
      fixed: fields that mmjax has with these values alone.

    Raises:
      UserError: a field that is not known, or has another value.
    """
    fixed = fixed or {}
    for field, value in cfg.items():
        if field in known or value in (None, False, ""):
            continue
        if field not in fixed:
            raise UserError(f"{path}: {part}.{field}={value!r} is not read; mmjax has no such setting")
        if value not in fixed[field]:
            raise UserError(f"{path}: {part}.{field}={value!r} is not read; mmjax has {fixed[field][0]!r}")


def activation(cfg: Mapping[str, Any], quick: bool, path: Any) -> str:
    """Our name of a tower's activation; `quick` is the model's `quick_gelu`.

    Raises:
      UserError: mmjax does not have it.
    """
    kwargs = cfg.get("act_kwargs") or {}
    if quick and not kwargs:
        return "quick_gelu"
    if not quick and kwargs in ({}, {"approximate": "none"}):
        return "gelu"
    if not quick and kwargs == {"approximate": "tanh"}:
        return "gelu_tanh"
    raise UserError(f"{path}: act_kwargs={kwargs} with quick_gelu={quick} is not read")


def norm_eps(cfg: Mapping[str, Any]) -> float:
    """Epsilon of a tower's layer norms."""
    return float((cfg.get("norm_kwargs") or {}).get("eps", 1e-5))


def written_layers(name: str, tower: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for a tower's activation and epsilon, without OpenCLIP's defaults; `quick_gelu` is the model's own field.

    Raises:
      UserError: OpenCLIP does not have the activation.
    """
    fields: dict[str, Any] = {}
    if tower["activation"] == "gelu_tanh":
        fields["act_kwargs"] = {"approximate": "tanh"}
    elif tower["activation"] not in ("gelu", "quick_gelu"):
        raise UserError(f"model.{name}.activation={tower['activation']!r}: OpenCLIP has gelu and quick_gelu")
    if tower["norm_eps"] != 1e-5:
        fields["norm_kwargs"] = {"eps": tower["norm_eps"]}
    return fields


def layer_scale(cfg: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Settings for a tower's layer scale, none where it has none.

    Raises:
      UserError: its first value is no positive number.
    """
    value = cfg.get("ls_init_value")
    if value is None:
        return {}
    if not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{path}: ls_init_value={value!r} is not read; mmjax has layer scales that start above 0")
    return {"block": {"layer_scale": float(value)}}


def written_layer_scale(name: str, tower: Mapping[str, Any]) -> dict[str, Any]:
    """The field for a tower's layer scale, none where it has none.

    Raises:
      UserError: layers that OpenCLIP's own towers do not have.
    """
    block = model_settings.full_tower(name, tower)["block"]
    rest = {name: {"block": block | {"layer_scale": 0.0}}}
    model_settings.require_plain(rest, "OpenCLIP's tower", image=name == "image", text=name == "text")
    return {"ls_init_value": block["layer_scale"]} if block["layer_scale"] else {}


def written_mlp_ratio(name: str, tower: Mapping[str, Any]) -> dict[str, float]:
    """The field for the width of a tower's MLP, without OpenCLIP's default.

    Raises:
      UserError: no ratio gives this width, as OpenCLIP rounds it.
    """
    ratio = tower["mlp_dim"] / tower["width"]
    if int(tower["width"] * ratio) != tower["mlp_dim"]:
        raise UserError(f"model.{name}.mlp_dim={tower['mlp_dim']}: OpenCLIP rounds its mlp_ratio to another width")
    return {} if ratio == 4.0 else dict(mlp_ratio=ratio)


def require(name: str, tower: Mapping[str, Any], **fixed: Any) -> None:
    """Checks that fields of a tower have the values that OpenCLIP's tower of this kind has.

    Raises:
      UserError: one has another.
    """
    for field, value in fixed.items():
        if tower[field] != value:
            raise UserError(f"model.{name}.{field}={tower[field]!r}: OpenCLIP's tower of this kind has {value!r}")
