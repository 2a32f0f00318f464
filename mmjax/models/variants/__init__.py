"""Model sizes by name, one file a family."""

from mmjax.models.variants.two_tower import VARIANTS

__all__ = ["VARIANTS"]
