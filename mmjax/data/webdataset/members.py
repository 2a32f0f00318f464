"""Members of a tar's examples: reading them, and checking that images (or videos, sounds) and captions are there."""

import contextlib
import itertools
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.formats.input_files import ARRAY_SUFFIXES, MEDIA_SUFFIXES, ONLY_MEDIA_SUFFIXES
from mmjax.data.formats.json_fields import field_paths, get_nested, json_fault
from mmjax.data.formats.table_rows import check_columns
from mmjax.data.record import CaptionKeys, texts_of
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.text.text_encoding import decode_text
from mmjax.data.webdataset.tar_format import Read, TarError, read_members, split_name
from mmjax.errors import UserError, did_you_mean
from mmjax.utils.once import Once

IMAGE_ENDINGS = "jpg;jpeg;png;webp;bmp;gif;tif;tiff;jfif;ppm"
# Of images, videos, sounds and arrays.
INPUT_ENDINGS = ";".join(
    dict.fromkeys([*IMAGE_ENDINGS.split(";"), *(suffix[1:] for suffix in (*MEDIA_SUFFIXES, *ARRAY_SUFFIXES))])
)
CAPTION_KEYS = ("txt", "caption", "json:caption")
_CLASS_ENDINGS = ("cls", "npy")
_LINE_END = re.compile(r"\r\n|\r|\n")
_MANY_SETS = "..."  # stands in an index for sets of endings that are too many to be listed
_SORT = (
    "an example's files must follow one another in the tar; sort one with all images before all texts:"
    " mkdir x && tar xf OLD.tar -C x && tar --sort=name -cf NEW.tar -C x ."
)

log = logging.getLogger("mmjax.data")

Members = Mapping[str, bytes]


class Lookup:
    """The values of an example by key: `txt` is a member, `json:FIELD` a field of one.

    Args:
      members: contents by ending.
      encoding: of texts and JSON.
      one_a_line: whether each line of a member is a text of its own.

    Attributes:
      faults: why members that were looked into are no JSON, by ending.
    """

    def __init__(self, members: Members, encoding: str = "utf-8", one_a_line: bool = False):
        self._members, self._encoding, self._one_a_line = members, encoding, one_a_line
        self._parsed: dict[str, Any] = {}
        self.faults: dict[str, str] = {}

    def __call__(self, key: str) -> Any:
        ending, colon, field = key.partition(":")
        ending = ending.lower()
        content = self._members.get(ending)
        if content is None or not colon:
            return _LINE_END.split(decode_text(content, self._encoding)) if content and self._one_a_line else content
        return get_nested(self.parsed(ending), field)

    def parsed(self, ending: str) -> Any:
        """A member's JSON, None where it is none.

        Raises:
          BadExample: `encoding`, where it is in another encoding.
        """
        if ending not in self._parsed:
            content = self._members.get(ending)
            try:
                # Zeros are of UTF-16 and UTF-32, which json tells apart.
                text = content if content is None or b"\0" in content[:4] else decode_text(content, self._encoding)
                self._parsed[ending] = None if text is None else json.loads(text)
            except (ValueError, RecursionError) as error:
                self._parsed[ending], self.faults[ending] = None, json_fault(error)
        return self._parsed[ending]

    def gather(self, captions: CaptionKeys, name: str) -> dict[str, Any]:
        """An example's captions, see `CaptionKeys.gather`.

        Args:
          captions: their keys.
          name: of the example, to begin errors with.

        Raises:
          BadExample: as there.
        """
        try:
            return captions.gather(self)
        except BadExample as error:
            faults = "".join(f"; its .{ending} is no JSON ({fault})" for ending, fault in self.faults.items())
            raise BadExample(error.reason, f"{name}: {error.detail}{faults}") from error


def column_key(name: str) -> str:
    """The key of a named column: a field of the `.json` member, unless it names another one."""
    return name if ":" in name else f"json:{name}"


def check_json_columns(names: Sequence[str], examples: Iterable[Members], encoding: str, where: str) -> None:
    """Checks that named columns are among the fields of some examples.

    Raises:
      UserError: one is in none of them.
    """
    fields: dict[str, None] = {}
    for members in examples:
        with contextlib.suppress(BadExample), one_example():  # counted when it is its turn
            lookup = Lookup(members, encoding)
            for ending in {column_key(name).partition(":")[0].lower() for name in names}:
                content = lookup.parsed(ending)
                listed = [] if not isinstance(content, Mapping) else field_paths(content)
                fields |= {name if ending == "json" else f"{ending}:{name}": None for name in listed}
            fields |= {name: None for name in names if lookup(column_key(name)) is not None}
        if fields.keys() >= set(names):
            return
    check_columns(names, [*fields], where)


