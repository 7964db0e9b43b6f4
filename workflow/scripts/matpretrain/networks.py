"""Entries of the registry of models: what the modules of networks and baselines take, and what networks start from."""

import itertools

from matpretrain.files import refuse
from matpretrain.provenance import defines, parameters, reads

GIVEN = ("element_vectors", "n_outputs")  # arguments of a network that the scripts give
ELEMENTS = "matscholar"  # vectors of a network or strategy that names no others
FOREIGN = {"network": ("features",), "baseline": ("pretraining", "initial", "elements")}  # settings of the other kind


def strategies(entry):
    """Names of the strategies whose encoders a network starts from, seed after seed and round; none from scratch."""
    named = entry.get("pretraining", [])
    return [named] if isinstance(named, str) else named


def strategy_of_seed(names, seed):
    """That of several strategies from which a seed starts: 0 from the first, 1 from the second and so on, round."""
    return names[seed % len(names)]


def elements_of(config, entry):
    """Element vectors of a strategy or a network: its own, else those of the first strategy that it starts from."""
    entries = [entry, *(config["pretraining"][name] for name in strategies(entry)[:1])]
    return next((e["elements"] for e in entries if "elements" in e), ELEMENTS)


def seed_of(config, pretraining):
    """Random seed of a strategy: its own, or that of all."""
    return config["pretraining"][pretraining].get("seed", config["pretraining_seed"])


def all_arguments(entry, role):
    """Arguments of a network or strategy with the defaults of its "Model" or "Encoder" for those that it does not name."""
    defaults = parameters(entry["encoder"], role) or {}
    return {name: value for name, value in defaults.items() if name not in GIVEN} | entry.get("arguments", {})


def made_of(config, entry, role):
    """What the "Model" of a network or the "Encoder" of a strategy is made from; two with the same have the same parameters."""
    return {"encoder": entry["encoder"], "elements": elements_of(config, entry), "arguments": all_arguments(entry, role)}


def first_alike(config, names, pretraining):
    """The first of some strategies that pretrains the same network as one of them: they have the same untrained encoders."""
    encoders = {name: made_of(config, config["pretraining"][name], "Encoder") for name in names}
    return next(name for name in names if encoders[name] == encoders[pretraining])


def check_models(config):
    """Compare models with their modules, and networks with what they start from.

    Raises:
        DataError: naming the first offending key.
    """
    for name, entry in config["models"].items():
        key, kind = f"models.{name}", "network" if "encoder" in entry else "baseline"
        for setting in FOREIGN[kind]:
            if setting in entry:
                refuse(f"{key}.{setting}", f"a {kind} has none; remove it")
        if kind == "baseline":
            _check_baseline(key, entry)
            continue
        try:
            parameters(entry["encoder"], "Inputs")
            check_arguments(key, entry, "Model")
        except KeyError as error:
            refuse(
                f"{key}.encoder", f"{entry['encoder']} is no network: its module has no {error.args[0]}; name another or add it"
            )
        if names := strategies(entry):
            _check_encoders(key, entry, names, config)
        if "initial" in entry:
            other, encoder = config["models"][entry["initial"]], entry["encoder"]
            if other.get("encoder") != encoder:
                refuse(
                    f"{key}.initial",
                    f"{entry['initial']} is no {encoder}, whose weights it could start from; name one or remove it",
                )
            if not defines(encoder, "Model", "adopt"):
                refuse(f"{key}.initial", f"Model of {encoder} cannot take weights over, it has no adopt(); remove it")
            _check_start(key, entry, elements_of(config, entry), f"models.{entry['initial']}", other, "Model")


def check_arguments(key, entry, role):
    """Compare arguments and element vectors with what a network's class, Model or Encoder of its module, is made from.

    Raises:
        DataError: naming the first that it does not take.
        KeyError: the module has no such class.
    """
    known = parameters(entry["encoder"], role)
    if known is not None:
        _check_names(key, entry, entry["encoder"], [argument for argument in known if argument not in GIVEN])
    if "elements" in entry and "elements" not in reads(entry):
        refuse(f"{key}.elements", f"{entry['encoder']} takes no element vectors; remove it")


def _check_names(key, entry, owner, own):
    """Arguments of an entry are among its owner's own, which the scripts do not give."""
    for argument in entry.get("arguments", {}):
        if argument not in own:
            words = f"it has {', '.join(own)}" if own else "it has none"
            refuse(f"{key}.arguments.{argument}", f"{owner} has no such argument, {words}; remove it")


def _check_baseline(key, entry):
    """The function that makes a baseline, and its arguments."""
    estimator = entry["estimator"]
    try:
        known = parameters("estimators", estimator)
    except KeyError:
        refuse(f"{key}.estimator", f"matpretrain/estimators.py has no function {estimator}; name another or write it")
    if known is not None:
        _check_names(key, entry, estimator, [argument for argument in known if argument != "seed"])


def _check_encoders(key, entry, names, config):
    """The encoders of a network are encoders of it, alike but for what they learned."""
    encoders = {name: config["pretraining"][name] | {"seed": seed_of(config, name)} for name in names}
    for name, encoder in encoders.items():
        if encoder["encoder"] != entry["encoder"]:
            refuse(f"{key}.pretraining", f"{name} pretrains {encoder['encoder']}, not {entry['encoder']}; name another")
    _check_start(key, entry, elements_of(config, entry), f"pretraining.{names[0]}", encoders[names[0]], "Encoder")
    for (one, first), (other, second) in itertools.combinations(encoders.items(), 2):
        made = [made_of(config, encoder, "Encoder") for encoder in (first, second)]
        for setting, value in made[0].items():
            if value != made[1][setting]:
                refuse(f"{key}.pretraining", f"{one} and {other} have other {setting}; name strategies that have the same")
        if first == second:
            refuse(f"{key}.pretraining", f"{other} is {one} again; give it a seed of its own")


def _check_start(key, entry, elements, other_key, other, role):
    """A network with some element vectors and what it starts from have the same arguments and vectors."""
    mine, theirs = all_arguments(entry, "Model"), all_arguments(other, role)
    pairs = [("elements", elements, other.get("elements", ELEMENTS))]
    pairs += [(f"arguments.{name}", mine[name], theirs[name]) for name in mine if name in theirs and name != "mode"]
    for name, given, start in pairs:
        if given != start:
            refuse(f"{key}.{name}", f"{given}, but {start} in {other_key}, from whose weights it starts; give both the same")
