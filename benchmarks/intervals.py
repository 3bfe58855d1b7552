"""How often intervals of predicted changes hold in groups that had no part in their calibration.

    python benchmarks/intervals.py --data kang papalexi

holds every group of a data set out under every target, predicts it with trVAE's defaults (with the models of
`contexts.py` where they are there), and keeps the predicted and the real change of every gene in
`benchmarks/runs/intervals`. The intervals of each hold-out are then calibrated on those of the other groups and scored
on it, beside rules without calibration. The models of the other groups had cells of the scored one among theirs: only
the calibration is kept apart. Writes `benchmarks/results/intervals.{csv,md}` for all data sets that have been run.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace

import pandas as pd
from data_sets import DATA_SETS
from kang import HERE, markdown
from saved import SavedTRVAE

from trvae_scvi.benchmark import ModelError, coverage_table, fit_model_error
from trvae_scvi.benchmark._runner import held_out

RUNS, RESULTS = HERE / "runs" / "intervals", HERE / "results"
DEFAULT = ModelError(floor=0.006, share=0.37)
LEAST = 0.75
CASES = {name: replace(data, groups=None) for name, data in DATA_SETS.items() if name != "kang_public"}
# nine targets and three lines are an hour
CASES["mcfaline"] = replace(CASES["mcfaline"], targets=("MAP2K3", "MAP2K6", "MAP3K21", "MAPK1"))
CASES["kang, donors"] = replace(DATA_SETS["kang"], title="Kang et al. 2018, donors", group_key="patient", groups=None)


def changes_of(name: str) -> dict:
    """Predicted and real changes by group and target; computed where they are not there."""
    data = CASES[name]
    folder = RUNS.parent / "contexts" / name / "models"
    method = SavedTRVAE({} if data.counts else {"gene_likelihood": "mse"}, folder=str(folder))
    run = held_out(
        data.read(),
        methods={"trVAE": method},
        targets=data.targets,
        counts=data.counts,
        metrics=["mse_means"],
        out=RUNS / name.replace(", ", "_"),
        progress_bar=False,
        **data.keys,
    )
    return {(str(group), str(target)): table for (group, target, _), table in run.changes["trVAE"].items()}


def scored(changes: dict, *, counts: bool) -> pd.DataFrame:
    """Coverage, width and score of every hold-out under every rule."""
    frames = []
    for (group, target), own in changes.items():
        others = {key: table for key, table in changes.items() if key[0] != group}
        rules = {"calibrated": fitted(others), "sampling alone": ModelError(0.0, 0.0)}
        same = {key: table for key, table in others.items() if key[1] == target}
        if len(same) < len(others):
            rules["calibrated, same target"] = fitted(same)
        if counts:
            rules["default"] = DEFAULT
        for rule, error in rules.items():
            frames.append(coverage_table({group: own}, error).assign(target=target, rule=rule))
    return pd.concat(frames, ignore_index=True)


def fitted(changes: dict) -> ModelError:
    """Without the warning of few groups, which the table tells."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The intervals rest on")
        return fit_model_error(list(changes.values()), groups=[group for group, _ in changes])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a data set and rule."""
    table = table.assign(missed=table["coverage"] < LEAST)
    by_rule = table.groupby(["data", "rule", "genes"], sort=False)
    wide = by_rule[["coverage", "missed", "mean_width", "score"]].mean().unstack("genes")
    wide.columns = [f"{name}, {genes} genes" for name, genes in wide.columns]
    wide = wide.rename(columns=lambda name: name.replace("missed", f"below {LEAST}").replace("mean_width", "width"))
    n = table.drop_duplicates(["data", "group", "target"]).groupby("data").size()
    wide.insert(0, "hold-outs", [n[data] for data, _ in wide.index])
    wide.index = pd.Index([f"{data}: {rule}" for data, rule in wide.index], name="intervals of 90 %")
    return wide


def main() -> None:
    """Run what is asked for, and write all there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=list(CASES), choices=CASES)
    path = RESULTS / "intervals.csv"
    earlier = pd.read_csv(path) if path.exists() else pd.DataFrame({"data": []})
    for name in parser.parse_args().data:
        changes = changes_of(name)
        table = scored(changes, counts=CASES[name].counts).assign(data=name)
        earlier = pd.concat([earlier[earlier["data"] != name], table], ignore_index=True)
        earlier.to_csv(path, index=False, float_format="%.4g")
    path.with_suffix(".md").write_text(f"{markdown(summary(earlier))}\n")
    print(summary(earlier).round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
