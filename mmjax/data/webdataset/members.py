"""Which members of a tar's examples are image and captions, and whether they are there."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.data.bad_example import BadExample
from mmjax.data.caption_keys import CaptionKeys, texts_of
from mmjax.data.column_inference import dig, field_paths
from mmjax.data.record import SourceOptions
from mmjax.data.webdataset.tar_format import Read, TarError, read_members, split_name
from mmjax.errors import UserError, did_you_mean

IMAGE_ENDINGS = "jpg;jpeg;png;webp;bmp;gif;tif;tiff;jfif;ppm"
CAPTION_KEYS = ("txt", "caption", "json:caption")
_MANY_SETS = "..."  # stands in an index for sets of endings that are too many to be listed

Members = Mapping[str, bytes]


class Lookup:
    """Finds the texts of an example: `txt` is a member, `json:FIELD` a field of one.

    Args:
      members: contents by ending.
      one_a_line: whether each line of a member is a text of its own.
    """

    def __init__(self, members: Members, one_a_line: bool = False):
        self._members, self._one_a_line = members, one_a_line
        self._parsed: dict[str, Any] = {}

    def __call__(self, key: str) -> Any:
        ending, colon, field = key.partition(":")
        ending = ending.lower()
        content = self._members.get(ending)
        if content is None or not colon:
            return content.splitlines() if content and self._one_a_line else content
        return dig(self.parsed(ending), field)

    def parsed(self, ending: str) -> Any:
        """A member's JSON, None where it is none."""
        if ending not in self._parsed:
            try:
                self._parsed[ending] = json.loads(self._members[ending])
            except (ValueError, RecursionError, KeyError):
                self._parsed[ending] = None
        return self._parsed[ending]


def parse_members(blob: bytes, where: str) -> tuple[str, dict[str, bytes]]:
    """The key and, by ending, the contents of an example.

    Raises:
      BadExample: `cut` or `read`, where its members cannot be read.
    """
    key, members = None, {}
    try:
        for member in read_members(reading(blob), len(blob)):
            split = split_name(member.name)
            if split is None:
                continue
            key = split[0] if key is None else key
            if split[0] == key:
                members.setdefault(split[1], blob[member.data : member.data + member.size])
    except TarError as error:
        raise BadExample(error.reason, f"{where}: {error}") from error
    if key is None:
        raise BadExample("read", f"{where}: no member is there")
    return key, members


def reading(data: bytes) -> Read:
    """Reads from bytes at hand."""
    return lambda offset, length: data[offset : offset + length]


class KeyCheck:
    """Fails at the start where a key is nowhere to be found.

    Of the image's endings one must be there, and of the usual captions one; of captions that the config names, each.

    Args:
      images: endings, of which the first that an example has is taken.
      captions: keys of the captions.
      options: `image_key` and `caption_keys` as they were written, and `keys_field`.
      has_classes: whether classes stand in for captions that nobody has named.
    """

    def __init__(self, images: Sequence[str], captions: CaptionKeys, options: SourceOptions, has_classes: bool):
        self._images, self._captions, self._options = images, captions, options
        self._sets: dict[str, int] = {}
        self._found: set[str] = set()
        self._is_explicit = bool(options.caption_keys)
        self._needed = captions.keys if self._is_explicit or not has_classes else ()
        self._looked_at = 0
        self._fields: dict[str, None] = {}

    def run(self, looks: Iterable[tuple[Mapping[str, int], Iterable[Members]]], where: str) -> None:
        """Looks until everything is found.

        Args:
          looks: how many examples have which endings (joined by ";"), and some of these examples.
          where: the config field and its value, to begin errors with.

        Raises:
          UserError: naming what was not found and what is there.
        """
        for key_sets, examples in looks:
            for endings, count in key_sets.items():
                self._sets[endings] = self._sets.get(endings, 0) + count
            there = self._endings()
            self._found |= {key for key in self._needed if ":" not in key and key.lower() in there}
            if self._is_enough():
                return
            if not any(self._may_be_there(key) for key in self._missing()):
                continue
            for members in examples:
                self._look_at(Lookup(members), members)
                if self._is_enough():
                    return
        self._tell(where)

    def _endings(self) -> set[str]:
        return {ending for endings in self._sets for ending in endings.split(";")}

    def _missing(self) -> list[str]:
        return [key for key in self._needed if key not in self._found]

    def _has_image(self) -> bool:
        return bool(self._endings() & {*self._images, _MANY_SETS})

    def _is_enough(self) -> bool:
        missing = self._missing()
        return self._has_image() and (not missing or bool(self._found and not self._is_explicit))

    def _may_be_there(self, key: str) -> bool:
        return bool(self._endings() & {key.partition(":")[0].lower(), _MANY_SETS})

    def _look_at(self, lookup: Lookup, members: Members) -> None:
        self._looked_at += 1
        for key in self._missing():
            value = lookup(key)
            if isinstance(value, str | bytes) or texts_of(value):
                self._found.add(key)
                continue
            ending = key.partition(":")[0].lower()
            told = lookup.parsed(ending) if ":" in key else None
            if isinstance(told, Mapping):
                self._fields |= dict.fromkeys(f"{ending}:{field}" for field in field_paths(told))

    def _tell(self, where: str) -> None:
        if not self._sets:
            return  # what is wrong with the shards is told elsewhere
        prefix = self._options.keys_field
        most = sorted(self._sets.items(), key=lambda item: -item[1])
        common = ", or ".join(", ".join(endings.split(";")) for endings, _ in most[:5])
        have = f"{sum(self._sets.values()):,} examples have {common}" + (" and others" if len(most) > 5 else "")
        if not self._has_image():
            raise UserError(
                f"{where}: {have}; none has {either(self._images)}; set {prefix}.image_key to what holds images"
            )
        missing = self._missing()
        if not any(map(self._may_be_there, self._needed)):
            wanted = sorted({key.partition(":")[0].lower() for key in self._needed})
            near = did_you_mean(missing[0], self._endings())
            raise UserError(
                f"{where}: {have}; none has {either(wanted)} for captions{near}; set {prefix}.caption_keys"
                " (json:FIELD is a field of a .json member)"
            )
        # Where the sets of endings are too many for the index, a rare member may be there all the same.
        absent = [key for key in missing if self._is_explicit and not self._may_be_there(key)]
        fields = [key for key in missing if ":" in key and self._may_be_there(key)]
        what = f"{prefix}.caption_keys" + (f"={self._options.caption_keys!r}" if self._is_explicit else "")
        if absent:
            near = did_you_mean(absent[0], [*self._endings(), *self._fields])
            raise UserError(f"{where}: {what}: {have}; none has {absent[0]!r}{near}; name what is there")
        if fields and self._looked_at:
            listed = ", ".join(itertools.islice(self._fields, 30)) or "no fields"
            near = did_you_mean(fields[0], self._fields)
            raise UserError(
                f"{where}: {what}: no text under {fields[0]!r} in {self._looked_at} examples looked at,"
                f" which have {listed}{near}; name what is there"
            )


def either(names: Sequence[str]) -> str:
    """Names in a row."""
    return ", ".join(names) or "nothing"
