"""Build the environment that a peer needs, and run the peer in it.

    python benchmarks/peers/environments.py build scarches
    python benchmarks/peers/environments.py run scarches holdout.h5ad prediction.h5ad --recon-loss mse

Each peer is a script `peer_NAME.py` here, which states its Python and its packages in inline metadata (PEP 723). Its
environment is made with `venv` and pip in `benchmarks/runs/environments/NAME`, with a Python of that version that is on
the PATH or of pyenv, and is made anew when what the script states has changed. From Python, :func:`predict` does both.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.specifiers import SpecifierSet

HERE = Path(__file__).parent
FOLDER = HERE.parent / "runs" / "environments"
NAMES = sorted(path.stem.removeprefix("peer_") for path in HERE.glob("peer_*.py"))
DONE = "built_from.txt"
LAST_LINES = 15


class PeerError(RuntimeError):
    """An environment that cannot be built, or a script that failed in it."""


def script(name: str) -> Path:
    """The script of a peer."""
    if name not in NAMES:
        raise PeerError(f"Expected one of the peers {', '.join(NAMES)}, found {name!r}.")
    return HERE / f"peer_{name}.py"


def metadata(name: str) -> dict:
    """What the script states in its inline metadata: `requires-python` and `dependencies`."""
    block = re.search(r"^# /// script\n((?:#(?: .*)?\n)+?)# ///$", script(name).read_text(), flags=re.MULTILINE)
    if block is None:
        raise PeerError(f"Expected a comment block `# /// script` in {script(name).name}, found none.")
    return tomllib.loads("\n".join(line[2:] for line in block[1].splitlines()))


def interpreter(wanted: str) -> str:
    """A Python whose version fits a specifier such as ``==3.12.*``."""
    found = {}
    for path in _interpreters():
        answer = subprocess.run(
            [path, "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
        )
        if answer.returncode == 0:  # a shim of pyenv fails where its version is not chosen
            found[answer.stdout.strip()] = path
            if SpecifierSet(wanted).contains(answer.stdout.strip()):
                return path
    msg = (
        f"Expected a Python {wanted} on the PATH or in pyenv, found {', '.join(sorted(found)) or 'none'}. Install one."
    )
    raise PeerError(msg)


def build(name: str) -> Path:
    """Make the environment of a peer unless it is there; gives the path of its Python."""
    stated, folder = metadata(name), FOLDER / name
    python, done = folder / "bin" / "python", folder / DONE
    text = "\n".join([stated["requires-python"], *stated["dependencies"]]) + "\n"
    if done.exists() and done.read_text() == text:
        return python
    base = interpreter(stated["requires-python"])
    print(f"Building {folder.name} with {base}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in [[base, "-m", "venv", str(folder)], *_installs(str(python), stated["dependencies"])]:
        # together, as pip says in one that it failed and in the other why
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if ended.returncode:
            what = f"Environment of {name} cannot be built: `{' '.join(command)}` ended with {ended.returncode}"
            raise PeerError(f"{what}.\n{_last_lines(ended.stdout)}")
    done.write_text(text)  # last, so that what was interrupted is made anew
    return python


def predict(name: str, holdout: Path, prediction: Path, *, threads: int = 1, **settings: object) -> None:
    """Run a peer on a hold-out file; it writes the prediction file.

    Parameters
    ----------
    name
        The peer, one of `NAMES`.
    holdout
        File with the training cells.
    prediction
        File to write. What the script prints goes to the same name with the suffix ``.log``.
    threads
        Threads that it may use.
    settings
        Options of its command line, with underscores for dashes: ``recon_loss="mse"``. Those that are `None` are left
        out.
    """
    command = [str(build(name)), str(script(name)), str(holdout), str(prediction)]
    for key, value in settings.items():
        if value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            command += [f"--{key.replace('_', '-')}", *map(str, values)]
    log = Path(prediction).with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=_few_threads(threads))
    if ended.returncode:
        what = f"{script(name).name} ended with {ended.returncode}, see {log}"
        raise PeerError(f"{what}:\n{_last_lines(log.read_text())}")


def _installs(python: str, dependencies: list[str]) -> list[list[str]]:
    """Commands that install the packages; pip itself first, as an old one takes very long to choose versions."""
    pip = [python, "-m", "pip", "install"]
    return [[*pip, "--upgrade", "pip"], [*pip, *dependencies]]


def _interpreters() -> Iterator[str]:
    """Pythons that may be there: this one, those on the PATH, those of pyenv."""
    yield sys.executable
    for minor in range(8, 20):
        path = shutil.which(f"python3.{minor}")
        if path:
            yield path
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        yield from map(str, sorted(Path(root, "versions").glob("3.*/bin/python")))


def _few_threads(threads: int) -> dict[str, str]:
    """Environment variables in which torch, BLAS, numba and JAX keep to so many threads."""
    told = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    if threads == 1:
        told["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    without = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return without | told | {"PYTHONNOUSERSITE": "1", "TQDM_DISABLE": "1"}


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


def main() -> None:
    """Build or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="make environments")
    building.add_argument("names", nargs="+", choices=[*NAMES, "all"])
    running = commands.add_parser("run", help="run a peer, with its own options after the two files")
    running.add_argument("name", choices=NAMES)
    running.add_argument("options", nargs=argparse.REMAINDER, help="holdout.h5ad prediction.h5ad [options]")
    arguments = parser.parse_args()
    try:
        if arguments.command == "build":
            for name in NAMES if "all" in arguments.names else arguments.names:
                build(name)
        else:
            command = [str(build(arguments.name)), str(script(arguments.name)), *arguments.options]
            sys.exit(subprocess.run(command, env=_few_threads(1)).returncode)
    except PeerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
