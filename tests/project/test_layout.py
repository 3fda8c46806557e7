"""The layout is the architecture: a package imports only from rows below its own, or itself."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import get_args

import lzero
from lzero.agent.agents import BUILT_IN as BUILT_IN_AGENTS
from lzero.algo.credit import built_in_estimators
from lzero.algo.loss import built_in_losses
from lzero.config import EngineConfig
from lzero.environments import BUILT_IN as BUILT_IN_ENVIRONMENTS
from lzero.tools.catalog import CATALOG

SOURCE = Path(lzero.__file__).parent
ROOT = Path(__file__).parents[2]
ROWS = {
    "__init__": 8,
    "cli": 7,
    "train": 6,
    "eval": 5,
    "plan": 5,
    "rollout": 4,
    "agent": 3,
    **dict.fromkeys(("engine", "environments"), 2),
    **dict.fromkeys(("repl", "tools", "rewards", "algo", "data", "view"), 1),
    **dict.fromkeys(
        (
            "apart",
            "blocking",
            "closing",
            "types",
            "protocols",
            "errors",
            "extras",
            "launch",
            "config",
            "seeds",
            "text",
            "visible",
            "marking",
            "json_bounds",
            "json_repair",
            "bounded_toml",
            "store",
            "models",
            "model_files",
            "model_reach",
            "paths",
            "serving",
            "temporary",
            "threads",
            "turns",
            "plugins",
        ),
        0,
    ),
}
MAY_IMPORT_TORCH = (
    "models.py",
    "threads.py",
    "algo/trajectories.py",
    "algo/batches.py",
    "algo/kl.py",
    "algo/lag.py",
    "algo/logprobs.py",
    "algo/metrics.py",
    "algo/loss",
    "engine/local/",
    "plan/measure.py",
    "train/",
)
CALLED = {"zmq": "pyzmq", "bs4": "beautifulsoup4", "PIL": "pillow", "pptx": "python-pptx"}
"""Libraries that are imported by another name than they are installed by."""
STARTED = {"ipykernel"}
"""Libraries that are started as a program, and imported by nobody."""
NEEDED_BY_OTHERS = {"accelerate", "gguf", "lxml-html-clean", "tensorboard"}
"""Libraries that one of ours imports, and does not always bring."""
BESIDE_VLLM = SOURCE / "train" / "transfer" / "nccl.py"
"""The only module outside the plug-in that imports vLLM. lzero does not require it: it is installed into vLLM's environment for this."""
FOR_TESTS = ("dev", "reference")
"""Extras that no module of ours imports from."""
IN_THE_JAIL = SOURCE / "repl" / "inside"
IN_THE_CONVERTER = SOURCE / "tools" / "inside"
"""A program that is started beside the host: its modules import each other by their bare names."""
IN_VLLM = SOURCE / "engine" / "vllm" / "plugin"
"""A plug-in that vLLM's processes import, in an environment of their own."""
IN_SESSION = SOURCE / "agent" / "in_session"
"""Texts that are run in sessions, and imported by tests only."""


def modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if not {IN_THE_JAIL, IN_VLLM} & set(path.parents))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def test_tests_mirror_the_packages() -> None:
    folders = {path.parent.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    assert folders - {"."} == packages | {"security", "project", "gpu"}


def test_every_module_has_a_row() -> None:
    assert {room(path) for path in modules()} <= set(ROWS)


def test_a_package_imports_only_from_rows_below_or_itself() -> None:
    wrong = []
    for path in modules():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "lzero" or len(parts) < 2 or parts[1] == "__version__":
                continue
            own, other = room(path), parts[1]
            if own != other and not ROWS[other] < ROWS[own] and not (ROWS[own] == ROWS[other] == 0):
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_what_runs_and_trains_names_no_kind_of_anything() -> None:
    """A new engine, environment, agent, estimator, loss or tool is a new file: nothing that uses one knows any by its name."""
    plugged = {*BUILT_IN_ENVIRONMENTS, *BUILT_IN_AGENTS, *built_in_estimators(), *built_in_losses(), *CATALOG}
    plugged |= {kind.model_fields["kind"].default for kind in get_args(get_args(EngineConfig)[0])}
    assert {"local", "search", "nb", "grpo", "ppo", "web_search"} <= plugged
    homes: tuple[str, ...] = (
        "lzero.environments.",
        "lzero.algo.estimators.",
        "lzero.algo.losses.",
        "lzero.agent.nb_agent",
    )
    homes += tuple(f"lzero.engine.{kind}" for kind in ("local", "chat", "scripted", "vllm", "sglang"))
    wrong = []
    for path in (*(SOURCE / "train").rglob("*.py"), *(SOURCE / "rollout").rglob("*.py"), SOURCE / "config/reading.py"):
        wrong += [f"{path}: imports {name}" for name in imports(path) if name.startswith(homes)]
        texts = (node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant))
        wrong += [f"{path}: {text!r}" for text in texts if isinstance(text, str) and text in plugged - {"none"}]
    assert not wrong, "\n".join(wrong)


def test_torch_stays_in_its_rooms() -> None:
    wrong = [
        str(path.relative_to(SOURCE))
        for path in modules()
        if any(name.split(".")[0] == "torch" for name in imports(path))
        and not str(path.relative_to(SOURCE)).startswith(MAY_IMPORT_TORCH)
    ]
    assert not wrong, wrong


def test_what_hostile_code_and_bytes_are_given_to_imports_nothing_of_the_host() -> None:
    wrong = [
        f"{path}: {name}"
        for path in (*IN_THE_JAIL.rglob("*.py"), *IN_THE_CONVERTER.glob("*.py"))
        for name in imports(path)
        if name.split(".")[0] == "lzero"
    ]
    assert not wrong, wrong


def test_every_library_that_is_used_is_declared_and_has_its_reason_in_the_design() -> None:
    with_vllm = [path for path in modules() if any(name.partition(".")[0] == "vllm" for name in imports(path))]
    assert with_vllm == [BESIDE_VLLM]
    top_level = {name.partition(".")[0] for path in modules() for name in imports(path)} - {"vllm"}
    own = {"lzero", *(path.stem for path in (*IN_THE_CONVERTER.glob("*.py"), *IN_THE_JAIL.glob("*.py")))}
    used = {CALLED.get(name, name.replace("_", "-")) for name in top_level - sys.stdlib_module_names - own}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra not in FOR_TESTS]
    declared = {re.split("[<>=~!]", name)[0] for name in [*project["dependencies"], *chain(*extras)]}
    assert used == declared - STARTED - NEEDED_BY_OTHERS
    _, _, section = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").partition("| library | for |")
    assert declared == set(re.findall(r"^\| ([a-z0-9-]+) \|", section, re.MULTILINE))


def test_nothing_unpickles_or_evaluates_on_the_host() -> None:
    wrong = []
    for path in (path for path in modules() if IN_SESSION not in path.parents):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if calls & {"eval", "exec"} or any(
            name.split(".")[0] in {"pickle", "dill", "marshal"} for name in imports(path)
        ):
            wrong.append(str(path))
    assert not wrong, wrong


def test_help_loads_no_torch() -> None:
    code = "import sys; from lzero.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
