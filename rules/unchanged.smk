"""Nothing is made again that depends only on tables whose content has not changed.

When a job runs, Snakemake plans everything that depends on its output, before it can know what the job will write. The targets therefore first
ask for the existing tables from which their files are made (the rules of these tables are checkpoints), from the first to the last. The plan
then contains only jobs that depend on a table whose content has changed, or whose own parameters have changed. In a folder without results
there is nothing to save, and the whole plan is known at once.
"""

import os

from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.io import IOFile

from xtalrl.provenance import differences, refuse_unknown, write_record


def makers_above(path, known):
    """Rule and wildcards, by path, of the checkpoint tables that a file is made from, directly or indirectly; the file itself is included."""
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
    """The files that are existing results without Snakemake's record of how they were made, such as results copied from elsewhere."""
    return [
        path
        for path in paths
        if path.startswith(f"{RESULTS}/")
        and os.path.exists(path)
        and workflow.persistence.metadata(IOFile(path)) is None
    ]


def settled(*files):
    """Input function of a target: its files, once the tables that they are made from are up to date with the configuration."""
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
                    # Tables that depend on another outdated one come in a later round, because Snakemake never drops a planned job.
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
    """The checkpoint tables of the run; only those up to the trajectories if later ones would be refused, since none of these can exist."""
    try:
        return makers_above(f"{RESULTS}/report.html", {})
    except WorkflowError:
        return makers_above(f"{RESULTS}/trajectories.parquet", {})


onstart:
    # If results were made with another configuration and the target does not depend on them, they keep their record.
    if not (without_record(tables_of_run()) and differences(cfg)):
        write_record(cfg)
    # Imported here because a dry run does not need it.
    from xtalrl.live import show_running_jobs

    show_running_jobs()
