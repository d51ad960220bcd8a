"""The layering and the house rules, read from the source."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flowkit
from flowkit.core.registry import REGISTRIES

ROOT = Path(flowkit.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)

RANKS = {
    "core": 0, "kernels": 1, "numerics": 2, "nets": 3,
    **dict.fromkeys(["univariates", "bijectors", "injections", "surjections", "continuous", "distributions", "targets", "objectives", "covariances"], 4),
    "flows": 5, **dict.fromkeys(["data", "sampling", "evaluation"], 6), **dict.fromkeys(["training", "plots"], 7),
    **dict.fromkeys(["heads", "estimators", "interop"], 8), **dict.fromkeys(["experiment", "testing", "bench"], 9),
}
TOP = 10  # files beside the packages: __init__, __main__, cli
PLUGINS = ("univariates", "bijectors", "injections", "surjections", "continuous", "distributions", "targets", "objectives", "covariances", "flows", "nets")
ALWAYS = {"torch", "numpy", "flowkit"}
OPTIONAL = ["nflows", "torchdiffeq", "sklearn", "scipy", "jsonargparse", "yaml", "safetensors", "rich", "matplotlib", "tensorboard", "pandas", "ot",
            "openmm", "mdtraj", "pyarrow", "zuko", "normflows", "FrEIA", "pytest", "hypothesis", "pyro", "sbi"]
LINES, FUNCTION_LINES, KERNEL_LINES = 320, 60, 100


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def rank(module: str) -> int:
    """Rank of ``flowkit.a.b``: that of package a, or the top for files beside the packages."""
    parts = module.split(".")
    return RANKS.get(parts[1], TOP) if len(parts) > 1 else TOP


def module_of(path: Path) -> str:
    parts = ["flowkit", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import in a file, those inside functions and TYPE_CHECKING blocks too."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], *([base] if base else [])])
            if base == "flowkit":
                yield from ((node.lineno, f"flowkit.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_go_down(path: Path) -> None:
    """A file imports only from lower ranks or from its own package."""
    own, own_rank = module_of(path).split("."), rank(module_of(path))
    wrong = []
    for line, module in imports(path):
        if module != "flowkit" and not module.startswith("flowkit."):
            continue
        same_package = len(own) > 1 and module.split(".")[1:2] == own[1:2]
        if not same_package and not (rank(module) < own_rank or own_rank == TOP):
            wrong.append(f"line {line}: {module} (rank {rank(module)}) from rank {own_rank}")
    assert not wrong, "; ".join(wrong)


def top_level(path: Path) -> Iterator[ast.stmt]:
    """Statements run at import: those outside functions, in classes and if blocks too, but not under TYPE_CHECKING."""
    queue = list(tree(path).body)
    while queue:
        node = queue.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            queue += node.orelse
            continue
        yield node
        queue += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


@pytest.mark.parametrize("path", [path for path in FILES if rank(module_of(path)) <= 7 or path.name == "__init__.py"], ids=relative)
def test_optional_packages_inside_functions(path: Path) -> None:
    """Up to rank 7 only torch, numpy and the standard library are imported outside functions."""
    for node in top_level(path):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        for name in names:
            root = name.split(".")[0]
            assert root in ALWAYS or root in sys.stdlib_module_names, f"line {node.lineno}: {name}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_sizes(path: Path) -> None:
    """Files and functions stay short."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LINES, f"{lines} lines"
    limit = KERNEL_LINES if "kernels" in path.parts else FUNCTION_LINES
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if len(node.body) > 1 and ast.get_docstring(node) is not None else node.body[0]
            length = (node.end_lineno or node.lineno) - first.lineno + 1
            assert length <= limit, f"{node.name} has {length} lines"


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_forbidden_constructs(path: Path) -> None:
    """No print, no star import, no eval, exec or pickle; nothing but the conformance kit unpickles what it pickled itself."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            assert called(node) not in ("print", "eval", "exec", "__import__"), f"line {node.lineno}: {called(node)}"
            if called(node) == "torch.load":
                safe = any(keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in node.keywords)
                assert safe, f"line {node.lineno}: torch.load without weights_only=True"
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), f"line {node.lineno}: star import"
    if "testing" not in path.relative_to(ROOT).parts:
        used = [module for _, module in imports(path) if module.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve")]
        assert not used, f"imports {used}"


GLOBALS = ("set_default_dtype", "set_default_device", "set_num_threads", "manual_seed", "set_default_validate_args", "set_printoptions",
           "set_float32_matmul_precision", "use_deterministic_algorithms", "seed", "set_default_tensor_type", "set_num_interop_threads")


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_global_state_at_import(path: Path) -> None:
    """Importing changes no global of torch or numpy: no setter is called, no attribute of theirs assigned."""
    for node in top_level(path):
        expressions = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        for call in (part for expression in expressions for part in ast.walk(expression) if isinstance(part, ast.Call)):
            assert called(call).split(".")[-1] not in GLOBALS, f"line {node.lineno}: {called(call)}"
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        for target in targets:
            assert not ast.unparse(target).startswith(("torch.", "np.", "numpy.")), f"line {node.lineno}: {ast.unparse(target)}"


INHERITED = {"forward", "examples", "inverse", "log_prob", "sample", "rsample"}


def public_definitions(path: Path) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, bool]]:
    """Public classes and functions at the top of a file; ``True`` for a class's methods."""
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node.name, node, False
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        yield f"{node.name}.{method.name}", method, True


