"""Origins of a config's values: the command line, the stored config of a run that goes on, or a recipe."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class FieldOrigins:
    """Fields whose values are not a recipe's; all others are.

    Attributes:
      flags: fields that the command line gives, by path.
      stored: the values that the run is stored with, by path; none for a new run. What it began with is not questioned.
      kept: fields that the stored config is older than, and goes on without, see `training.resumed_run`: the run
        keeps what it did before they existed.
    """

    flags: tuple[str, ...] = ()
    stored: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def is_as_begun(self, field: str, value: Any) -> bool:
        """Whether the run has had this value of a field since it began."""
        return field in self.kept or (field in self.stored and self.stored[field] == value)


FROM_RECIPE = FieldOrigins()  # all values are the recipe's, of a new run
