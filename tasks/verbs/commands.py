"""The project verbs of `quee` by name, each with its place and its line in `quee --help`. Verbs are imported when run."""

COMMANDS = {
    "init": ("tasks.verbs.init:init", "Make a project in a folder, outside of a clone of quee."),
    "start": ("tasks.verbs.start:start", "From your images and your network to an experiment that is ready to run."),
    "run": ("tasks.verbs.run:run", "Bring experiments up to date, stage by stage; what is unchanged is skipped."),
    "plan": ("tasks.verbs.run:plan", "Show what a run would do, and why."),
    "experiments": ("tasks.verbs.run:experiments", "List, show or add experiments."),
    "doctor": ("tasks.verbs.run:doctor", "Check this checkout and put right what killed runs left."),
    "ablate": ("tasks.verbs.ablate:ablate", "Vary one thing at a time and show what each is worth."),
    "track": ("tasks.verbs.tracking:track", "Make MLflow hold every result exactly once."),
    "results": ("tasks.verbs.tracking:results", "Show what experiments achieved, per method and budget."),
    "compare": ("tasks.verbs.tracking:compare", "Show how two results differ in settings and metrics."),
    "lineage": ("tasks.verbs.lineage:lineage", "Show what made a result: commit, inputs, settings, machine."),
    "reproduce": ("tasks.verbs.reproduction:reproduce", "Make a tracked result again and compare the digests."),
    "gc": ("tasks.verbs.waste:gc", "Say what no result needs any more, and remove it when told to."),
    "shift": ("tasks.shift:shift", "Measure a bundle under corruptions and class imbalance."),
    "ui": ("tasks.verbs.tracking:ui", "Open MLflow's pages on this machine."),
    "data": ("tasks.verbs.data:data_app", "Add, list or check data sets."),
    "weights": ("tasks.verbs.data:weights_app", "Add, list or check weights of pretrained backbones."),
}

LONG = ("start", "run", "ablate", "reproduce", "ui")
"""Verbs that start processes and run long: SIGTERM ends them in order, and they end with `make`."""

ANYWHERE = ("init", "start")
"""Verbs that make the project themselves."""


def before(verb: str) -> None:
    """Called before a verb runs; raises UsageError outside of a project's folder."""
    if verb not in ANYWHERE:
        from tasks.work.place import project_root

        project_root()
    if verb in LONG:
        from tasks.work.lifeline import die_with_make, end_in_order

        die_with_make()
        end_in_order()
