"""Table 4 of Huang, Magar and Barati Farimani (2024): what pretraining is worth, by paired tests against the plain network."""

import numpy as np
import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.statistics import CHANGES, COMPARED, by_materials, compare, mean_ratio, with_holm, without_rounding
from matpretrain.tables import ALL, markdown_table, printed

PAPER = ("paper_t", "paper_p", "suspect")
COLUMNS = ("dataset", "model", "scratch", "n_datasets", "n_units", "wins", *CHANGES, "paper_change", *COMPARED)


def tabulate(scores, pretrained, tests, means, materials):
    """One row per dataset and pretrained network, and one per network for ALL datasets; negative: pretraining helps.

    Args:
        scores: scores of all models.
        pretrained: {network: the network of the same encoder without pretraining, or None}.
        tests: what the paper printed, data frame dataset, model, paper_t, paper_p, suspect.
        means: its MAEs, data frame dataset, model, paper_mean.
        materials: {dataset: name of its materials}.
    """
    printed = means.set_index(["dataset", "model"])["paper_mean"].dropna()
    rows = []
    for dataset, part in scores.groupby("dataset", sort=False):
        present = set(part["model"])
        for model, scratch in pretrained.items():
            if {model, scratch} <= present:
                found = compare(part, model, scratch)
                share = 100 / found["mae_b"]
                changes = [share * found[key] for key in ("difference", "difference_low", "difference_high")]
                pretrained_mae, scratch_mae = (printed.get((dataset, m), np.nan) for m in (model, scratch))
                rows.append({"dataset": dataset, "model": model, "scratch": scratch, **found})
                rows[-1] |= dict(zip(CHANGES, changes, strict=True))
                rows[-1]["paper_change"] = 100 * (pretrained_mae / scratch_mae - 1)
    table = with_holm(pd.DataFrame(rows, columns=COLUMNS)).merge(tests, on=["dataset", "model"], how="left")
    together = [over_datasets(part, materials) for _, part in table.groupby("model", sort=False) if len(part) > 1]
    table = pd.DataFrame(table.to_dict("records") + together, columns=table.columns)
    whole = dict.fromkeys(("n_datasets", "n_units", "wins", "n_folds"), "Int64")
    return table.astype(whole).rename(columns={"mae_a": "mae", "mae_b": "mae_scratch"})


def over_datasets(part, materials):
    """The row of a network's mean change over datasets: log ratios of the MAEs, averaged over datasets of the same materials first,
    which are the units of its test and interval.

    Args:
        part: data frame dataset, model, scratch, mae_a, mae_b (pretrained and not) and paper_change in %, a row per dataset.
        materials: {dataset: name of its materials}.
    """
    part = part.set_index("dataset")
    ratios = np.log(part["mae_a"] / part["mae_b"])
    of_units = by_materials(ratios, materials)
    paper = by_materials(np.log1p(part["paper_change"] / 100), materials)
    row = {
        "dataset": ALL,
        "n_datasets": len(part),
        "n_units": len(of_units),
        "wins": (without_rounding(ratios, 1) < 0).sum(),
        "paper_change": 100 * np.expm1(paper.mean()),
    }
    return row | part.iloc[0][["model", "scratch"]].to_dict() | mean_ratio(of_units, 0.0)


def markdown(table, labels, materials):
    """The table for readers.

    Args:
        table: what `tabulate` returned.
        labels: {dataset or model: name}.
        materials: {dataset: name of its materials}.
    """
    headings = ["dataset", "model", "change of MAE", "95 % interval", "change, paper"]
    headings += ["t", "p", "p corrected", "p corrected, Holm", "t, paper", "p, paper"]
    rows = []
    for row in table.itertuples():
        everywhere = row.dataset == ALL
        cells = [f"all {row.n_datasets} ({row.wins} better)" if everywhere else labels.get(row.dataset, row.dataset)]
        cells += [
            labels[row.model],
            text("{:+z.1f} %", row.change),
            text("{:+z.1f} to {:+z.1f} %", row.change_low, row.change_high),
        ]
        cells += [text("{:+z.1f} %", row.paper_change), text("{:.2f}", row.t)]
        cells += [text("{:.3f}", p) for p in (row.p, row.p_corrected, row.p_corrected_holm)]
        cells += [text("{:.3g} (!)" if isinstance(row.suspect, str) else "{:.3g}", row.paper_t), text("{:.3g}", row.paper_p)]
        rows.append(cells)
    notes = [
        "Change of the MAE against the network without pretraining, paired over the outer folds; negative: pretraining helps.",
        "Interval and corrected p: Nadeau and Bengio's, for overlapping training sets. Holm: adjusted over all datasets and models.",
    ]
    if ALL in set(table["dataset"]):
        units = {}
        for dataset in dict.fromkeys(table["dataset"]):
            units.setdefault(materials.get(dataset), []).append(labels.get(dataset, dataset))
        same = [" and ".join(unit) for unit in units.values() if len(unit) > 1]
        notes.append("All: the geometric mean over datasets, the units of its test and interval.")
        notes[-1] += f" Those of the same materials are one unit, their mean: {'; '.join(same)}." if same else ""
    suspect = [row for row in table.itertuples() if isinstance(row.suspect, str)]
    notes += [f"(!) {labels.get(row.dataset, row.dataset)}, {labels[row.model]}: {row.suspect}." for row in suspect]
    return markdown_table(headings, rows, notes)


def text(form, *values):
    """Numbers in a cell; nothing where one is missing."""
    return "" if any(map(pd.isna, values)) else form.format(*values)


if __name__ == "__main__":
    with job(snakemake):
        p, files = snakemake.params, snakemake.input
        tests = printed(files.tests, p.official)[["dataset", "model", *PAPER]]
        means = printed(files.means, p.official)
        table = tabulate(read_csv(files.scores), p.pretrained, tests, means, p.materials)
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, p.labels, p.materials), snakemake.output.md)
