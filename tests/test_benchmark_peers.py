"""The scripts of `benchmarks/peers`, without the environments they run in."""

import importlib.util
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import anndata
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from scipy import sparse

FOLDER = Path(__file__).parents[1] / "benchmarks" / "peers"
PACKAGES = {
    "biolord": "biolord",
    "cellflow": "cellflow-tools",
    "cpa": "cpa-tools",
    "scarches": "scarches",
    "scgen": "pertpy",
    "scvi": "scvi-tools",
}


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def environments():
    return load("environments")


@pytest.fixture(scope="module")
def files():
    return load("holdout_files")


@pytest.fixture
def holdout(tmp_path):
    """A hold-out file of 60 cells and 8 genes, and its cells."""
    rng = np.random.default_rng(0)
    obs = {
        "type": np.repeat(["a", "b", "c"], 20),
        "state": np.tile(["before", "after"], 30),
    }
    cells = anndata.AnnData(sparse.csr_matrix(rng.poisson(2.0, (60, 8)), dtype=np.float32), obs=obs)
    cells = cells[~((cells.obs["type"] == "c") & (cells.obs["state"] == "after"))].copy()
    cells.obs["predict_from"] = (cells.obs["type"] == "c").to_numpy()
    names = {"group_key": "type", "group": "c", "condition_key": "state", "source": "before", "target": "after"}
    cells.uns["holdout"] = {**names, "counts": True, "seed": 3}
    path = tmp_path / "holdout.h5ad"
    cells.write_h5ad(path)
    return path, cells


def test_every_peer_is_known(environments):
    assert sorted(PACKAGES) == environments.NAMES


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_metadata_states_python_and_the_package(environments, name):
    stated = environments.metadata(name)
    assert set(stated) == {"requires-python", "dependencies"}
    fits = [minor for minor in range(8, 20) if SpecifierSet(stated["requires-python"]).contains(f"3.{minor}.5")]
    assert len(fits) == 1, "one minor version, so that the pinned packages are those that were tried"
    requirements = {found.name: found for found in map(Requirement, stated["dependencies"])}
    assert [clause.operator for clause in requirements[PACKAGES[name]].specifier] == ["=="]


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_script_says_its_options_without_the_peer(name):
    # isolated from site-packages: whatever the script imports before it knows its options is in the standard library
    command = [sys.executable, "-S", str(FOLDER / f"peer_{name}.py"), "--help"]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "--sampled" in said.stdout
    assert "--iterations" in said.stdout or "--epochs" in said.stdout


@pytest.mark.parametrize("name", ["scgen", "cellflow"])
def test_no_draws_without_a_likelihood_of_counts(name, tmp_path):
    command = [sys.executable, str(FOLDER / f"peer_{name}.py"), "in.h5ad", "out.h5ad", "--sampled", "draws.h5ad"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 1
    assert "no likelihood of counts" in said.stderr


def test_unknown_peer(environments, tmp_path):
    with pytest.raises(environments.PeerError, match=r"Expected one of the peers biolord, .* found 'nothing'"):
        environments.predict("nothing", tmp_path / "in.h5ad", tmp_path / "out.h5ad")


def test_no_such_python(environments):
    with pytest.raises(
        environments.PeerError, match=r"Expected a Python ==3\.2\.\* on the PATH or in pyenv, found 3\."
    ):
        environments.interpreter("==3.2.*")


def test_this_python_is_found(environments):
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert environments.interpreter(f"=={version}.*") == sys.executable


@pytest.fixture
def own_peers(environments, tmp_path, monkeypatch):
    """Lets scripts in a folder of the test be peers."""
    monkeypatch.setattr(environments, "HERE", tmp_path)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "environments")
    monkeypatch.setattr(environments, "NAMES", ["mine"])

    def write(dependencies, code):
        python = f"=={sys.version_info.major}.{sys.version_info.minor}.*"
        head = f'# /// script\n# requires-python = "{python}"\n# dependencies = {dependencies}\n# ///\n'
        (tmp_path / "peer_mine.py").write_text(head + code)

    return write