def parse_members(blob: bytes, where: str, once: Once | None = None) -> tuple[str, dict[str, bytes]]:
    """The key and, by ending, the contents of an example.

    Of members with the same name, the first counts, which is logged once.

    Raises:
      BadExample: `cut` or `read`, where its members cannot be read.
    """
    key, members = None, {}
    try:
        for member in read_members(bytes_reader(blob), len(blob)):
            split = split_name(member.name)
            if split is None:
                continue
            key = split[0] if key is None else key
            if split[0] != key:
                continue
            if split[1] not in members:
                members[split[1]] = blob[member.data : member.data + member.size]
            elif once is not None and once.is_first("repeated"):
                log.warning("%s: has %r twice or more; of members of one name, the first is read", where, member.name)
    except TarError as error:
        raise BadExample(error.reason, f"{where}: {error}") from error
    if key is None:
        raise BadExample("read", f"{where}: no member is there")
    return key, members


def bytes_reader(data: bytes) -> Read:
    """A `Read` of bytes in memory."""
    return lambda offset, length: data[offset : offset + length]


class Sample(NamedTuple):
    """A part of a source's examples.

    Attributes:
      key_sets: how many examples have which endings (joined by ";").
      examples: some of these examples.
    """

    key_sets: Mapping[str, int]
    examples: Iterable[Members]


