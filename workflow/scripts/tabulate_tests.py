"""Table 4 of Huang, Magar and Barati Farimani (2024): paired tests of pretrained networks against the plain one."""

import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.statistics import COMPARED, compare, with_holm
from matpretrain.tables import markdown_table

PAPER = ("paper_t", "paper_p", "suspect")


def tabulate(scores, pretrained, paper):
    """One row per dataset and pretrained network; negative differences and t mean that pretraining helps.

    Args:
        scores: scores of all models.
        pretrained: {network: the network of the same encoder without pretraining, or None}.
        paper: data frame dataset, model, paper_t, paper_p, suspect.
    """
    rows = []
    for dataset, part in scores.groupby("dataset", sort=False):
        present = set(part["model"])
        for model, scratch in pretrained.items():
            if {model, scratch} <= present:
                tests = compare(part, model, scratch)
                rows.append({"dataset": dataset, "model": model, "scratch": scratch, **tests})
    table = pd.DataFrame(rows, columns=["dataset", "model", "scratch", *COMPARED])
    table = table.rename(columns={"mae_a": "mae", "mae_b": "mae_scratch"})
    return with_holm(table).merge(paper, on=["dataset", "model"], how="left")


def markdown(table, labels):
    """The table for readers."""
    headings = ["dataset", "model", "change of MAE", "t", "p", "p corrected", "p corrected, Holm", "t, paper", "p, paper"]
    rows = []
    for row in table.itertuples():
        paper = [f"{v:.3g}" if pd.notna(v) else "" for v in (row.paper_t, row.paper_p)]
        if isinstance(row.suspect, str):
            paper[0] += " (!)"
        tests = [f"{row.t:.2f}", *(f"{p:.3f}" for p in (row.p, row.p_corrected, row.p_corrected_holm))]
        change = f"{row.difference / row.mae_scratch:+.1%}"
        rows.append([labels.get(row.dataset, row.dataset), labels[row.model], change, *tests, *paper])
    notes = [
        "Paired t tests over the outer folds against the network without pretraining; negative: pretraining helps.",
        "Corrected: Nadeau and Bengio's test for overlapping training sets. Holm: adjusted over all rows.",
    ]
    notes += [
        f"(!) {labels.get(r.dataset, r.dataset)}, {labels[r.model]}: {r.suspect}."
        for r in table.itertuples()
        if isinstance(r.suspect, str)
    ]
    return markdown_table(headings, rows, notes)


if __name__ == "__main__":
    with job(snakemake):
        paper = read_csv(snakemake.input.paper)[["dataset", "model", *PAPER]]
        table = tabulate(read_csv(snakemake.input.scores), snakemake.params.pretrained, paper)
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, snakemake.params.labels), snakemake.output.md)
