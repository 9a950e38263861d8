"""xtalrl: crystals with a wanted band gap, designed by offline reinforcement learning on DFT data.

    snakemake --profile profiles/slurm all

`config/config.yaml` holds every choice that changes a result, `profiles/` every choice about the machine.
"""

from snakemake.utils import min_version

min_version("9.27")


report: "workflow/report/workflow.rst"


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
include: "rules/off_policy.smk"
include: "rules/evaluate.smk"
include: "rules/confirm.smk"
include: "rules/campaign.smk"
include: "rules/tables.smk"
include: "rules/figures.smk"
include: "rules/learning_curve.smk"
include: "rules/report.smk"


TABLE_FILES = [table_files(kind) for kind in ("csv", "md", "tex", "txt")]
FIGURE_FILES = [figure_files(kind) for kind in ("png", "pdf", "csv")]
of_campaign = settled(f"{RESULTS}/campaign/hits.csv", campaign_tables_and_figures())
of_report = settled(TABLE_FILES, FIGURE_FILES, rules.make_report.output)


rule all:
    default_target: True
    input:
        settled(f"{RESULTS}/report.html"),
    localrule: True


rule structures:
    input:
        settled(
            f"{RESULTS}/structures/crystals.parquet",
            f"{RESULTS}/structures/graphs.parquet",
        ),
    localrule: True


rule scf:
    input:
        settled(f"{RESULTS}/scf/outcomes.parquet"),
    localrule: True


rule references:
    input:
        settled(f"{RESULTS}/references.parquet"),
    localrule: True


rule labels:
    input:
        settled(f"{RESULTS}/labels.parquet"),
    localrule: True


rule trajectories:
    input:
        settled(f"{RESULTS}/trajectories.parquet"),
    localrule: True


rule train:
    input:
        settled(trained_runs(f"{RESULTS}/policies/{{policy}}/seed{{seed}}/policy.json")),
    localrule: True


rule rollout:
    input:
        settled(
            f"{RESULTS}/designs/assessments.parquet",
            rules.make_table1_composition.output,
            rules.make_predicted_range.output if POLICIES else [],
        ),
    localrule: True


rule evaluate:
    input:
        settled(f"{RESULTS}/evaluation/evaluation.parquet"),
    localrule: True


rule confirm:
    input:
        settled(
            f"{RESULTS}/confirmation/confirmation.parquet",
            rules.make_confirmation.output,
        ),
    localrule: True


rule campaign:
    input:
        campaign_results,
    localrule: True


rule tables:
    input:
        settled(TABLE_FILES),
    localrule: True


rule figures:
    input:
        settled(FIGURE_FILES),
    localrule: True


rule report:
    input:
        of_report,
    localrule: True


rule sweep:
    input:
        sweep_results,
    localrule: True
