"""The house rules (design): imports point downward, Numba stays in its rooms, files and functions stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tqvec"
FLOORS = {
    **dict.fromkeys(
        (
            "errors",
            "_types",
            "_validate",
            "_config",
            "_threads",
            "_mmap",
            "_atomic",
            "_output",
            "_signatures",
            "_safetensors",
            "exact",
        ),
        0,
    ),
    **dict.fromkeys(("_random", "_fixed", "_locks", "_memory", "_present", "_arrays", "_vectors"), 0),
    **dict.fromkeys(("reference", "kernels"), 1),
    "codec": 2,
    **dict.fromkeys(("index", "kvcache", "oracle"), 3),
    **dict.fromkeys(("shards", "eval", "_compile"), 4),
    "store": 5,
    **dict.fromkeys(("cli", "integrations"), 6),
    "__main__": 7,
}
LATE = {"store", "integrations"}  # rooms of the face that are loaded when a name of them is first used
FACE = 4  # tqvec/__init__.py shows names of floors 0 to 3, so only what lies above them may import from it
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
OUTSIDE_KERNELS = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] != "kernels"]


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def room(path):
    """First folder, or the module's own name, of a file; the root's __init__ is ''."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imports(tree):
    """Dotted names of everything that a file imports, at any depth, relative imports refused."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree):
    """Rooms of tqvec that a file imports from; '' is the public face."""
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] == "tqvec":
            known = len(parts) > 1 and parts[1] in FLOORS
            yield parts[1] if known else ""


def violations(source_room, tree):
    """Rooms that a file of `source_room` must not import from, but does."""
    if source_room == "":
        return [target for target in rooms_imported(tree) if target not in ("", *LATE) and FLOORS[target] > FACE - 1]
    bad = []
    for target in rooms_imported(tree):
        floor, here = FLOORS.get(target, FACE - 1), FLOORS[source_room]
        sideways = floor == here and target != source_room and here > 0
        if floor > here or sideways or (target == "reference" and source_room not in ("reference", "oracle")):
            bad.append(target)
    return bad


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path):
    assert room(path) == "" or room(path) in FLOORS, "a new room: give it a floor above"
    assert violations(room(path), TREES[path]) == []


@pytest.mark.parametrize(
    ("source", "statement"),
    [
        ("codec", "import tqvec.index.index"),
        ("index", "from tqvec.kvcache import cache"),
        ("kernels", "from tqvec import codec"),
        ("kernels", "from tqvec.reference import rotation"),
        ("eval", "def f():\n    import tqvec.reference"),
        ("index", "from tqvec import TurboQuant"),
        ("errors", "import tqvec.kernels"),
        ("", "from tqvec.cli import app"),
    ],
)
def test_the_rule_sees_upward_and_sideways_imports(source, statement):
    assert violations(source, ast.parse(statement)) != []


def top_levels(path):
    return {name.split(".")[0] for name in imports(TREES[path])}


@pytest.mark.parametrize("path", OUTSIDE_KERNELS, ids=name_of)
def test_numba_stays_in_kernels(path):
    assert not top_levels(path) & {"numba", "llvmlite"}
    if room(path) == "reference":
        assert not top_levels(path) & {"scipy", "safetensors"}


FILES = ("_safetensors", "_signatures", "_mmap", "_atomic", "_output")  # what the oracle's files need
NEEDING_NUMPY = [path for path in MODULES if room(path) in ("oracle", "_present", *FILES)]


@pytest.mark.parametrize("path", NEEDING_NUMPY, ids=name_of)
def test_the_oracle_needs_numpy_alone(path):
    """It runs on GPU machines that have nothing else, and shares no code with the codec that it verifies."""
    allowed = {"tqvec._types", "tqvec._safetensors", "tqvec._output", "tqvec._present", "tqvec.errors", "tqvec.oracle"}
    allowed |= {"tqvec.reference"} if room(path) == "oracle" else {f"tqvec.{name}" for name in FILES}
    for name in imports(TREES[path]):
        top = name.split(".")[0]
        if top == "tqvec":
            assert any(f"{name}.".startswith(f"{each}.") for each in allowed), name
        else:
            assert top in sys.stdlib_module_names | {"numpy", "pytest", "pytest_tqvec"}, name


LATE_IMPORTS = {
    "safetensors.numpy": "a codebook's file is read at the first use of its width",
    "scipy.linalg": "for offline scripts alone",
    "scipy.special": "a third of the time of importing tqvec",
    **dict.fromkeys(("faiss", "h5py", "matplotlib", "matplotlib.pyplot", "pyarrow", "pyarrow.parquet"), "optional"),
}


def imports_inside_functions(tree):
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from (
                child.module if isinstance(child, ast.ImportFrom) else child.names[0].name
                for child in ast.walk(node)
                if isinstance(child, (ast.Import, ast.ImportFrom))
            )


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_stand_at_the_top(path):
    """An import inside a function is for a package that is optional or slow to load; it hides a circle otherwise."""
    assert set(imports_inside_functions(TREES[path])) <= LATE_IMPORTS.keys()


MODULE_NAMES = {".".join(("tqvec", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in MODULES}


def modules_imported(tree):
    """Yield the modules of tqvec that a file imports; a package's names count as its __init__."""
    for name in imports(tree):
        prefixes = [name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1)]
        candidates = [candidate for prefix in prefixes for candidate in (prefix, f"{prefix}.__init__")]
        yield from [candidate for candidate in candidates if candidate in MODULE_NAMES][:1]


