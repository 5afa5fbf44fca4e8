"""The keys of the schema: which there are, and which section is at a location."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from inspect import isclass
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class Key(NamedTuple):
    """One key of the schema."""

    path: tuple[str, ...]
    """Its name and those of the sections around it. A section in a list has `[]` after its name."""
    field: FieldInfo
    owner: type[BaseModel]
    """The section that declares it."""
    section: type[BaseModel] | None
    """The section that it holds, if it holds one or a list of them."""
    is_list: bool
    """Whether it holds a list of sections."""

    @property
    def has_variable(self) -> bool:
        """Whether an environment variable can set it: not inside a list."""
        return not any(part.endswith("[]") for part in self.path)


def names_of(section: type[BaseModel]) -> list[str]:
    """Return the names of a section's keys in the order of the schema, those inherited from another section last."""
    inherited = {name for base in section.__bases__ if issubclass(base, BaseModel) for name in base.model_fields}
    return sorted(section.model_fields, key=lambda name: name in inherited)


def keys_of(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Key]:
    """Yield every key of a section and of the sections inside it, in the order of `names_of`."""
    for name in names_of(section):
        field = section.model_fields[name]
        nested = _section(field.annotation)
        is_list = nested is not None and _is_tuple(field.annotation)
        yield Key((*path, name), field, section, nested, is_list)
        if nested is not None:
            yield from keys_of(nested, (*path, f"{name}[]" if is_list else name))


def section_at(root: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """Return the section at a location of the configuration, or None where there is none."""
    section: type[BaseModel] | None = root
    for part in location:
        if isinstance(part, str):
            field = section.model_fields.get(part) if section else None
            section = _section(field.annotation) if field else None
    return section


def _is_tuple(annotation: Any) -> bool:
    """Return whether a type is a tuple, or a union or alias that contains one."""
    return get_origin(annotation) is tuple or any(_is_tuple(part) for part in get_args(annotation))


def _section(annotation: Any) -> type[BaseModel] | None:
    if isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for part in get_args(annotation) if (section := _section(part))), None)
