"""The import law of docs/adr/0001, and an import without weight."""

import ast
import functools
import subprocess
import sys

import pytest
from support import ROOT

pytestmark = pytest.mark.any_backend
PACKAGE = ROOT / "gnsmall_keras"
# Longest matching name wins; a package's own folder is its default.
LEVELS = {
    "lines": -0.2,
    "writing": -0.1,  # of files, whole or not at all
    "importing": 0,
    "child": 0,
    "cores": 0,
    "backend": 0,
    "quiet": 0.1,
    "registration": 0.1,  # names a module, imports it when asked
    "": 4.9,  # __init__ imports by name only, when asked
    "models.spec": 0,  # facts
    "models.catalogue": 0,
    "devices.targets": 0,
    "recipes": 0,
    "version": 0,
    "records.jsonl": 0,
    "records.provenance": 0,
    "fields": -1,  # rules of values
    "config": 0.4,  # values made of them
    "records": 0.5,
    "data": 1,
    "models": 1,
    "native": 1.5,
    "records.predictions": 1,
    "distill.divergences": 1,
    "distill.labels": 1,
    "distill.losses": 1,
    "training.optimizers.schedules": 1,
    "distill": 2,
    "training": 3,
    "export.graph": 3.5,  # the format of a file, read and written
    "export.operators": 3.5,
    "export.metadata": 3.5,
    "devices": 4,
    "quantization": 4,
    "export": 4.3,
    "sweeps": 4,
    "sweeps.plan": 0.7,  # what a file asks for: values made of configs
    "sweeps.contrasts": 0.7,
    "report": 4.4,
    "search": 4.5,  # what was found, with its files and its page
    "commands": 5,
    "cli": 5.5,
    "__main__": 6,
}
HEAVY = {
    "tensorflow",
    "tensorflow_model_optimization",
    "tf_keras",
    "jax",
    "torch",
    "papermill",
    "matplotlib",
    "ray",
}
# Where each heavy package may be imported, inside functions only.
ALLOWED = {
    ("tensorflow", "export.convert"),
    ("tensorflow", "quantization.post_training"),
    ("tensorflow", "quantization.tfmot_training"),
    ("tf_keras", "quantization.twin"),
    ("tf_keras", "quantization.tfmot_training"),
    ("tensorflow_model_optimization", "quantization.twin"),
    ("tensorflow_model_optimization", "quantization.tfmot_training"),
    ("torch", "models.torch.files"),
    ("tensorflow", "models.kernels"),
    ("jax", "models.kernels"),
    ("torch", "models.kernels"),
    ("tensorflow", "native.choice"),
    ("tensorflow", "native.on_tensorflow"),
    ("torch", "native.on_torch"),
    ("jax", "native.on_jax"),
    ("tensorflow", "distill.steps"),
    ("torch", "distill.steps"),
    ("tensorflow", "training.devices"),
    ("jax", "training.devices"),
    ("torch", "training.devices"),
    ("jax", "training.scan.canonical"),
    ("jax", "training.scan.images"),
    ("jax", "training.scan.loop"),
    ("jax", "training.scan.programs"),
    ("jax", "training.scan.single"),
    ("jax", "training.scan.together"),
    ("papermill", "sweeps.notebook"),
    ("papermill", "sweeps.worker"),
    ("ray", "sweeps.cluster"),
    ("ray", "sweeps.connection"),
    ("matplotlib", "report.figures.drawing"),
    ("matplotlib", "report.figures.labels"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def _name(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _level(name):
    while name not in LEVELS:
        name = name.rpartition(".")[0]
    return LEVELS[name]


@functools.cache
def _nodes(path):
    return [*ast.walk(ast.parse(path.read_text()))]


def _imports(path):
    for node in _nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_import_downwards(path):
    name = _name(path)
    for imported in _imports(path):
        root, _, rest = imported.partition(".")
        if root in HEAVY:
            assert (root, name) in ALLOWED, imported
        if root != "gnsmall_keras":
            continue
        target = rest
        while target and not (
            (PACKAGE / (target.replace(".", "/") + ".py")).is_file()
        ):
            target = target.rpartition(".")[0]
        target = target or rest
        folder, other = (module.partition(".")[0] for module in (name, target))
        assert _level(target) < _level(name) or (
            folder == other and _level(target) == _level(name)
        ), f"{name} (L{_level(name)}) imports {target} (L{_level(target)})"


@functools.cache
def _defined(path):
    """Names of a module's functions, classes and values, imported ones not."""
    return {
        node.name if hasattr(node, "name") else node.id
        for node in _nodes(path)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }


def test_names_are_imported_from_where_they_are_defined():
    scripts = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
    for path in [*MODULES, *scripts]:
        for node in _nodes(path):
            if not isinstance(node, ast.ImportFrom):
                continue
            name = (node.module or "").removeprefix("gnsmall_keras.")
            module = PACKAGE / (name.replace(".", "/") + ".py")
            if name != node.module and module.is_file():
                found = {alias.name for alias in node.names} - _defined(module)
                assert not found, f"{path} imports {found} from {name}"


def test_importing_the_package_loads_no_framework():
    code = (
        "import sys, gnsmall_keras; "
        f"print([name for name in {sorted(HEAVY | {'keras'})} "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import gnsmall_keras

    for name in gnsmall_keras.__all__:
        assert getattr(gnsmall_keras, name) is not None


def test_tab_offers_public_names_alone():
    import gnsmall_keras

    shown = {n for n in dir(gnsmall_keras) if not n.startswith("__")}
    assert shown == {*gnsmall_keras.__all__}


def test_editors_see_the_public_names():
    """What is imported for type checking is what is imported on use."""
    import gnsmall_keras

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {
        alias.asname: node.module.removeprefix("gnsmall_keras.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.count(".")
        for alias in node.names
    }
    seen.pop(None, None)  # imports inside functions
    assert seen == gnsmall_keras._PUBLIC
    assert (PACKAGE / "py.typed").is_file()


def test_unknown_name_is_an_attribute_error():
    import gnsmall_keras

    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = gnsmall_keras.distil


@pytest.mark.parametrize(
    "order",
    [
        "import keras, gnsmall_keras",
        pytest.param("import gnsmall_keras, keras", marks=pytest.mark.slow),
    ],
)
def test_keras_reads_the_package_s_files(order):
    code = (
        f"{order}; path = 'gnsmall_keras/weights/gns-w0.25-h320-cifar10.keras'"
        "; keras.models.load_model(path, compile=False)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
