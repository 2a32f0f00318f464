"""Agreement of several processes on their plugins: the same ones, at the same versions."""

import socket

from mmjax import plugin_imports
from mmjax.errors import GlobalUserError
from mmjax.parallel import process_agreement


def check_same_plugins() -> None:
    """Checks that all processes have imported the same plugins; every process must call it at the same point.

    Raises:
      GlobalUserError: one has another version of a plugin, or lacks it; names its host.
    """
    if not process_agreement.is_running():
        return
    versions = {plugin.module: plugin.version for plugin in plugin_imports.imported()}
    (first_host, first), *others = process_agreement.all_gather_objects([socket.gethostname(), versions])
    for process, (host, versions) in enumerate(others, start=1):
        for module in sorted({*first, *versions}):
            other, reference = versions.get(module, "not imported"), first.get(module, "not imported")
            if other != reference:
                raise GlobalUserError(
                    f"plugins: {module!r} is {other} on {host} (process {process}) and {reference} on {first_host}"
                    " (process 0); all processes need the same version"
                )
