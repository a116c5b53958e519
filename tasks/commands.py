"""The project verbs of `quee`, by name: where each is, and its line in `quee --help`. Imports nothing until one runs."""

COMMANDS = {
    "run": ("tasks.cli:run", "Bring experiments up to date, stage by stage; what is unchanged is skipped."),
    "plan": ("tasks.cli:plan", "Show what a run would do, and why."),
    "experiments": ("tasks.cli:experiments", "List, show or add experiments."),
    "doctor": ("tasks.cli:doctor", "Check this checkout and put right what killed runs left."),
    "ablate": ("tasks.ablate_cli:ablate", "Vary one thing at a time and show what each is worth."),
    "track": ("tasks.tracking_cli:track", "Make MLflow hold every result exactly once."),
    "results": ("tasks.tracking_cli:results", "Show what experiments achieved, per method and budget."),
    "compare": ("tasks.tracking_cli:compare", "Show how two results differ in settings and metrics."),
    "lineage": ("tasks.lineage_cli:lineage", "Show what made a result: commit, inputs, settings, machine."),
    "reproduce": ("tasks.lineage_cli:reproduce", "Make a tracked result again and compare the digests."),
    "gc": ("tasks.housekeeping_cli:gc", "Say what no result needs any more, and remove it when told to."),
    "shift": ("tasks.shift:shift", "Measure a bundle under corruptions and class imbalance."),
    "ui": ("tasks.tracking_cli:ui", "Open MLflow's pages on this machine."),
    "data": ("tasks.data_cli:data_app", "Add, list or check data sets."),
    "weights": ("tasks.data_cli:weights_app", "Add or list weights of pretrained backbones."),
}

LONG = ("run", "ablate", "reproduce", "ui")
"""Verbs that start processes and run long: SIGTERM ends them in order, and the end of `make` ends them too."""


def before(verb: str) -> None:
    """Called before a verb runs; raises UsageError outside of a project's folder."""
    from tasks.lifeline import die_with_make, end_in_order
    from tasks.place import project_root

    project_root()
    if verb in LONG:
        die_with_make()
        end_in_order()