def circles(graph):
    """Return the strongly connected components of more than one node (Tarjan 1972)."""
    index, low, stack, components = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            at = stack.index(node)
            component, stack[at:] = sorted(stack[at:]), []
            if len(component) > 1:
                components.append(component)

    for node in graph:
        if node not in index:
            visit(node)
    return components


def test_no_import_circles():
    graph = {name: set(modules_imported(TREES[path])) for name, path in MODULE_NAMES.items()}
    assert sum(map(len, graph.values())) > len(graph)
    assert circles(graph) == []


def test_the_rule_sees_circles():
    assert circles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"d"}, "e": {"a"}}) == [["a", "b", "c"]]


@pytest.mark.parametrize("path", [p for p in MODULES if p not in OUTSIDE_KERNELS], ids=name_of)
def test_one_decorator_compiles_everything(path):
    if path.name == "_jit.py":
        return
    names = {name for name in imports(TREES[path]) if name.startswith("numba")}
    attributes = {
        node.attr
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("numba", "nb")
    }
    compilers = {"njit", "jit", "vectorize", "guvectorize", "cfunc", "stencil", "jitclass"}
    assert not compilers & attributes
    assert not compilers & {name.rsplit(".", 1)[1] for name in names if "." in name}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_short(path):
    limit = 250 if room(path) == "reference" else 400
    assert len(path.read_text().splitlines()) <= limit


def documented(tree):
    """Public (name, node) of a module: its functions and classes, and their public methods."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    overloaded = any(ast.unparse(mark) == "overload" for mark in getattr(item, "decorator_list", ()))
                    if isinstance(item, ast.FunctionDef) and not item.name.startswith("_") and not overloaded:
                        yield f"{node.name}.{item.name}", item


def lines_without_docstring(node):
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node) is not None:
        lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


def argument_count(node):
    names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names += [a.arg for a in (node.args.vararg, node.args.kwarg) if a is not None]
    return len([name for name in names if name not in ("self", "cls")])


def functions(tree):
    """Public functions and methods, constructors included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
            yield node


@pytest.mark.parametrize("path", OUTSIDE_KERNELS, ids=name_of)
def test_functions_are_short(path):
    assert [n.name for n in functions(TREES[path]) if lines_without_docstring(n) > 60] == []


MANY_OPTIONS = {  # what users choose from
    "index/index.py": {"search": 9},
    "integrations/ray/building.py": {"build": 17},
    "shards/sharded.py": {"search": 9},
    "store/collection.py": {"__init__": 12, "search": 10},
}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_take_few_arguments(path):
    """Of kernels, private functions too."""
    everything = (n for n in ast.walk(TREES[path]) if isinstance(n, ast.FunctionDef))
    checked = functions(TREES[path]) if path in OUTSIDE_KERNELS else everything
    most = MANY_OPTIONS.get(name_of(path), {})
    assert [n.name for n in checked if argument_count(n) > most.get(n.name, 8)] == []


@pytest.mark.parametrize("path", OUTSIDE_KERNELS, ids=name_of)
def test_public_names_have_docstrings(path):
    assert [name for name, node in documented(TREES[path]) if ast.get_docstring(node) is None] == []
    if path.name != "__init__.py":
        assert ast.get_docstring(TREES[path])


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=name_of)
def test_packages_only_show_names(path):
    for node in TREES[path].body:
        if isinstance(node, ast.Assign):
            assert [ast.unparse(target) for target in node.targets] in (["__all__"], ["__version__"])
        elif isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant)
        elif path == PACKAGE / "__init__.py" and not isinstance(node, (ast.Import, ast.ImportFrom)):
            late = ("if TYPE_CHECKING:\n", "def __getattr__(", "def __dir__(")
            assert ast.unparse(node).startswith(late), "only for what loads late"
        else:
            assert isinstance(node, (ast.Import, ast.ImportFrom))


def test_importing_loads_nothing_that_only_some_calls_need():
    """Special functions, plots, FAISS: what they take would show in every start."""
    late = ("scipy.special", "matplotlib", "pandas", "faiss", "torch", "pyarrow", "h5py", "tqvec.oracle")
    code = f"import sys, tqvec; print([name for name in {late} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def is_record(node):
    """Whether a class is a named tuple or a dataclass."""
    marks = [ast.unparse(mark) for mark in (*node.bases, *node.decorator_list)]
    return any("NamedTuple" in mark or "dataclass" in mark for mark in marks)


CLASSES = {path: [n for n in ast.walk(TREES[path]) if isinstance(n, ast.ClassDef)] for path in MODULES}
LONG_RECORDS = {
    node.name
    for nodes in CLASSES.values()
    for node in nodes
    if is_record(node) and sum(isinstance(field, ast.AnnAssign) for field in node.body) > 4
}
LONG_RECORDS |= {
    node.name
    for nodes in CLASSES.values()
    for node in nodes
    if any(ast.unparse(base) in LONG_RECORDS for base in node.bases)
}
TABLES = {"Mistake", "Profile"}  # many rows of one kind, which read as a table


@pytest.mark.parametrize("path", OUTSIDE_KERNELS, ids=name_of)
def test_long_records_are_made_by_keyword(path):
    """Nobody can review a swap of two floats."""
    calls = [n for n in ast.walk(TREES[path]) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert [n.lineno for n in calls if n.func.id in LONG_RECORDS - TABLES and len(n.args) > 4] == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=name_of)
def test_a_class_name_stands_for_one_class_in_a_folder(folder):
    """Those of adapters have the names of their frameworks, each in a file of its own."""
    names = [node.name for path in MODULES if path.parent == folder for node in CLASSES[path]]
    if folder.name == "integrations":
        names = [name for name in names if not name.startswith("Tqvec")]
    assert sorted(names) == sorted(set(names))
