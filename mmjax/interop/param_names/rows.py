"""Rows of the tables of parameter names.

A row maps parameters of theirs to those of ours, in a layout. `{i}` counts layers; our side of such a row is
one layer of a stacked parameter, or has `{i}`, too: then each layer has a parameter of its own. Rows whose parameters a
model does not have are left out (a class token, a bias).
"""

import dataclasses
import itertools
from collections.abc import Container

from mmjax.interop import param_layouts


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      theirs: their names, `{i}` for the layer.
      ours: paths of our parameters.
      layout: between the two.
      step, first: layer i of ours is their layer `first + step * i`, where several kinds of layers take turns.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    layout: param_layouts.Layout
    step: int = 1
    first: int = 0

    @property
    def stacked(self) -> bool:
        """Whether this is a row for each layer."""
        return bool(self.theirs) and "{i}" in self.theirs[0]

    def names(self, layer: int = 0) -> list[str]:
        """Their names of a layer of ours."""
        return [name.format(i=self.first + self.step * layer) for name in self.theirs]

    def of_layers(self, paths: Container[str]) -> list["Row"]:
        """A row for each layer that has parameters of its own among `paths`; the row itself where that is not so."""
        if "{i}" not in self.ours[0]:
            return [self] if all(path in paths for path in self.ours) else []
        result = []
        for i in itertools.count():
            theirs, ours = (tuple(name.format(i=i) for name in names) for names in (self.theirs, self.ours))
            if not all(path in paths for path in ours):
                return result
            result.append(Row(theirs, ours, self.layout))
        return result


def rows(their_prefix: str, our_prefix: str, *pairs) -> list[Row]:
    """Rows under common prefixes; names are strings, several of them in one string apart by a space."""
    return [
        Row(
            tuple(their_prefix + name for name in theirs.split()),
            tuple(our_prefix + name for name in ours.split()),
            layout,
        )
        for theirs, ours, layout in pairs
    ]


def torch_pair(
    theirs: str, ours: str, layout: param_layouts.Layout = param_layouts.LINEAR
) -> list[tuple[str, str, param_layouts.Layout]]:
    """nn.Linear's weight and bias."""
    return [(f"{theirs}.weight", f"{ours}/kernel", layout), (f"{theirs}.bias", f"{ours}/bias", param_layouts.FLAT)]


def torch_norm(theirs: str, ours: str) -> list[tuple[str, str, param_layouts.Layout]]:
    return [
        (f"{theirs}.weight", f"{ours}/scale", param_layouts.COPY),
        (f"{theirs}.bias", f"{ours}/bias", param_layouts.COPY),
    ]


SCALE = Row(("logit_scale",), ("logit_scale",), param_layouts.COPY)
BIAS = Row(("logit_bias",), ("logit_bias",), param_layouts.COPY)
