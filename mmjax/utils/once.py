"""What is said once, by whichever process or thread of a machine comes to it first."""

import os
import shutil
import tempfile
import uuid
import weakref


class Once:
    """Names of which the first use is told from later ones.

    Picklable: copies in the workers of a run share an (empty) file for each name, in a folder of the process that made
    the first one, which removes it.
    """

    def __init__(self):
        self._folder = os.path.join(tempfile.gettempdir(), f"mmjax-{uuid.uuid4().hex}")
        self._seen: set[str] = set()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def is_first(self, name: str) -> bool:
        """Whether neither this object nor a copy of it has been asked for this name before."""
        if name in self._seen:
            return False
        self._seen.add(name)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            file = os.path.join(self._folder, name.encode("utf-8", "replace").hex()[:200])
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        except OSError:  # twice is better than never
            return True
        return True
