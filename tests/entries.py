"""Changes of the configuration that add one entry, named mine, to a registry."""

SSL = {"encoder": "roost", "corpus": "mp_transport", "tasks": {"barlow_twins": {}}}


def model(**entry):
    return {"models": {"mine": {"label": "Mine"} | entry}}


def strategy(**entry):
    return {"pretraining": {"mine": SSL | entry}}
