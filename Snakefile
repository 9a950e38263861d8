"""xtalrl: crystals with a wanted band gap, designed by offline reinforcement learning on DFT data.

    snakemake --profile profiles/slurm all

`config/config.yaml` holds every choice that changes a result, `profiles/` every choice about the machine.
"""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"
include: "rules/slurm.smk"
include: "rules/unchanged.smk"
include: "rules/materials_project.smk"
include: "rules/structures.smk"
include: "rules/scf.smk"
include: "rules/labels.smk"
include: "rules/trajectories.smk"
include: "rules/train.smk"
include: "rules/external.smk"
include: "rules/rollout.smk"
include: "rules/evaluate.smk"
include: "rules/confirm.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/learning_curve.smk"
include: "rules/report.smk"


TABLE_FILES = [table_files(kind) for kind in ("csv", "md", "tex")]
FIGURE_FILES = [figure_files(kind) for kind in ("png", "pdf", "csv")]
of_report = settled(TABLE_FILES, FIGURE_FILES, rules.make_report.output)


localrules:
    all,
    structures,
    scf,
    references,
    labels,
    trajectories,
    train,
    rollout,
    evaluate,
    confirm,
    tables,
    figures,
    report,
    sweep,


rule all:
    default_target: True
    input:
        settled(f"{RESULTS}/report.html"),


rule structures:
    input:
        settled(
            f"{RESULTS}/structures/crystals.parquet",
            f"{RESULTS}/structures/graphs.parquet",
        ),


rule scf:
    input:
        settled(f"{RESULTS}/scf/outcomes.parquet"),


rule references:
    input:
        settled(f"{RESULTS}/references.parquet"),


rule labels:
    input:
        settled(f"{RESULTS}/labels.parquet"),


rule trajectories:
    input:
        settled(f"{RESULTS}/trajectories.parquet"),


rule train:
    input:
        settled(trained_runs(f"{RESULTS}/policies/{{policy}}/seed{{seed}}/policy.json")),


rule rollout:
    input:
        settled(
            f"{RESULTS}/designs/assessments.parquet",
            rules.make_table1_composition.output,
        ),


rule evaluate:
    input:
        settled(f"{RESULTS}/evaluation/evaluation.parquet"),


rule confirm:
    input:
        settled(
            f"{RESULTS}/confirmation/confirmation.parquet",
            rules.make_confirmation.output,
        ),


rule tables:
    input:
        settled(TABLE_FILES),


rule figures:
    input:
        settled(FIGURE_FILES),


rule report:
    input:
        of_report,


rule sweep:
    input:
        sweep_results,