class MemberCheck:
    """A check at the start that image and captions are among the members of examples.

    One of the image's endings must occur, and one of the usual captions; of captions that the config names, all. One
    example at least must have both: in a tar with all images before all texts, none has.

    Args:
      images: endings of images, and of what may be there instead.
      captions: keys of the captions.
      options: `image_key` and `caption_keys` as they were written, and `keys_field`.
      has_classes: whether classes stand in for captions that the config does not name.
    """

    def __init__(self, images: Sequence[str], captions: CaptionKeys, options: SourceOptions, has_classes: bool):
        self._images, self._captions, self._options = images, captions, options
        self._sets: dict[str, int] = {}
        self._occurred: set[str] = set()
        self._is_explicit = bool(options.caption_keys)
        wanted = captions.keys if self._is_explicit or not has_classes else (*captions.keys, *_CLASS_ENDINGS)
        self._text_endings = {key.partition(":")[0].lower() for key in wanted}
        self._needed = captions.keys if self._is_explicit or not has_classes else ()
        self._inspected = 0
        self._faults: dict[str, str] = {}
        self._fields: dict[str, None] = {}

    def run(self, samples: Iterable[Sample], where: str) -> None:
        """Inspects samples until all wanted members have occurred.

        Args:
          samples: parts of the source.
          where: the config field and its value, to begin errors with.

        Raises:
          UserError: naming the members that never occurred and those that did.
        """
        for key_sets, examples in samples:
            for endings, count in key_sets.items():
                self._sets[endings] = self._sets.get(endings, 0) + count
            endings = self._endings()
            self._occurred |= {key for key in self._needed if ":" not in key and key.lower() in endings}
            if self._is_complete():
                return
            if not any(self._can_occur(key) for key in self._missing()):
                continue
            for members in examples:
                with contextlib.suppress(BadExample), one_example():  # counted when it is its turn
                    self._inspect(Lookup(members, self._captions.encoding), members)
                if self._is_complete():
                    return
        self._raise_missing(where)

    def _endings(self) -> set[str]:
        return {ending for endings in self._sets for ending in endings.split(";")}

    def _missing(self) -> list[str]:
        return [key for key in self._needed if key not in self._occurred]

    def _has_image(self) -> bool:
        return bool(self._endings() & {*self._images, _MANY_SETS})

    @property
    def _wants_text(self) -> bool:
        return bool(self._captions.keys)

    @property
    def _input(self) -> str:
        """What an example needs beside a text, in words."""
        has_media = any(f".{ending}" in ONLY_MEDIA_SUFFIXES for ending in self._endings())
        return "an image, a video, a sound" if has_media else "an image"

    def _complete_examples(self) -> int:
        """How many examples have an image and a text; those of too many sets of endings may."""
        sets = ((set(endings.split(";")), count) for endings, count in self._sets.items())
        return sum(
            count
            for endings, count in sets
            if _MANY_SETS in endings
            or (endings & set(self._images) and (endings & self._text_endings or not self._wants_text))
        )

    def tell_incomplete(self, where: str) -> None:
        """Logs how many examples lack an image or a text, where all of them are known.

        Raises:
          UserError: some do, and the source is one of evaluation, which is on all of a set.
        """
        total = sum(self._sets.values())
        incomplete = total - self._complete_examples()
        if not incomplete:
            return
        texts = f" or a text ({' or '.join(sorted(self._text_endings))})" if self._wants_text else ""
        hint = f"; {dotted}" if (dotted := self._dotted()) else ""
        summary = f"{incomplete:,} of {total:,} examples lack {self._input}{texts}{hint}"
        if self._options.keys_field == "eval":
            raise UserError(
                f"{where}: {summary}; evaluation is on all of a set: remove these examples, or name what holds theirs"
                " in eval.image_key and eval.caption_keys"
            )
        log.warning("%s: %s; these will be counted as bad ones", where, summary)

    def _is_complete(self) -> bool:
        missing = self._missing()
        return self._complete_examples() > 0 and (not missing or bool(self._occurred and not self._is_explicit))

    def _can_occur(self, key: str) -> bool:
        return bool(self._endings() & {key.partition(":")[0].lower(), _MANY_SETS})

    def _inspect(self, lookup: Lookup, members: Members) -> None:
        self._inspected += 1
        for key in self._missing():
            value = lookup(key)
            if isinstance(value, str | bytes) or texts_of(value):
                self._occurred.add(key)
                continue
            ending = key.partition(":")[0].lower()
            content = lookup.parsed(ending) if ":" in key else None
            self._faults |= lookup.faults
            if isinstance(content, Mapping):
                self._fields |= dict.fromkeys(f"{ending}:{field}" for field in field_paths(content))

    def _dotted(self) -> str:
        """What to do where names with dots are why an ending is none that is looked for; "" where they are not."""
        known = {*self._images, *self._text_endings}
        dotted = (ending for ending in sorted(self._endings()) if ending.rpartition(".")[2] in known - {ending})
        if not (example := next(dotted, "")):
            return ""
        return (
            f"an example's key ends at the first dot of its files' names, so that {example!r} is an ending: rename the"
            f" files, with no other dot than that before {example.rpartition('.')[2]}"
        )

    def _raise_missing(self, where: str) -> None:
        if not self._sets:
            return  # the shards hold no examples, which has its own error
        prefix = self._options.keys_field
        most = sorted(self._sets.items(), key=lambda item: -item[1])
        common = ", or ".join(", ".join(endings.split(";")) for endings, _ in most[:5])
        have = f"{sum(self._sets.values()):,} examples have {common}" + (" and others" if len(most) > 5 else "")
        if not self._has_image():
            raise UserError(
                f"{where}: {have}; none has {join_names(self._images)}; "
                + (self._dotted() or f"set {prefix}.image_key to what holds images")
            )
        missing = self._missing()
        is_apart = bool(self._endings() & self._text_endings) and not self._complete_examples()
        if is_apart:
            raise UserError(f"{where}: {have}; none has {self._input} and a text: {_SORT}")
        if not any(map(self._can_occur, self._needed)):
            wanted = sorted({key.partition(":")[0].lower() for key in self._needed})
            near = did_you_mean(missing[0], self._endings())
            raise UserError(
                f"{where}: {have}; none has {join_names(wanted)} for captions{near}; set {prefix}.caption_keys"
                f" (json:FIELD is a field of a .json member); {_SORT}"
            )
        # Where the sets of endings are too many for the index, a rare member may be there all the same.
        absent = [key for key in missing if self._is_explicit and not self._can_occur(key)]
        fields = [key for key in missing if ":" in key and self._can_occur(key)]
        what = f"{prefix}.caption_keys" + (f"={self._options.caption_keys!r}" if self._is_explicit else "")
        if absent:
            near = did_you_mean(absent[0], [*self._endings(), *self._fields])
            raise UserError(f"{where}: {what}: {have}; none has {absent[0]!r}{near}; name what is there")
        if fields and self._inspected:
            listed = ", ".join(itertools.islice(self._fields, 30)) or "no fields"
            listed += "".join(f", and a .{ending} that is no JSON ({why})" for ending, why in self._faults.items())
            near = did_you_mean(fields[0], self._fields)
            raise UserError(
                f"{where}: {what}: no text under {fields[0]!r} in {self._inspected} examples looked at,"
                f" which have {listed}{near}; name what is there"
            )


def input_endings(image_key: str) -> tuple[tuple[str, ...], bool]:
    """Endings of an example's inputs, in small letters, and whether the arrays among them count beside files.

    Args:
      image_key: the config's field, such as "mp4;json:a,b" (`inputs_of_fields`); "" for those of INPUT_ENDINGS.

    Raises:
      UserError: a JSON member without fields.
    """
    endings = []
    for part in (image_key or INPUT_ENDINGS).split(";"):
        ending, colon, fields = part.strip().lstrip(".").partition(":")
        names = [name.strip() for name in fields.split(",")]
        if colon and not all(names):
            raise UserError(f"data.image_key={image_key!r}: {part!r} names no field; write json:FIELD,FIELD")
        endings.append(ending.lower() + colon + ",".join(names))
    return tuple(endings), bool(image_key)


def join_names(names: Sequence[str]) -> str:
    """Names separated by commas."""
    return ", ".join(names) or "nothing"
