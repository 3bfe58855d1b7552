"""How well `assess` foretells the skill of predictions, and whether what it recommends is worth following.

    python benchmarks/assessment.py

simulates cells whose types respond alike, and cells whose types respond each in its own way; hides one type under the
stimulus, asks `assess` about it, which trains without it, and then predicts and scores it. Of the data sets in
`benchmarks/results/contexts_*.csv` every hold-out is foretold from the rows of the other groups: their models were not
trained anew without the group, so that its cells had a part in these. Writes `benchmarks/results/assessment.{csv,md}`.

    python benchmarks/assessment.py --quick kang croconet

trains half as long, as `trvae-scvi assess --quick` does, and writes what that loses to `assessment_quick.md`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import scvi
from data_sets import DATA_SETS
from kang import HERE, markdown

import trvae_scvi as tv
from trvae_scvi.benchmark import (
    BASELINES,
    VERDICTS,
    HoldOut,
    TRVAEMethod,
    assess,
    holdout_skills,
    leave_one_group_out,
)
from trvae_scvi.train._training import default_epochs

RESULTS = HERE / "results"
KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
SIMULATED = {"types respond alike": False, "each type in its own way": True}
HIDDEN = "type_1"
EPOCHS = 150  # of the 400 by default, as there are six trainings to each of ten simulations


def foretold(found: tv.benchmark.Assessment, real: pd.DataFrame) -> dict:
    """What was expected of trVAE beside its skill, and the skills of what was recommended and of others."""
    skills = holdout_skills(real).groupby("method")["skill"].mean().fillna(0.0)
    own = skills[[name for name in skills.index if name == "trVAE" or name in BASELINES]]
    row = found.expected.loc["trVAE", ["skill", "lower", "upper"]].to_dict()
    return {
        "group": found.group,
        "target": found.target,
        "verdict": found.verdict,
        "recommended": found.recommended,
        "expected": row["skill"],
        "lower": row["lower"],
        "upper": row["upper"],
        "realised": own["trVAE"],
        "of_recommended": own[found.recommended],
        "of_best": own.max(),
        "of_mean_shift": own["mean shift"],
        "of_no_change": own["no change"],
        "share": realised_shares(real)[found.recommended],
        "share_of_best": realised_shares(real).drop("noise ceiling").max(),
        "effect_p": real["effect_p"].iloc[0],
    }


def realised_shares(real: pd.DataFrame) -> pd.Series:
    """Shares of the change of means that methods predicted, of what the ceiling reaches; NaN if it is no better."""
    rows = real[(real["genes"] == "all") & (real["metric"] == "mse_means")]
    value = rows.groupby("method")["value"].mean()
    room = value["no change"] - value["noise ceiling"]
    return (value["no change"] - value) / (room if room > 0 else float("nan"))


def simulated(seeds: list[int]) -> list[dict]:
    """One hidden type of every simulation, never seen by what foretells it."""
    rows = []
    for title, type_specific in SIMULATED.items():
        for seed in seeds:
            scvi.settings.seed = seed
            adata = tv.datasets.simulate_perturbation(
                n_cells=2000, n_genes=300, n_types=6, type_specific=type_specific, seed=seed
            ).adata
            methods = {"trVAE": tv.benchmark.TRVAEMethod(train_kwargs={"max_epochs": EPOCHS})}
            found = assess(adata, group=HIDDEN, target="stimulated", methods=methods, progress_bar=False, **KEYS)
            real = leave_one_group_out(adata, groups=[HIDDEN], methods=methods, progress_bar=False, **KEYS)
            rows.append({"data": title, "seed": seed, **foretold(found, real)})
            print(rows[-1], flush=True)
    return rows


def tabulated(name: str, path: Path) -> list[dict]:
    """Every hold-out of a data set that was scored, from the rows of the other groups."""
    table, data = pd.read_csv(path), DATA_SETS[name]
    table["note"] = table["note"].fillna("")
    table = table[table["method"].isin(["trVAE", "noise ceiling", *BASELINES])]
    adata, rows = data.read(), []
    keys = {"group_key": data.keys["group_key"], "condition_key": data.keys["condition_key"]}
    for (group, target), real in table.groupby(["group", "target"], sort=False):
        try:
            found = assess(
                adata,
                group=str(group),
                target=str(target),
                control=data.keys["control"],
                table=table,
                counts=data.counts,
                **keys,
            )
        except ValueError as error:  # too few groups
            print(name, group, target, error, flush=True)
            continue
        rows.append({"data": name, "seed": 0, **foretold(found, real)})
    return rows


@dataclass(frozen=True)
class HalfTRVAE(TRVAEMethod):
    """Trains half as long as by default."""

    def fit(self, holdout: HoldOut) -> tv.TRVAE:
        """Train."""
        epochs = max(1, default_epochs(holdout.training.n_obs) // 2)
        return TRVAEMethod(self.model_kwargs, {"max_epochs": epochs}).fit(holdout)


def halved(names: list[str]) -> pd.DataFrame:
    """Headline skill of trVAE by hold-out, trained by default (from the published rows) and half as long, one seed."""
    rows = []
    for name in names:
        data, path = DATA_SETS[name], RESULTS / f"contexts_{name}.csv"
        published = pd.read_csv(path)
        published = published[(published["method"] == "trVAE") & (published["seed"] == 0)]
        asked = {"groups": data.groups, "targets": data.targets, "counts": data.counts, "progress_bar": False}
        model = {} if data.counts else {"gene_likelihood": "mse"}
        table = leave_one_group_out(data.read(), methods={"half": HalfTRVAE(model)}, **data.keys, **asked)
        both = {"full": published, "half": table[table["method"] == "half"]}
        skills = {kind: holdout_skills(part).set_index(["group", "target"])["skill"] for kind, part in both.items()}
        rows.append(pd.DataFrame(skills).fillna(0.0).mean().rename(name))
        print(rows[-1], flush=True)
    return pd.DataFrame(rows).assign(lost=lambda table: table["full"] - table["half"]).rename_axis("data")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row a data set, and all together."""
    table = table.assign(
        covered=(table["lower"] <= table["realised"]) & (table["realised"] <= table["upper"]),
        width=table["upper"] - table["lower"],
    )
    columns = ["expected", "realised", "covered", "width", "of_recommended", "of_best", "of_mean_shift", "of_no_change"]
    means = table.groupby("data", sort=False)[columns].mean()
    means.loc["all"] = table[columns].astype(float).mean()
    means.insert(0, "hold-outs", [*table.groupby("data", sort=False).size(), len(table)])
    return means.rename_axis("data")


