"""Which parameter of a source becomes which of a model: by `init_map`, else by name, and by tower."""

import re
from collections.abc import Iterable, Mapping, Sequence

from mmjax.errors import UserError, did_you_mean
from mmjax.training import init_towers
from mmjax.training.init_towers import Tower


def match(
    init_map: Sequence[tuple[str, str]],
    theirs: Iterable[str],
    ours: Iterable[str],
    their_towers: Sequence[Tower],
    our_towers: Sequence[Tower],
    only_mapped: Iterable[str] = (),
) -> dict[str, str]:
    """The source's path of each parameter of the model that has one.

    A source's path that a pattern of `init_map` matches is renamed, by the first that does. Others keep their name;
    of towers, the one with the same name and a kind alike is taken, else the source's only one of the same kind, and
    so is its head.

    Args:
      init_map: (regex of the source's path, replacement) pairs.
      theirs, ours: paths of the source's parameters and of the model's.
      their_towers, our_towers: their towers.
      only_mapped: the source's paths that keep no name of theirs.

    Raises:
      UserError: a pattern matches nothing, its replacement is no parameter, or two parameters become one.
    """
    theirs, ours = list(theirs), list(ours)
    mapped = _apply_map(init_map, theirs, ours)
    free = [path for path in theirs if path not in mapped and path not in set(only_mapped)]
    result: dict[str, str] = {}
    for path, names in mapped.items():
        for name in names:
            if name in result:
                raise UserError(f"init_map makes {name} of both {result[name]} and {path}; leave one of them out")
            result[name] = path
    defaults = _default_names(free, ours, their_towers, our_towers)
    return defaults | result


def _apply_map(
    init_map: Sequence[tuple[str, str]], theirs: Sequence[str], ours: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """What the model calls the source's paths that a pattern matches; nothing where it has no such parameter."""
    known, result = set(ours), {}
    for index, (pattern, replacement) in enumerate(init_map):
        label = f"init_map[{index}]=({pattern!r}, {replacement!r})"
        names = {}
        try:
            for path in theirs:
                if hit := re.fullmatch(pattern, path):
                    names[path] = hit.expand(replacement)
        except (re.error, IndexError) as error:
            raise UserError(f"{label} is no regular expression with its replacement: {error}") from error
        if not names:
            raise UserError(f"{label} matches none of the source's parameters, such as {theirs[0]!r}")
        if known.isdisjoint(names.values()):
            path, name = next(iter(names.items()))
            raise UserError(
                f"{label} makes {name!r} of {path!r}, and the model has no such parameter{did_you_mean(name, ours)}"
            )
        for path, name in names.items():
            result.setdefault(path, (name,) if name in known else ())
    return result


def _default_names(
    theirs: Sequence[str], ours: Sequence[str], their_towers: Sequence[Tower], our_towers: Sequence[Tower]
) -> dict[str, str]:
    known, origins = set(theirs), source_towers(our_towers, their_towers)
    by_prefix = {tower.prefix: tower for tower in our_towers}
    result = {}
    for path in ours:
        tower = init_towers.tower_of(path, our_towers)
        if tower is not None:
            origin = origins.get(tower.prefix)
            name = None if origin is None else f"{origin.prefix}/{path.removeprefix(tower.prefix + '/')}"
            # A tower of frames holds one of images, which has its origin elsewhere.
            if name is not None and init_towers.tower_of(name, their_towers) is not origin:
                name = None
        else:
            name = path if path in known else _head_name(path, by_prefix, origins)
        if name in known:
            result[path] = name
    return result


def _head_name(path: str, ours: Mapping[str, Tower], origins: Mapping[str, Tower]) -> str | None:
    """What the source calls a parameter of a tower's head, where it calls the tower otherwise."""
    part, _, rest = path.partition("/")
    prefix = part.removesuffix("_head")
    if prefix == part or prefix not in ours:
        return None
    origin = origins.get(prefix) or origins.get(f"{prefix}/image")
    return None if origin is None else f"{origin.head}/{rest}"


def source_towers(our_towers: Sequence[Tower], their_towers: Sequence[Tower]) -> dict[str, Tower]:
    """The source's tower for each of the model's, by prefix, where there is one."""
    result = {}
    for tower in our_towers:
        same = [other for other in their_towers if other.prefix == tower.prefix and other.is_like(tower)]
        alike = [other for other in their_towers if other.kind == tower.kind]
        if chosen := same or (alike if len(alike) == 1 else []):
            result[tower.prefix] = chosen[0]
    return result
