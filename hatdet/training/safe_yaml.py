"""YAML as data: plain dictionaries, lists, texts and numbers, and no way to run anything."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node

from hatdet.core.errors import OptionsError

__all__ = ["parse_mapping", "parse_value"]

_PREFIX = "tag:yaml.org,2002:"
_DEEPEST = 16


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice in one place and a key that is no word."""

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        seen = set()
        for key, _ in node.value:
            if key.tag not in (_PREFIX + "str", _PREFIX + "merge"):
                got = repr(key.value) if isinstance(key.value, str) else f"a {key.id}"
                raise ConstructorError(None, None, f"a key must be a word, got {got}", key.start_mark)
            if key.value in seen:
                raise ConstructorError(None, None, f"{key.value} stands here twice", key.start_mark)
            seen.add(key.value)
        return node

    def refuse(self, node: Node) -> None:
        tag = node.tag.replace(_PREFIX, "!!")
        raise ConstructorError(None, None, f"the tag {tag} is refused: options are data, not code", node.start_mark)


_Loader.add_constructor(None, _Loader.refuse)


def parse_mapping(text: str, name: str) -> dict[str, Any]:
    """The sections of an option file's text; no two share a value, whatever aliases the file has.

    Raises:
        OptionsError: text that is no YAML, has a tag beyond YAML's own, a key twice, or is no mapping. The message
            begins with `name` and says in which line.
    """
    loaded = _load(text, name)
    if not isinstance(loaded, dict):
        raise OptionsError(f"{name}: expected sections of options, got {'nothing' if loaded is None else repr(loaded)}")
    unshared: dict[str, Any] = _unshared(loaded, name)
    return unshared


def parse_value(text: str, name: str) -> Any:
    """A value that was given on the command line: a list, a number, true, false, none (`~`), or else text.

    Raises:
        OptionsError: a broken list or quotation, a tag beyond YAML's own.
    """
    if text.lower() == "none":
        return None
    try:
        value = _load(text, name)
    except OptionsError:
        if text.startswith(("[", "!", "'", '"')):
            raise
        return text
    return text if isinstance(value, dict) else value


def _load(text: str, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise OptionsError(f"{name}: {where}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise OptionsError(f"{name}: cannot be read as YAML: {str(error).splitlines()[0]}") from error


def _unshared(value: Any, name: str, depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise OptionsError(f"{name}: sections are nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        return {key: _unshared(child, name, depth + 1) for key, child in value.items()}
    if isinstance(value, list):
        return [_unshared(child, name, depth + 1) for child in value]
    return value
