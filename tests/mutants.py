"""Small random changes of right ports: of the oracle's own stages, and of examples/torch_port.py.

`sites` lists all changes of a module, `mutate` makes one of them, `judge` asks the oracle. Run as a script, it judges
all changes of all modules, or of those that are named, and prints the ones that pass:

    python tests/mutants.py [MODULE …]
"""

import ast
import copy
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from tqvec.oracle import ports
from tqvec.oracle.cases import iter_cases, iter_later_cases
from tqvec.oracle.compare import compare
from tqvec.oracle.families.registry import instantiate
from tqvec.oracle.instance import Instance
from tqvec.oracle.profiles import PROFILES

ROOT = Path(__file__).parents[1]
ORDER = (
    "arithmetic",
    "layouts",
    "rotations",
    "families.scalar",
    "families.prod",
    "families.llama_cpp",
    "families.vllm",
)
FAMILIES = {"scalar": "scalar", "paper": "scalar", "prod": "prod", "blocks": "llama_cpp", "cache": "vllm"}
DIMS = {"tqvec_scalar@3": 20, "tqvec_trellis@2": 20, "paper_mse@2": 20, "paper_prod@3": 20, "turbo3@32": 128}
DIMS |= {"turbo4@128": 128, "vllm_k3v4_nc": 16}
USERS = {"torch_port": ["tqvec_scalar@3", "tqvec_scalar@2"], "families.prod": ["paper_prod@3"]}
USERS |= {"families.llama_cpp": ["turbo3@32", "turbo4@128"], "families.vllm": ["vllm_k3v4_nc"]}

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult}
SWAPS |= {
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Mod: ast.Mult,
}
SWAPS |= {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
SWAPS |= {ast.MatMult: ast.Mult, ast.Pow: ast.Mult, ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn}
NAMES = {"float32": "float16", "float64": "float32", "floor": "ceil", "greater": "greater_equal", "maximum": "minimum"}
NAMES |= {"greater_equal": "greater", "max": "min", "min": "max", "sqrt": "square", "double": "half", "zeros": "ones"}
NAMES |= {"zeros_like": "ones_like", "astype": "view", "sum": "mean", "flip": "roll"}
TEXTS = {"little": "big", "down": "up", "norm": "unbiased", "unbiased": "norm", "<f2": ">f2"}


def changes(node):
    """Every changed copy of a node, with a word for it."""
    made = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        made.op = SWAPS[type(node.op)]()
        yield "operator", made
    if isinstance(node, ast.BinOp):
        yield "left operand alone", node.left
        yield "right operand alone", node.right
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        made.ops[0] = SWAPS[type(node.ops[0])]()
        yield "comparison", made
    if isinstance(node, ast.UnaryOp):
        yield "sign dropped", node.operand
    if isinstance(node, ast.Constant) and type(node.value) is int:
        yield "one more", ast.Constant(node.value + 1)
        yield "one less", ast.Constant(node.value - 1)
    if isinstance(node, ast.Constant) and type(node.value) is float:
        yield "constant", ast.Constant(node.value * 1.001 if node.value else 1e-3)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield "negation", ast.Constant(not node.value)
    if isinstance(node, ast.Constant) and node.value in TEXTS:
        yield "text", ast.Constant(TEXTS[node.value])
    if isinstance(node, ast.Attribute) and node.attr in NAMES and isinstance(node.ctx, ast.Load):
        made.attr = NAMES[node.attr]
        yield f"{made.attr} for {node.attr}", made
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("astype", "sum", "repeat")
    ):
        yield f"no {node.func.attr}", node.func.value
    if isinstance(node, ast.Call) and len(node.args) == 2:
        made.args.reverse()
        yield "arguments swapped", made
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        yield "call dropped", node.args[0]
    if isinstance(node, ast.IfExp):
        yield "branches swapped", ast.IfExp(node.test, node.orelse, node.body)
    if isinstance(node, ast.Slice) and node.step is not None:
        yield "step dropped", ast.Slice(node.lower, node.upper, None)
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.If) and not isinstance(
        getattr(node, "value", None), ast.Constant
    ):
        yield "statement dropped", ast.Pass()


def functions(tree):
    """The functions of a module, without what only annotates or documents them."""
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            yield function