def by_verdict(table: pd.DataFrame) -> pd.DataFrame:
    """What came after each verdict: shares of the change of means that were predicted."""
    table = table[~table["data"].isin(SIMULATED)]
    changed = (table["effect_p"] < 0.05).groupby(table["verdict"]).mean()
    # of what does not change there is no share
    table = table[(table["effect_p"] < 0.05) & table["share_of_best"].notna()]
    kinds = {"share": "the recommended method", "share_of_best": "the best method in hindsight"}
    halves = {name: (table[name] >= 0.5).groupby(table["verdict"]).mean() for name in kinds}
    by = table.groupby("verdict")
    columns = {"cells that changed": changed, "changed hold-outs": by.size()}
    columns |= {f"median share by {kind}": by[name].median() for name, kind in kinds.items()}
    columns |= {f"half or more by {kind}": halves[name] for name, kind in kinds.items()}
    return pd.DataFrame(columns).reindex([name for name in VERDICTS if name in set(table["verdict"])])


def main() -> None:
    """Foretell, score, and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--quick", nargs="+", choices=DATA_SETS, help="these data sets, trained half as long, alone")
    parser.add_argument("--only-tables", action="store_true", help="keep the simulations that were done")
    arguments = parser.parse_args()
    if arguments.quick:
        (RESULTS / "assessment_quick.md").write_text(f"{markdown(halved(arguments.quick))}\n")
        return
    path = RESULTS / "assessment.csv"
    if arguments.only_tables:
        kept = pd.read_csv(path)
        rows = kept[kept["data"].isin(SIMULATED)].to_dict("records")
    else:
        rows = simulated(arguments.seeds)
    for name in DATA_SETS:
        scores = RESULTS / f"contexts_{name}.csv"
        if scores.exists():
            rows += tabulated(name, scores)
    table = pd.DataFrame(rows)
    table.to_csv(path, index=False, float_format="%.4g")
    verdicts = pd.crosstab(table["data"], table["verdict"]).reindex(table["data"].unique()).rename_axis("data")
    parts = [
        "trVAE's headline skill, expected (the mean of the other groups, so that it agrees with the realised one in "
        "the mean over a data set) and realised, intervals of 80 %, and the skill of what was recommended, of the best "
        "method in hindsight and of two fixed ones",
        markdown(summary(table)),
        "Verdicts",
        markdown(verdicts),
        "What came after each verdict on the data sets: shares of the change of means that were predicted",
        markdown(by_verdict(table).rename_axis("verdict")),
    ]
    path.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
