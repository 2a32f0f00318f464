"""Image towers of timm's by name."""

from mmjax.interop import timm_siglip, timm_towers


def test_a_names_tag_of_weights_changes_nothing():
    name = "vit_pe_core_base_patch16_224"
    vision = lambda name: dict(timm_model_name=name, timm_pool="map")
    assert timm_towers.kind_of(f"{name}.fb") == timm_towers.kind_of(name) == "timm_vit"
    assert timm_towers.from_config(vision(f"{name}.fb"), "file") == timm_towers.from_config(vision(name), "file")
    name = "vit_base_patch16_siglip_224"
    assert timm_siglip.tower_settings(f"{name}.webli", "file") == timm_siglip.tower_settings(name, "file")
