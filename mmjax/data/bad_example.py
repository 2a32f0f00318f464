"""Examples that cannot be used, and the reasons that they are counted by."""

# `substitution_reason` of a training example is an index into this. metrics.jsonl counts them as `bad_REASON`.
REASONS = (
    "ok",
    "empty",  # an image of zero bytes
    "not_image",  # bytes of no image format
    "corrupt",  # an image that breaks off or cannot be decoded
    "too_large",  # more pixels than are decoded
    "no_image",  # the record has no image under the wanted key
    "no_caption",  # no caption under the wanted keys, or blank ones alone
    "missing",  # the file or shard is not there
    "cut",  # the shard ends before the example does
    "read",  # any other error of the storage, after trying again
    "other",
)


class BadExample(Exception):
    """An example that cannot be used: it is replaced in training and named in evaluation.

    Attributes:
      reason: one of REASONS that the replaced examples are counted by, such as `corrupt`.
      detail: what was wrong, for the log.
    """

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def reason_code(error: BadExample | OSError) -> int:
    """Index into REASONS of why an example could not be used."""
    if isinstance(error, BadExample):
        return REASONS.index(error.reason if error.reason in REASONS else "other")
    return REASONS.index("missing" if isinstance(error, FileNotFoundError) else "read")