def sites(source):
    """Positions of all changes: (index of the node in its module, index of its change)."""
    tree = ast.parse(source)
    skipped = {id(node) for f in functions(tree) for part in (f.args, f.returns) if part for node in ast.walk(part)}
    inside = {id(node) for f in functions(tree) for statement in f.body for node in ast.walk(statement)} - skipped
    for k, node in enumerate(ast.walk(tree)):
        if id(node) in inside:
            yield from ((k, i) for i, _ in enumerate(changes(node)))


def mutate(source, site):
    """Return the tree with one change, and its description: function, what, and the code before and after."""
    tree, (k, i) = ast.parse(source), site
    target = list(ast.walk(tree))[k]
    function = next(f.name for f in functions(tree) if any(node is target for node in ast.walk(f)))
    before = ast.unparse(target)
    what, made = list(changes(target))[i]
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, made)
            elif isinstance(value, list) and any(each is target for each in value):
                setattr(parent, name, [made if each is target else each for each in value])
    return ast.fix_missing_locations(tree), f"{function}: {what}: {before} → {ast.unparse(made)}"


@contextmanager
def replaced(modules):
    """Let imports of the oracle's modules find others."""
    before = {name: sys.modules[f"tqvec.oracle.{name}"] for name in modules}

    def put(found):
        for name, module in found.items():
            sys.modules[f"tqvec.oracle.{name}"] = module
            package, _, last = f"tqvec.oracle.{name}".rpartition(".")
            setattr(sys.modules[package], last, module)

    try:
        yield put
    finally:
        put(before)


def stages_with(changed, tree):
    """The stages of all families, made from the oracle's modules, one of which is `tree`."""
    made = {}
    with replaced(ORDER) as put:
        for name in ORDER:
            module = ModuleType(f"tqvec.oracle.{name}")
            exec(compile(tree, name, "exec") if name == changed else compiled(name), module.__dict__)
            made[name] = module
            put({name: module})
    families = {family: made[f"families.{module}"].STAGES for family, module in FAMILIES.items()}
    return {**families, "paper": made["families.scalar"].PAPER_STAGES}


@cache
def compiled(name):
    return compile(source_of(name), name, "exec")


@cache
def source_of(name):
    """The source of a module of the oracle, or of the port in PyTorch."""
    path = "examples/torch_port.py" if name == "torch_port" else f"tqvec/oracle/{name.replace('.', '/')}.py"
    return (ROOT / path).read_text(encoding="utf-8")


def ports_with(name, tree):
    """A function that makes the port of a codec, where the module `name` is `tree`."""
    if name == "torch_port":
        module = ModuleType("torch_port")
        exec(compile(tree, name, "exec"), module.__dict__)
        return lambda codec: ports.from_object(module, name)
    stages = stages_with(name, tree)
    return lambda codec: ports.from_oracle(Instance(codec.profile, codec.d, codec.tables, stages[codec.profile.family]))


@cache
def right_outputs(profile, name):
    """The codec of a profile, and its cases with the outputs of the port as it is, the fast stages first."""
    codec = instantiate(PROFILES[profile], DIMS.get(profile, 20))
    port = ports_with(name, ast.parse(source_of(name)))(codec)
    cases = [case for stage in codec.stages for case in iter_cases(codec, stage)]
    cases += [case for stage in codec.stages for case in iter_later_cases(codec, stage, "float32")]
    return codec, [(case, port(codec, case.stage, case.inputs)) for case in cases]


def judge(name, site):
    """Judge a change: "caught", "identical" (all bits on all cases) or "differs"; and its description."""
    tree, told = mutate(source_of(name), site)
    try:
        make_port, same = ports_with(name, tree), True
    except Exception:  # the module can't be imported
        return "caught", told
    for profile in USERS.get(name, DIMS):
        codec, pairs = right_outputs(profile, name)
        port = make_port(codec)
        for case, expected in pairs:
            try:
                with np.errstate(all="ignore"):
                    got = port(codec, case.stage, case.inputs)
            except ports.PortError:
                return "caught", told
            if len(got) == len(expected) and all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True)):
                continue
            if compare(codec, case, got, "float32"):
                return "caught", told
            same = False
    return "identical" if same else "differs", told


if __name__ == "__main__":
    for module in sys.argv[1:] or ORDER:
        found = [judge(module, site) for site in sites(source_of(module))]
        print(module, {verdict: sum(v == verdict for v, _ in found) for verdict in ("caught", "identical", "differs")})
        for verdict, told in found:
            if verdict != "caught":
                print(f"  {verdict}: {told}")
