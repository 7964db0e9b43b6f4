"""Tables for readers."""

from matpretrain.files import read_csv

ALL = "all"  # in place of a dataset: all of them together
ENSEMBLE = "-ensemble"  # ends the name of a network's ensemble in tables


def printed(path, datasets, **options):
    """Rows of a file of others' numbers (column dataset) for datasets with their rows and folds; empty for none."""
    table = read_csv(path, **options)
    return table[table["dataset"].isin(datasets)]


def markdown_table(headings, rows, notes=()):
    """Markdown of a table, one text or number per heading in every row, and of notes below it."""
    lines = [" | ".join(str(cell).replace("|", "\\|") for cell in row) for row in (headings, *rows)]
    lines = [f"| {line} |" for line in lines]
    lines.insert(1, "|---" * len(headings) + "|")
    return "\n".join(lines) + "\n" + "".join(["\n", *(f"* {note}\n" for note in notes)] if notes else [])
