"""What is below a table that comes out byte for byte the same is not made again.

Snakemake plans whatever is below a job that runs, before it can know what the job will write. So the targets first ask for the tables on
the way to their files that are there already (their rules are checkpoints), from the first to the last; only what depends on a table of
another content, or with parameters of its own that changed, comes into the plan. In a folder without results nothing can be saved, and
the whole plan is known at once.
"""

import os

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.io import IOFile

from xtalrl.provenance import differences, refuse_unknown, write_record


def makers_above(path, known):
    """What makes the checkpoint tables that a file is made from, directly or not, itself included: rule and wildcards by path."""
    if path not in known:
        known[path] = {}
        maker = next((r for r in workflow.rules if r.is_producer(path)), None)
        if maker is not None:
            wildcards = maker.get_wildcards(path)
            for file in maker.expand_input(wildcards)[0]:
                known[path] |= makers_above(str(file), known)
            if maker.is_checkpoint:
                known[path] |= {path: (maker.name, wildcards)}
    return known[path]


def without_record(paths):
    """The results among files that are there without Snakemake's record of how they were made, as those copied from elsewhere are."""
    return [
        path
        for path in paths
        if path.startswith(f"{RESULTS}/")
        and os.path.exists(path)
        and workflow.persistence.metadata(IOFile(path)) is None
    ]


def settled(*files):
    """Input function of a target: its files, once the tables on the way to them are as the configuration wants them."""
    wanted = list(collect(files))
    known = {}

    def files_of_target(wildcards):
        nothing_to_save = not os.path.exists(f"{RESULTS}/structures/crystals.parquet")
        if nothing_to_save or workflow.dag_settings.forceall:
            return wanted
        tables = {}
        for path in wanted:
            tables |= makers_above(path, known)
        try:
            refuse_unknown(cfg, without_record([*tables, *wanted]))
        except XtalrlError as error:
            raise WorkflowError(str(error)) from None
        open_tables = {}
        for path, (name, its_wildcards) in tables.items():
            if os.path.exists(path) and path not in wanted:
                try:
                    getattr(checkpoints, name).get(**its_wildcards)
                except IncompleteCheckpointException as error:
                    # Those below another one come in a later round: Snakemake keeps a job that is planned once.
                    if open_tables.keys().isdisjoint(known[path]):
                        open_tables[path] = error.targetfile
        return list(open_tables.values()) or wanted

    return files_of_target


def collect(files):
    """The paths in a nested list."""
    for file in files:
        if isinstance(file, str):
            yield str(file)
        else:
            yield from collect(file)


def tables_of_run():
    """The checkpoint tables of the run; up to the trajectories where the rest would be refused, so that none of it can be there."""
    try:
        return makers_above(f"{RESULTS}/report.html", {})
    except WorkflowError:
        return makers_above(f"{RESULTS}/trajectories.parquet", {})


onstart:
    # Results that were made with another configuration keep their record, where a file was asked for that does not depend on them.
    if not (without_record(tables_of_run()) and differences(cfg)):
        write_record(cfg)
    # Imported only now: a dry run does without.
    from xtalrl.live import show_running_jobs

    show_running_jobs()
