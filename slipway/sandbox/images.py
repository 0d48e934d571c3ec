"""The base images of the sandbox: model servers without a model, and what places weights.

An image carries everything its process needs but the Python interpreter, its standard library and
system libraries, which the sandbox's container runtime gives to every container.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import slipway
from slipway.adapters.oci import ImageConfig, OciImageStore
from slipway.core.errors import PermanentError
from slipway.ports.models import Image
from slipway.sandbox.home import SandboxHome

SIMULATED = "slipway/simulated"
LLAMA_CPP = "slipway/llama-cpp"
WEIGHTS = "slipway/weights"
BACKUP = "slipway/backup"
BASE_TAG = "base"

_OWN_DISTRIBUTION = "slipway-llm"
_SERVER_FOLDER = "/opt/server"
_LLAMA_DISTRIBUTION = "xllamacpp"
_PACKAGES = ("", "core", "sandbox", "sandbox/servers")
_SHARED_MODULES = ("core/errors.py",)
_SIMULATED_MODULES = (
    "http1.py",
    "openai_api.py",
    "simulated.py",
    "simulated_behaviour.py",
    "simulated_metrics.py",
)
_LLAMA_MODULES = ("llama.py",)
_WEIGHTS_MODULES = (
    "__init__.py",
    "adapters/__init__.py",
    "adapters/model_manifest.py",
    "adapters/s3.py",
    "adapters/s3_api.py",
    "adapters/weights_volume/*.py",
    "core/*.py",
    "core/feasibility/*.py",
    "core/release/*.py",
    "files.py",
    "ports/*.py",
)
_BOTO = ("boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3")
_COMMAND_LINE = (
    "annotated-doc",
    "annotated-types",
    "pydantic",
    "pydantic-core",
    "shellingham",
    "typer",
    "typing-extensions",
    "typing-inspection",
)
_HASHES = ("blake3", "crc32c")  # a repository may name chunks by BLAKE3
_BOTO_SERVICES = frozenset({"s3", "sso", "sso-oidc", "sts"})  # of some 400: S3 and credentials
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # the kernel's name → Go's


def push_bases(home: SandboxHome) -> tuple[Image, ...]:
    """Push the images `…:base` of the model servers, and of what works on volumes.

    May be repeated; what is there is not sent again.

    Raises:
        PermanentError: the distribution `xllamacpp` is not installed, or the registry refuses.
        TransientError: the registry does not answer.
    """
    store = OciImageStore(f"http://127.0.0.1:{home.port('registry')}")
    return (
        push_simulated(store),
        push_llama_cpp(store),
        push_weights(store),
        push_backup(store),
    )


def push_simulated(store: OciImageStore) -> Image:
    """Push the image of the simulated server."""
    layers = (server_files(_SIMULATED_MODULES),)
    return store.push_image(SIMULATED, BASE_TAG, layers, _server_config("simulated"))


def push_llama_cpp(store: OciImageStore) -> Image:
    """Push the image of llama.cpp's server.

    Raises:
        PermanentError: the distribution `xllamacpp` is not installed.
    """
    layers = (_distribution_files(_LLAMA_DISTRIBUTION), server_files(_LLAMA_MODULES))
    return store.push_image(LLAMA_CPP, BASE_TAG, layers, _server_config("llama"))


def push_weights(store: OciImageStore) -> Image:
    """Push the image of the program that places weights on a volume.

    Raises:
        PermanentError: a distribution that it needs is not installed.
    """
    config = _config("slipway.adapters.weights_volume", "Slipway weights on a volume")
    return store.push_image(WEIGHTS, BASE_TAG, (boto_files(), weights_files()), config)


def push_backup(store: OciImageStore) -> Image:
    """Push the image of the command line, for Jobs that back up volumes.

    Raises:
        PermanentError: a distribution that it needs is not installed.
    """
    return store.push_image(BACKUP, BASE_TAG, backup_layers(), _config("slipway.cli", "Slipway"))


def backup_layers() -> tuple[Mapping[str, Path], ...]:
    """Return the layers of the command line's image, path in it → local file.

    Raises:
        PermanentError: a distribution that it needs is not installed.
    """
    packages = [_distribution_files(name) for name in (*_COMMAND_LINE, *_HASHES)]
    return (
        {inside: local for files in packages for inside, local in files.items()},
        boto_files(),
        command_line_files(),
    )


def command_line_files() -> dict[str, Path]:
    """Return Slipway's own files without the sandbox, and what states its version."""
    root = Path(slipway.__file__).parent
    found = {
        f"{_SERVER_FOLDER}/slipway/{path.relative_to(root)}": path
        for path in sorted(root.rglob("*.py"))
        if path.relative_to(root).parts[0] != "sandbox"
    }
    own = distribution(_OWN_DISTRIBUTION)
    for file in own.files or ():
        if file.name == "METADATA":
            found[f"{_SERVER_FOLDER}/{file}"] = Path(str(file.locate()))
    return found


