"""Apply a recipe to a miniature host and watch it train."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).parent


def hunks(diff: str) -> Iterator[tuple[list[str], list[str]]]:
    """(lines before, lines after) of every hunk; a hunk begins with a line of @@."""
    assert diff.startswith("@@"), "a recipe begins with a hunk"
    for hunk in diff.split("\n@@"):
        lines = [line or " " for line in hunk.splitlines()[1:]]
        unknown = [line for line in lines if line[0] not in " +-"]
        assert not unknown, unknown
        yield (
            [line[1:] for line in lines if line[0] in " -"],
            [line[1:] for line in lines if line[0] in " +"],
        )


def apply(diff: str, source: str) -> str:
    """The source with every hunk applied; each must fit exactly one place."""
    for before, after in hunks(diff):
        old, new = ("\n" + "\n".join(part) + "\n" for part in (before, after))
        places = ("\n" + source).count(old)
        assert places == 1, f"{places} places for:{old}"
        source = ("\n" + source).replace(old, new)[1:]
    return source


def added(diff: str) -> list[str]:
    """The lines that a recipe adds."""
    return [line[1:] for line in diff.splitlines() if line.startswith("+") and line[1:].strip()]


def recipe(name: str) -> str:
    return (FOLDER / f"{name}.diff").read_text(encoding="utf-8")


def host(name: str, folder: Path, *, adopted: bool = True) -> ModuleType:
    """The host's module, with the recipe applied or as it was."""
    source = (FOLDER / "hosts" / f"{name}.py").read_text(encoding="utf-8")
    path = folder / f"{name}_{'adopted' if adopted else 'plain'}.py"
    path.write_text(apply(recipe(name), source) if adopted else source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
