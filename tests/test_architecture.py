"""Who may import whom, and how long a file and a function may be."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE_LINES, FUNCTION_LINES = 400, 60

LAYERS = ("alr_layers", "baselines", "benchmarks", "tests")  # each knows only those before it
# Files that must run without Triton.
REFERENCE_OPS = {"convolutions", "dispatch", "reductions", "reference"}

# Inside the library: module -> what of the library it may import.
LIBRARY = {
    "_checks": set(),
    "kernels.convolutions": set(),
    "kernels.reductions": set(),
    "kernels.reference": {"kernels"},
    "kernels.requirements": {"kernels"},
    "kernels.dispatch": {"kernels"},
    "options": set(),
    "captions": {"_checks"},
    "functional": {"_checks", "kernels", "options"},
    "alr": {"_checks", "functional", "kernels", "options"},
    "lvr": {"_checks", "functional", "kernels", "options"},
    "_stages": set(),
    "_gradients": {"_stages"},
    "_journal": set(),
    "balance": {"_checks", "_gradients", "_journal", "_stages"},
    "statistics": set(),
    "encoder": {"_checks"},
    "_host": set(),
    "_images": {"_checks"},
    "refinement": {"_checks", "_host", "_images", "alr", "encoder", "lvr", "statistics"},
    "_stage_host": {"alr", "options"},
    "attached": {"_checks", "_stage_host", "balance", "refinement"},
    "attaching": {"_checks", "_stage_host", "alr", "attached", "balance", "encoder", "options"}
    | {"refinement"},
}
FORBIDDEN_IN_LIBRARY = {"numpy", "torchvision", "einops", "timm", "scipy", "PIL"}


def sources(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything imported in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = list(path.relative_to(ROOT).with_suffix("").parts)
            base = package[: len(package) - node.level] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def inside(path: Path, package: str) -> set[str]:
    """What a file imports of a package of ours: first component below it ("kernels", "alr")."""
    parts = (name.split(".") for name in imports(path))
    return {part[1] for part in parts if part[0] == package and len(part) > 1}


@pytest.mark.parametrize("path", sources(*LAYERS), ids=name_of)
def test_layers_point_one_way(path):
    own = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = set(LAYERS[own + 1 :])
    assert not {name.split(".")[0] for name in imports(path)} & above


@pytest.mark.parametrize("path", sources("alr_layers"), ids=name_of)
def test_library_needs_torch_alone(path):
    names = set(imports(path))
    assert not {name.split(".")[0] for name in names} & FORBIDDEN_IN_LIBRARY
    assert not any(name.startswith("torch.distributed") for name in names)
    if path.parent.name != "kernels" or path.stem in REFERENCE_OPS:
        assert not any(name.split(".")[0] == "triton" for name in names)


def test_library_asks_for_ranks_in_one_place():
    """As an attribute of torch, so that importing the library does not import it."""
    for path in sources("alr_layers"):
        asks = any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.distributed"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
        assert asks == (path.name == "_gradients.py"), name_of(path)


def environment_reads(path: Path) -> Iterator[str]:
    """The source of every argument of os.environ.get(...), os.getenv(...), os.environ[...]."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and "env" in ast.unparse(node.func):
            yield ast.unparse(node.args[0])
        elif isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
            yield ast.unparse(node.slice)


def test_library_reads_one_environment_variable():
    """Its own; and the kernels ask whether Triton interprets, which is Triton's variable."""
    for path in sources("alr_layers"):
        allowed = {"dispatch": {"ENVIRONMENT_VARIABLE"}}.get(path.stem, set())
        if path.parent.name == "kernels" and path.stem not in REFERENCE_OPS:
            allowed = {"'TRITON_INTERPRET'"}
        assert set(environment_reads(path)) <= allowed, name_of(path)


@pytest.mark.parametrize("module", LIBRARY)
def test_library_inside(module):
    path = ROOT / "alr_layers" / (module.replace(".", "/") + ".py")
    assert inside(path, "alr_layers") <= LIBRARY[module]


def test_fused_kernels_are_leaves():
    for path in sources("alr_layers/kernels"):
        if path.stem not in REFERENCE_OPS:
            assert inside(path, "alr_layers") <= {"kernels"}
            assert not any(name.startswith("alr_layers.kernels.dispatch") for name in imports(path))


# Inside the trainers, from the ground up: each knows only its own layer and those before it.
TRAINERS = (
    {"errors", "files", "json_lines", "console", "settings", "config", "presets"},
    {"losses", "hinge", "matching", "precision", "data", "networks", "pictures"},
    {"training"},
    {"refinement"},
    {"hosts"},
    {"runs", "companions", "estimate", "hub", "trial"},
    {"sampling"},
    {"metrics", "conversion"},
    {"pages"},
    {"publishing"},
)
COMMANDS = {"cli", *(path.stem for path in (ROOT / "baselines").glob("*.py"))} - set().union(
    *TRAINERS
)


def layer(module: str) -> int:
    found = [place for place, names in enumerate((*TRAINERS, COMMANDS)) if module in names]
    assert found, f"baselines.{module} belongs to no layer"
    return found[0]


@pytest.mark.parametrize("path", sources("baselines"), ids=name_of)
def test_trainers_point_one_way(path):
    own = path.relative_to(ROOT / "baselines").with_suffix("").parts[0]
    if own == "__init__":
        return
    below = ROOT / "baselines"
    imported = {
        name
        for name in inside(path, "baselines")
        if (below / name).is_dir() or (below / f"{name}.py").exists()
    }
    if own == "runs":
        imported -= {"cli", "inventory"}  # started as a command it is one
    for name in imported:
        assert layer(name) <= layer(own), f"{name_of(path)} imports baselines.{name}"


@pytest.mark.parametrize(
    "host",
    sorted(p.name for p in (ROOT / "baselines/hosts").iterdir() if (p / "model.py").exists()),
)
def test_hosts_know_nothing_of_refinement(host):
    for path in sources(f"baselines/hosts/{host}"):
        assert not any("refinement" in name or "alrgan" in name for name in imports(path))


def test_trainers_use_the_public_interface():
    private = (
        f"{name_of(path)}: {name}"
        for path in sources("baselines")
        for name in imports(path)
        if name.startswith(("alr_layers.kernels", "alr_layers._"))
    )
    assert not list(private)


@pytest.mark.parametrize("path", sources(*LAYERS), ids=name_of)
def test_nothing_is_too_long(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # A Triton kernel names every pointer and stride, one a line; its body is what is read.
            start = node.body[0] if node.name.endswith("_kernel") else node
            length = (node.end_lineno or node.lineno) - start.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"
