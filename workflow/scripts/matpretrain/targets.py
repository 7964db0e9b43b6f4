"""Why no rule makes a target, in one line: the part of its path that is not known, and the nearest names that are."""

import re

from matpretrain.registries import nearest, unregistered

KINDS = {
    "dataset": ["datasets"],
    "model": ["models"],
    "pretraining": ["pretraining"],
    "corpus": ["corpora"],
    "table": ["datasets", "corpora"],
    "prediction": ["predict"],
    "study": ["subsets"],
}  # wildcard: registries that its values come from
NOT_NAMES = {"subset": "no size of a subset; write @500 for rows or @20pct for a share", "seed": "no seed; write a number"}
WILDCARD = re.compile(r"\{(\w+)(?:,([^{}]*))?\}")


def unmade(target, named, patterns, config):
    """The line on a target that no rule makes.

    Args:
        named: rules that can be targets.
        patterns: outputs of all rules, where a wildcard's name is followed by its constraint.
        config: the configuration with its registries.
    """
    if "/" not in target:
        return f"target {target}: no file or named target; the nearest of these are {nearest(target, named)}"
    found = [misfits for pattern in patterns if (misfits := _misfits(target, pattern))]
    if not found:
        files = dict.fromkeys(WILDCARD.sub(r"{\1}", pattern) for pattern in patterns)
        return f"target {target}: no rule makes such a file; the nearest are {nearest(target, files)}"
    fewest = [misfits for misfits in found if len(misfits) == min(map(len, found))]
    value = next(iter(fewest[0].values()))[0]
    same = [(name, fitting) for misfits in fewest for name, (other, fitting) in misfits.items() if other == value]
    names, fitting = {name for name, _ in same}, dict.fromkeys(other for _, several in same for other in several)
    return f"target {target}: {_reason(value, sorted(names), fitting, config)}"


def _misfits(target, pattern):
    """{wildcard: (its value, [names that fit])} of the parts of a target that miss their constraints; None for another form."""
    form, end = "", 0
    for wildcard in WILDCARD.finditer(pattern):
        value = "@[^/]*|" if wildcard[1] == "subset" else "[^/@]+"
        form, end = form + re.escape(pattern[end : wildcard.start()]) + f"(?P<{wildcard[1]}>{value})", wildcard.end()
    match = re.fullmatch(form + re.escape(pattern[end:]), target)
    return match and {
        name: (match[name], [re.sub(r"\\(.)", r"\1", other) for other in constraint.split("|") if other != "(?!)"])
        for name, constraint in WILDCARD.findall(pattern)
        if not re.fullmatch(constraint or ".+", match[name])
    }


def _reason(value, names, fitting, config):
    """What is wrong with the value of wildcards, of which these others fit."""
    if names[0] in NOT_NAMES:
        return f"{value!r} is {NOT_NAMES[names[0]]}"
    kinds = list(dict.fromkeys(kind for name in names for kind in KINDS.get(name, [])))
    if kinds and not any(value in config[kind] for kind in kinds):
        return unregistered(value, kinds, config)
    return f"there is no such file for {value}" + (f", but for {nearest(value, fitting)}" if fitting else "")