def weights_files() -> dict[str, Path]:
    """Return Slipway's own files of the image that places weights, path in it → local file."""
    root = Path(slipway.__file__).parent
    found = sorted(path for pattern in _WEIGHTS_MODULES for path in root.glob(pattern))
    return {f"{_SERVER_FOLDER}/slipway/{path.relative_to(root)}": path for path in found}


def boto_files() -> dict[str, Path]:
    """Return the files of boto3 and what it needs, for S3 alone.

    Raises:
        PermanentError: one of the distributions is not installed.
    """
    found = {inside: local for name in _BOTO for inside, local in _distribution_files(name).items()}
    data = f"{_SERVER_FOLDER}/botocore/data/"
    return {
        inside: local
        for inside, local in found.items()
        if not inside.startswith(data)
        or "/" not in inside.removeprefix(data)
        or inside.removeprefix(data).split("/")[0] in _BOTO_SERVICES
    }


def simulated_files() -> Mapping[str, Path]:
    """Return all files of the simulated server's image, path in the image → local file."""
    return server_files(_SIMULATED_MODULES)


def llama_files() -> Mapping[str, Path]:
    """Return all files of the llama.cpp server's image, path in the image → local file.

    Raises:
        PermanentError: the distribution `xllamacpp` is not installed.
    """
    return {**_distribution_files(_LLAMA_DISTRIBUTION), **server_files(_LLAMA_MODULES)}


def server_files(modules: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of `slipway.sandbox.servers` modules with the packages around them."""
    sources = [f"{package}/__init__.py".lstrip("/") for package in _PACKAGES]
    sources += [*_SHARED_MODULES, *(f"sandbox/servers/{module}" for module in modules)]
    root = Path(slipway.__file__).parent
    return {f"{_SERVER_FOLDER}/slipway/{source}": root / source for source in sources}


def _distribution_files(name: str) -> dict[str, Path]:
    """Return the files of an installed distribution, without bytecode and installer's notes."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError as error:
        raise PermanentError(
            f"cannot make the sandbox's images: the distribution {name} is not installed",
            code="sandbox-extra-missing",
            hint="install Slipway with its sandbox: pip install 'slipway-llm[sandbox]'",
        ) from error
    return {
        f"{_SERVER_FOLDER}/{file}": Path(str(file.locate()))
        for file in files
        # RECORD, INSTALLER and the like differ between installers; the licence stays. Programs lie
        # outside of the packages' folder.
        if ".." not in file.parts
        and file.suffix != ".pyc"
        and (".dist-info" not in str(file) or "licenses" in file.parts)
    }


def _server_config(module: str) -> ImageConfig:
    return _config(f"slipway.sandbox.servers.{module}", f"Slipway model server: {module}")


def _config(module: str, title: str) -> ImageConfig:
    # -P: not the working directory; -s and -S: no installed packages, and 20 ms less to start.
    command = ("python3", "-P", "-s", "-S", "-B", "-m", module)
    machine = platform.machine()
    return ImageConfig(
        entrypoint=command,
        environment={"PYTHONPATH": _SERVER_FOLDER, "PYTHONUNBUFFERED": "1"},
        labels={"org.opencontainers.image.title": title},
        architecture=_ARCHITECTURES.get(machine, machine),
    )
