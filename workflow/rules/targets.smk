"""Targets that no rule makes end the call before anything is planned. No rules."""

from matpretrain.targets import unmade


def is_made(target):
    """Whether a target is a rule, a file that is there, or one that a rule makes."""
    return (
        workflow.is_rule(target)
        or Path(target).exists()
        or any(rule.is_producer(target) for rule in workflow.rules)
    )


for target in asked():
    target = target if os.path.isabs(target) else os.path.relpath(target)
    if not is_made(target):
        refuse(
            unmade(
                target,
                [rule.name for rule in workflow.rules if not rule.has_wildcards()],
                [str(file) for rule in workflow.rules for file in rule.output],
                config,
            )
        )
