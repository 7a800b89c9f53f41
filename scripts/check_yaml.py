# SPDX-License-Identifier: Apache-2.0
"""Check that YAML files parse and repeat no key: python scripts/check_yaml.py FILE..."""

import sys
from collections.abc import Hashable
from typing import Any

import yaml


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses repeated keys; PyYAML silently keeps the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build a mapping.

        Raises:
            yaml.constructor.ConstructorError: a key occurs twice.
        """
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} occurs twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def main(paths: list[str]) -> int:
    """Check the files; returns the number of invalid ones."""
    bad = 0
    for path in paths:
        try:
            with open(path, encoding="utf-8") as file:
                list(yaml.load_all(file, Loader=UniqueKeyLoader))
        except yaml.YAMLError as error:
            print(f"{path}: {error}")
            bad += 1
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
