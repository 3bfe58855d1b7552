"""How long it takes from the README to a plot: its code, statement by statement, on a file of 5,000 cells.

    python benchmarks/clock.py

draws 5,000 cells of `kang_pbmc_labeled_counts.h5ad`, which lies in the folder in the environment variable
TRVAE_SCVI_DATA, and leaves the stimulated NK cells out. Training has its default length. Writes
`benchmarks/results/clock.md` with the seconds of every statement and the machine.
"""

from __future__ import annotations

import ast
import os
import platform
import re
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
from files import data_file

HERE = Path(__file__).parent
N_CELLS = 5000


def write_cells(path: Path) -> None:
    """A file as a user has one: raw counts of all genes, conditions and types."""
    adata = anndata.read_h5ad(data_file("kang_pbmc_labeled_counts.h5ad"))
    hidden = (adata.obs["cell_type"] == "NK") & (adata.obs["condition"] == "stimulated")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~hidden.to_numpy()))[:N_CELLS]
    adata[np.sort(rows)].copy().write_h5ad(path)


def timed(code: str, names: dict) -> list[tuple[str, float]]:
    """Every statement with the seconds it took."""
    found = []
    for statement in ast.parse(code).body:
        text = ast.get_source_segment(code, statement) or ""
        start = time.perf_counter()
        exec(compile(ast.Module([statement], []), "README.md", "exec"), names)
        found.append((text.splitlines()[0], time.perf_counter() - start))
    return found


def main() -> None:
    """Time the README's first block, which ends with a saved model."""
    readme = (HERE.parent / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)[0]
    os.environ["MPLBACKEND"] = "agg"
    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        write_cells(Path(folder) / "my_cells.h5ad")
        os.chdir(folder)
        try:
            steps = timed(code, {})
        finally:
            os.chdir(home)
    lines = ["| statement | seconds |", "|---|---:|"]
    lines += [f"| `{text}` | {seconds:.1f} |" for text, seconds in steps if seconds >= 0.05]
    lines.append(f"| in all | {sum(seconds for _, seconds in steps):.0f} |")
    cores = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    machine = f"{N_CELLS:,} cells, {cores} cores of {_processor()}, Python {platform.python_version()}"
    (HERE / "results" / "clock.md").write_text(f"{machine}\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


def _processor() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
