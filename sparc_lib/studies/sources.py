"""Which code a stage's result hangs on: the sources of its files or rooms and of all that these import."""

import ast
import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

LIBRARY = Path(__file__).resolve().parents[1]
DATA_SUFFIXES = (".yaml", ".json", ".csv")  # files beside the code that decide results as well
NOT_CODE = "weights"  # folders of weights, which stages name by their fingerprints


def code_of(*names: str, library: Path = LIBRARY) -> dict[str, str]:
    """{file: SHA-256} of rooms ("features"), files ("training", "studies/tables"), and all of the library
    that they import.

    Comments, docstrings and layout do not count, so only what can change a result changes the hashes.
    Raises FileNotFoundError for a name that is neither a room nor a file.
    """
    waiting = [file for name in names for file in _files(library, name)]
    hashes: dict[str, str] = {}
    while waiting:
        file = waiting.pop()
        key = file.relative_to(library).as_posix()
        if key in hashes:
            continue
        hashes[key], imported = _read(file, library)
        waiting += imported
    return dict(sorted(hashes.items()))


def home(function: Callable, library: Path = LIBRARY) -> tuple[str, ...]:
    """The files of the library that define a function, as `code_of` takes them: of a `partial` also those of
    the functions among its arguments. Functions from elsewhere, such as a test's own, have none."""
    if isinstance(function, partial):
        inner = [function.func, *function.args, *function.keywords.values()]
        return tuple(dict.fromkeys(name for part in inner if callable(part) for name in home(part, library)))
    package, *rest = getattr(function, "__module__", "").split(".")
    name = "/".join(rest)
    return (name,) if package == library.name and (library / f"{name}.py").is_file() else ()


def _files(library: Path, name: str) -> list[Path]:
    """The file of this name, or all files of the room: Python and data, not weights."""
    core_file, room = library / f"{name}.py", library / name
    if core_file.is_file():
        return [core_file]
    if not room.is_dir():
        raise FileNotFoundError(f"{name!r} is neither a file nor a room of {library}")
    return [*sorted(room.rglob("*.py")), *_data_files(room)]


def _data_files(room: Path) -> list[Path]:
    kept = (file for file in room.rglob("*") if file.suffix in DATA_SUFFIXES)
    return sorted(file for file in kept if NOT_CODE not in file.relative_to(room).parts)


@cache
def _read(file: Path, library: Path) -> tuple[str, tuple[Path, ...]]:
    """(hash of what a file says, files of the library it imports); a room's data files count as imported."""
    if file.suffix != ".py":
        return hashlib.sha256(file.read_bytes()).hexdigest(), ()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {target for node in ast.walk(tree) for target in _imports(node, file, library)}
    if file.parent != library:
        room = library / file.relative_to(library).parts[0]
        imported.update(_data_files(room))
    for node in ast.walk(tree):
        _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(sorted(imported))


def _imports(node: ast.AST, file: Path, library: Path) -> list[Path]:
    """Files that one relative import statement names: modules, and the packages on the way to them."""
    if not isinstance(node, ast.ImportFrom) or not node.level:
        return []
    folder = file.parents[node.level - 1]
    target = folder.joinpath(*(node.module or "").split("."))
    candidates = [target.with_suffix(".py"), target / "__init__.py"]
    candidates += [target / f"{alias.name}.py" for alias in node.names]
    candidates += [target / alias.name / "__init__.py" for alias in node.names]
    return [path for path in candidates if path.is_file() and path != library / "__init__.py"]


def _drop_docstring(node: ast.AST) -> None:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]
