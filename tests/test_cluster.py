"""Hold-outs on what joblib is told to run them on."""

from __future__ import annotations

import os

import joblib
import pandas as pd
import pytest
from joblib.parallel import LokyBackend

import trvae_scvi as tv
from trvae_scvi.benchmark import TRVAEMethod, leave_one_group_out

FAST = {
    "group_key": "cell_type",
    "control": "control",
    "n_top_genes": 5,
    "metrics": ["mse_means", "pearson_change"],
    "progress_bar": False,
}
SHORT = TRVAEMethod(model_kwargs={"n_hidden": 16}, train_kwargs={"max_epochs": 2, "accelerator": "cpu"})


@pytest.fixture(scope="module")
def cells():
    return tv.datasets.simulate_perturbation(160, 20, n_types=2, seed=1).adata


def scores(cells, method, **arguments):
    table = leave_one_group_out(cells, methods={"method": method}, **FAST, **arguments)
    return table.drop(columns="seconds")


def test_a_dask_cluster_gives_the_table_of_one_process(cells, tmp_path, one_thread):
    distributed = pytest.importorskip("distributed")

    def recorded(holdout):
        (tmp_path / f"{holdout.group}_{os.getpid()}").touch()
        return SHORT(holdout)

    expected = scores(cells, SHORT, n_jobs=1)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = set(client.run(os.getpid).values())
        with joblib.parallel_config(backend="dask"):
            table = scores(cells, recorded)
    pd.testing.assert_frame_equal(table, expected)
    groups, processes = zip(*(path.name.rsplit("_", 1) for path in tmp_path.iterdir()), strict=True)
    assert sorted(groups) == ["type_1", "type_2"]
    assert {int(process) for process in processes} <= workers
    assert len(workers) == 2


def test_processes_are_those_of_the_context_unless_a_number_is_given(cells, tmp_path):
    def recorded(holdout):
        (tmp_path / str(os.getpid())).touch()
        return holdout.control

    with joblib.parallel_config(backend="loky", n_jobs=2):
        table = scores(cells, recorded)
        assert str(os.getpid()) not in os.listdir(tmp_path)
        pd.testing.assert_frame_equal(scores(cells, recorded, n_jobs=1), table)
    assert str(os.getpid()) in os.listdir(tmp_path)


def test_a_backend_may_give_all_tables_at_the_end(cells):
    class AtTheEnd(LokyBackend):
        supports_return_generator = False

    def unchanged(holdout):
        return holdout.control

    with joblib.parallel_config(backend=AtTheEnd(), n_jobs=2):
        table = scores(cells, unchanged)
    pd.testing.assert_frame_equal(table, scores(cells, unchanged))