def test_what_cannot_be_installed_is_said(environments, own_peers, tmp_path, monkeypatch):
    own_peers('["nothing"]', "")

    def without_network(python, dependencies):
        return [[python, "-m", "pip", "install", "--no-index", *dependencies]]

    monkeypatch.setattr(environments, "_installs", without_network)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(
        environments.PeerError, match=r"(?s)Environment of mine cannot be built: .* nothing.*No matching"
    ):
        environments.build("mine")
    assert not (tmp_path / "environments" / "mine" / environments.DONE).exists()


def test_script_without_metadata(environments, own_peers, tmp_path):
    own_peers("[]", "")
    (tmp_path / "peer_mine.py").write_text("print('hello')\n")
    with pytest.raises(environments.PeerError, match=r"`# /// script` in peer_mine\.py, found none"):
        environments.build("mine")


def test_predict_builds_once_and_hands_settings_on(environments, own_peers, tmp_path, monkeypatch):
    own_peers("[]", "import os, sys\nprint(sys.argv[3:], os.environ['OMP_NUM_THREADS'], sys.prefix)\n")
    monkeypatch.setattr(environments, "_installs", lambda python, dependencies: [])
    for _ in range(2):
        environments.predict(
            "mine", tmp_path / "a", tmp_path / "b.h5ad", threads=2, mmd_on="y", epochs=None, layers=[8, 4]
        )
    said = (tmp_path / "b.log").read_text()
    assert said.startswith("['--mmd-on', 'y', '--layers', '8', '4'] 2 ")
    assert str(tmp_path / "environments" / "mine") in said
    own_peers("[]", "raise SystemExit('no cells')\n")
    with pytest.raises(environments.PeerError, match=r"(?s)peer_mine\.py ended with 1, see .*b\.log:\nno cells"):
        environments.predict("mine", tmp_path / "a", tmp_path / "b.h5ad")


def test_holdout_is_read_and_normalised(files, holdout):
    path, cells = holdout
    read = files.read_holdout(path)
    assert (read.group, read.source, read.target, read.counts, read.seed) == ("c", "before", "after", True, 3)
    assert read.predict_from.obs_names.equals(cells.obs_names[cells.obs["predict_from"]])
    counts = cells.X.toarray()
    expected = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(read.log_normalised().cells.X.toarray(), expected, rtol=1e-5)
    np.testing.assert_array_equal(read.cells.X.toarray(), counts)
    read.counts = False
    assert read.log_normalised() is read


def test_prediction_is_written(files, holdout, tmp_path):
    source = files.read_holdout(holdout[0]).predict_from
    values = np.full(source.shape, -0.5)
    arguments = Namespace(epochs=2, holdout=Path("a"), prediction=Path("b"), sampled=None)
    told = {"arguments": arguments, "clock": files.Clock(), "version": "mine 1"}
    with told["clock"]("training"):
        pass
    files.write_prediction(tmp_path / "log.h5ad", values, source, log1p=True, **told)
    files.write_prediction(tmp_path / "own.h5ad", values, source, log1p=False, **told)
    in_log, own = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("log", "own"))
    assert in_log.uns["scale"] == "log1p"
    assert "scale" not in own.uns
    assert (in_log.X == 0).all()
    assert (own.X == -0.5).all()
    assert own.obs_names.equals(source.obs_names)
    assert own.var_names.equals(source.var_names)
    assert (own.uns["settings"], own.uns["version"]) == ("{'epochs': 2}", "mine 1")
    assert 0 < own.uns["seconds_training"] < 1
    assert own.uns["seconds_prediction"] == 0
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="found 1 that are not"):
        files.write_prediction(tmp_path / "nan.h5ad", values, source, log1p=True, **told)
    with pytest.raises(ValueError, match=r"one row a cell, found \(9, 8\)"):
        files.write_prediction(tmp_path / "few.h5ad", values[1:], source, log1p=True, **told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holdout.h5ad", "log.h5ad", "own.h5ad"]


def test_draws_have_the_moments_of_a_negative_binomial(files):
    means, dispersion = np.tile([0.5, 4.0], (40_000, 1)), np.array([0.7, 3.0])
    draws = files.draw_counts(means, dispersion, seed=1)
    np.testing.assert_allclose(draws.mean(axis=0), means[0], rtol=0.03)
    np.testing.assert_allclose(draws.var(axis=0), means[0] + means[0] ** 2 / dispersion, rtol=0.06)
