"""Writing of `meta` beside the arrays of a checkpoint, once their digests are known."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import future

FILE = "metadata"  # as Orbax calls it


class SealedMetaHandler(ocp.JsonCheckpointHandler):
    """Orbax's handler of JSON, but that the content is asked for in the thread that writes it, beside the arrays."""

    async def async_save(self, directory: epath.Path, args: "SealedMeta") -> list[future.Future]:
        """Starts writing."""

        async def write():
            content = json.dumps(args.content())
            if jax.process_index() == 0:
                (directory / FILE).write_text(content)

        return [future.CommitFutureAwaitingContractedSignals(write(), name="sealed_meta")]


@ocp.args.register_with_handler(SealedMetaHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class SealedMeta(ocp.args.CheckpointArgs):
    """What `SealedMetaHandler` saves.

    Attributes:
      content: gives what is written, which JSON can hold; called in another thread.
    """

    content: Callable[[], Mapping[str, Any]]
