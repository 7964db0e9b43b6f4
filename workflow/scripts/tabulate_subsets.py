"""MAE by number of training rows and the improvement over the network that starts from scratch, beside the paper's."""

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import power_law, spread, summarise
from matpretrain.subsets import FULL
from matpretrain.tables import printed

COLUMNS = [
    "dataset", "model", "size", "train_rows", "mae_mean", "mae_std", "n_folds", "n_seeds", "exponent", "improvement",
    "improvement_std", "structures", "paper_improvement",
]  # fmt: skip
MEAN = "mean"  # in place of a size: the mean over all but FULL


def improvements(of, over):
    """Improvement in % of the mean of MAEs [k] over that of other MAEs [k] of the same folds, and its population standard
    deviation over the folds (statistics.spread)."""
    return 100 * (1 - of.mean() / over.mean()), spread(100 * (1 - of / over))


def our_rows(scores, reference):
    """One row per run, and one per dataset and model for its mean improvement over the sizes but FULL.

    Args:
        scores: data frame dataset, model, size, train_rows, seed, fold, mae, structures.
        reference: the model that the others are compared with.
    """
    runs = scores.groupby(["dataset", "model", "size"], sort=False)
    folds = {run: part.groupby("fold")["mae"].mean() for run, part in runs}
    rows = []
    for (dataset, model, size), part in runs:
        first = part.iloc[0]
        row = {"dataset": dataset, "model": model, "size": size, "train_rows": round(part["train_rows"].mean())}
        row |= {**summarise(part), "structures": first["structures"]}
        if model != reference and (dataset, reference, size) in folds:
            row["improvement"], row["improvement_std"] = improvements(
                folds[dataset, model, size], folds[dataset, reference, size]
            )
        rows.append(row)
    table = pd.DataFrame(rows)
    exponents = {run: power_law(part["train_rows"], part["mae_mean"])[0] for run, part in table.groupby(["dataset", "model"])}
    table["exponent"] = [exponents[run] for run in zip(table["dataset"], table["model"], strict=True)]
    table = table.reindex(columns=COLUMNS[:-1])
    subsets = table[(table["size"] != FULL) & table["improvement"].notna()]
    means = subsets.groupby(["dataset", "model"], as_index=False, sort=False)["improvement"].mean()
    return pd.concat([table, means.assign(size=MEAN)], ignore_index=True) if len(means) else table


def tabulate(ours, paper):
    """Our rows with the printed improvement; grouped by dataset and model."""
    table = ours.merge(paper[["dataset", "model", "size", "paper_improvement"]], on=["dataset", "model", "size"], how="left")
    ranks = {c: {name: i for i, name in enumerate(dict.fromkeys(table[c]))} for c in ("dataset", "model", "size")}
    table = table.sort_values(list(ranks), key=lambda c: c.map(ranks[c.name]), kind="stable")
    return table[COLUMNS].astype(dict.fromkeys(("train_rows", "n_folds", "n_seeds"), "Int64"))


if __name__ == "__main__":
    with job(snakemake):
        scores = read_csv(snakemake.input.scores, dtype={"size": str})
        paper = printed(snakemake.input.paper, snakemake.params.official, dtype={"size": str})
        write_csv(tabulate(our_rows(scores, snakemake.params.reference), paper), snakemake.output[0])