@pytest.mark.parametrize("path", [path for path in FILES if not path.name.startswith("_") or path.name == "__init__.py"], ids=relative)
def test_public_names_documented(path: Path) -> None:
    """Modules, public classes and public functions have docstrings; a method that restates a contract may rely on it."""
    text = path.read_text(encoding="utf-8").strip()
    assert not text or ast.get_docstring(tree(path)), "no module docstring"
    inherited = _contract_methods(path)
    missing = [name for name, node, is_method in public_definitions(path) if not ast.get_docstring(node) and not (is_method and name in inherited)]
    if "testing" in path.relative_to(ROOT).parts:
        missing = [name for name in missing if name.startswith("check_") or name[:1].isupper()]
    assert not missing, f"no docstring: {', '.join(missing)}"


def _contract_methods(path: Path) -> set[str]:
    """``Class.method`` names that some base class documents, or that torch defines."""
    try:
        module = importlib.import_module(module_of(path))
    except ModuleNotFoundError as error:
        if str(error.name).startswith("flowkit"):
            raise
        pytest.skip(f"{error.name} is not installed")
    found = set()
    for name, cls in inspect.getmembers(module, inspect.isclass):
        for method in vars(cls):
            bases = [vars(base)[method] for base in cls.__mro__[1:] if method in vars(base)]
            if bases or method == "forward" or method == "examples":
                found.add(f"{name}.{method}")
    return found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_annotated(path: Path) -> None:
    """Every function is annotated, and annotations are not evaluated at import."""
    if path.read_text(encoding="utf-8").strip() and path.name != "__init__.py":
        assert "from __future__ import annotations" in path.read_text(encoding="utf-8")
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [argument.arg for argument in arguments if argument.annotation is None and argument.arg not in ("self", "cls")]
            assert not bare, f"{node.name}: no annotation for {', '.join(bare)}"
            assert node.returns is not None, f"{node.name}: no return annotation"


PLUGIN_FILES = [path for path in FILES if path.parent.parent == ROOT and path.parent.name in PLUGINS and not path.name.startswith("_")]


@pytest.mark.parametrize("path", PLUGIN_FILES, ids=relative)
def test_plugin_registers(path: Path) -> None:
    """A plug-in file registers its public class and exports no other."""
    classes = [node for node in tree(path).body if isinstance(node, ast.ClassDef)]
    filed = [node.name for node in classes if any(".register(" in ast.unparse(mark) for mark in node.decorator_list)]
    public = [node.name for node in classes if not node.name.startswith("_")]
    assert filed and filed == public, f"registers {filed}, public classes {public}"


def registered() -> list[Any]:
    for info in pkgutil.iter_modules(flowkit.__path__):
        if info.name in PLUGINS:
            importlib.import_module(f"flowkit.{info.name}")
    kinds = {kind: registry for kind, registry in REGISTRIES.items() if kind != "data"}  # data sets may need a download
    return [pytest.param(registry[name], id=f"{kind}-{name}") for kind, registry in kinds.items() for name in registry]


@pytest.mark.parametrize("cls", registered())
def test_registered_has_examples(cls: Any) -> None:
    """Every registered class yields at least one labelled instance of itself, labels distinct."""
    labels = []
    for label, instance, *_ in cls.examples():
        assert isinstance(instance, cls)
        labels.append(label)
    assert labels and len(set(labels)) == len(labels) and all(isinstance(label, str) and label.isidentifier() for label in labels), labels


@pytest.mark.parametrize("cls", registered())
def test_arguments_are_stored(cls: Any) -> None:
    """Every constructor argument is annotated and kept under its own name."""
    _, instance, *_ = next(iter(cls.examples()))
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        if key != "self" and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            assert parameter.annotation is not parameter.empty, f"argument {key} has no annotation"
            assert hasattr(instance, key), f"argument {key} is not stored"


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_is_light() -> None:
    """``import flowkit`` loads no optional package and takes less than two seconds beyond torch."""
    code = (
        "import time, sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        "start = time.perf_counter(); import flowkit; took = time.perf_counter() - start\n"
        f"loaded = sorted({{name.split('.')[0] for name in set(sys.modules) - before}} & set({OPTIONAL!r}))\n"
        "sys.stdout.write(f'{took:.3f} {loaded}')"
    )
    took, loaded = min((_run(code).split(" ", 1) for _ in range(2)), key=lambda found: float(found[0]))
    assert loaded == "[]", f"import flowkit loads {loaded}"
    assert float(took) < 2.0, f"import flowkit takes {took} s beyond torch"


def test_import_changes_no_global() -> None:
    """Importing every package leaves torch's default dtype, threads, generator and validation flag as they were."""
    code = (
        "import sys, torch, pkgutil, importlib\n"
        "def state(): return (str(torch.get_default_dtype()), torch.get_num_threads(), torch.get_rng_state().sum().item(), "
        "torch.distributions.Distribution._validate_args, str(torch.get_default_device()))\n"
        "before = state()\n"
        "import flowkit\n"
        "after = state()\n"
        "sys.stdout.write('same' if before == after else f'{before} {after}')"
    )
    assert _run(code) == "same"
